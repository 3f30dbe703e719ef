"""`hythe exec`: one more command in a running container."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import attached
from registry.cli import containers as opening
from registry.cli.flags import BOOL, LIST, TEXT, Flag, Stop, Words
from registry.client.runtime import executing, parse
from registry.client.runtime.errors import ContainerConflict, ContainerError
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import RUNNING
from registry.oci.errors import HytheError

_EXEC = Words(
    "exec", "[OPTIONS] CONTAINER COMMAND [ARG...]", "Execute a command in a running container",
    (
        Flag("detach", "d", BOOL, "Detached mode: run command in the background"),
        Flag("detach-keys", "", TEXT, ""),
        Flag("env", "e", LIST, "Set environment variables"),
        Flag("env-file", "", LIST, "Read in a file of environment variables"),
        Flag("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
        Flag("privileged", "", BOOL, "Give extended privileges to the command"),
        Flag("tty", "t", BOOL, "Allocate a pseudo-TTY"),
        Flag("user", "u", TEXT, "Username or UID (format: <name|uid>[:<group|gid>])"),
        Flag("workdir", "w", TEXT, "Working directory inside the container", ""),
    ), least=2, opaque=True,
)  # fmt: skip


def run(words: Sequence[str]) -> int:
    """Run `exec` and return its exit status: the command's own, or 126, 127."""
    try:
        options = _EXEC.read(words)
        with opening.opened() as machine:
            return _run(machine, options)
    except Stop as stop:
        return stop.status
    except executing.Refused as error:  # the engine has said why
        return error.status
    except ContainerError as error:
        attached.fail(error)
        return error.status
    except HytheError as error:
        attached.fail(error)
        return 1


def _run(machine: Machine, options: SimpleNamespace) -> int:
    name, *words = options.words
    container = machine.find(name)
    if container.state != RUNNING or container.process is None:
        raise ContainerConflict(f"Container {container.id} is not running")
    if container.paused:
        raise ContainerConflict(f"Container {name} is paused, unpause the container before exec")
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise ContainerConflict("the input device is not a TTY")
    wanted = executing.Command(
        tuple(words),
        tuple(parse.environment(options.env, options.env_file, os.environ)),
        options.user,
        options.workdir,
        options.tty,
        options.privileged,
    )
    return executing.run(machine, container, wanted, options.interactive, options.detach)
