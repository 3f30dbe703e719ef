"""One more process in a running container, by the engine, which joins its namespaces."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.client.images.unpack import rights
from registry.client.runtime import bundle as bundles
from registry.client.runtime import engine as engines
from registry.client.runtime import processes, rootfs, rootless, telling, users
from registry.client.runtime.bundle import Facts
from registry.client.runtime.engine import Engine
from registry.client.runtime.errors import ContainerConflict, ContainerError
from registry.client.runtime.preparing import held_capabilities
from registry.client.runtime.records import Container

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute; a user of None is the container's own."""

    words: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str | None = None
    workdir: str = ""
    tty: bool = False
    privileged: bool = False


class Refused(ContainerError):
    """The engine could not execute it, and has told the person so itself."""

    def __init__(self, error: ContainerError) -> None:
        super().__init__(str(error))
        self.status = error.status


def describe(container: Container, command: Command, root: int) -> dict[str, Any]:
    """The engine's description of the process; *root* is the container's open root directory."""
    spec = dataclasses.replace(
        container.spec,
        entrypoint=command.words,
        command=(),
        env=(*container.spec.env, *command.env),
        user=container.spec.user if command.user is None else command.user,
        tty=command.tty,
        privileged=container.spec.privileged or command.privileged,
        init=False,
    )
    passwd, group = (rootfs.read_text(root, f"etc/{name}") for name in ("passwd", "group"))
    user = users.resolve(spec.user, passwd, group, spec.groups)
    workdir = command.workdir or spec.workdir or "/"
    if not workdir.startswith("/"):
        raise ContainerError(f"the working directory '{workdir}' is invalid, it needs to be an absolute path")
    rootfs.check_workdir(root, workdir)
    facts = Facts(container.id, "", "", os.uname().machine, held_capabilities())
    process = bundles.process(spec, user, workdir, facts)
    return rootless.adapt_process(process, rights.mapped_ids()) if rights.is_mapped() else process


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the engine that is ready to be made."""

    engine: Engine
    container: str
    description: Path
    log: Path

    def words(self, *options: str) -> list[str]:
        """The command line."""
        begin = [self.engine.path, "--root", str(self.engine.root), "--log", str(self.log), "exec"]
        return [*begin, "--process", str(self.description), *options, self.container]

    def complaint(self) -> str:
        """What the engine has against it; empty when the command was executed."""
        said = self.log.read_text() if self.log.exists() else ""
        return said if "level=error" in said else ""


@contextlib.contextmanager
def prepared(machine: Machine, container: Container, command: Command) -> Iterator[Call]:
    """A command for a running container, with the files that the engine needs for it. Raises ContainerConflict."""
    assert container.process is not None
    try:
        with rootfs.opened(f"/proc/{container.process.pid}/root") as root:
            if not processes.is_alive(container.process):  # else that root may be another's
                raise FileNotFoundError
            document = describe(container, command, root)
    except FileNotFoundError:
        raise ContainerConflict(f"Container {container.id} is not running") from None
    name = machine.place.bundle(container.id) / f"exec-{secrets.token_hex(8)}"
    name.write_text(json.dumps(document))
    call = Call(machine.engine_of(container), container.id, name, name.with_suffix(".log"))
    try:
        yield call
    finally:
        name.unlink(missing_ok=True)
        call.log.unlink(missing_ok=True)


def run(machine: Machine, container: Container, command: Command, stdin: bool, detach: bool) -> int:
    """Execute a command with our own input and output, or in the background; its exit code."""
    identity = secrets.token_hex(32)
    shown = " ".join(command.words)
    for action in (f"exec_create: {shown}", f"exec_start: {shown}"):
        telling.tell(machine.db, container, action, execID=identity)
    with prepared(machine, container, command) as call:
        code = _run(call, stdin, detach)
    if not detach:
        telling.tell(machine.db, container, "exec_die", execID=identity, exitCode=code)
    return code


def _run(call: Call, stdin: bool, detach: bool) -> int:
    null = subprocess.DEVNULL
    # The keyboard's signals go to the command's terminal, or to the engine, which hands them on: not to us.
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGQUIT)]
    try:
        child = subprocess.Popen(
            call.words(*(["--detach"] if detach else [])),
            stdin=None if stdin and not detach else null,
            stdout=null if detach else None,
            stderr=null if detach else None,
            restore_signals=True,
            preexec_fn=_default_signals,
        )
        code = child.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if code != 0 and (complaint := call.complaint()):
        raise Refused(engines.failure(complaint))
    return code if code >= 0 else 128 - code


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
