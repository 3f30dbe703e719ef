"""A container in the foreground: its output here, our keys and signals there, and its exit status as ours."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from registry.client.runtime import ending, lifecycle, processes, records, relay
from registry.client.runtime.errors import ContainerConflict, ContainerError, ContainerUnknown
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Container
from registry.client.runtime.relay import Streams
from registry.client.runtime.spec import Spec

_FORWARDED = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT",
)  # fmt: skip


def streams_for(spec: Spec, stdin: bool, detach_keys: str | None) -> Streams:
    """Which of our descriptors are joined to the container's."""
    wanted = spec.attach or ("stdin", "stdout", "stderr")
    return Streams(
        0 if stdin and spec.open_stdin and "stdin" in wanted else None,
        1 if "stdout" in wanted else None,
        2 if "stderr" in wanted else None,
        relay.keys(relay.DETACH_KEYS if detach_keys is None else detach_keys) if spec.tty else b"",
    )


def check_terminal(spec: Spec) -> None:
    """Refuse `-t` with an input that is no terminal, as docker does."""
    if spec.tty and spec.open_stdin and not os.isatty(0):
        raise ContainerConflict("the input device is not a TTY")


def carry(
    machine: Machine, container: Container, connection: socket.socket, streams: Streams, proxy: bool
) -> bool:
    """Stay with a running container to its end (True), or until the person detaches (False)."""
    bundle = machine.place.bundle(container.id)
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        if container.spec.tty and os.isatty(1 if streams.stdin is None else 0):
            terminal = 1 if streams.stdin is None else 0
            relay.resize(bundle, terminal)
            stack.enter_context(_on("SIGWINCH", lambda *_: relay.resize(bundle, terminal)))
            if streams.stdin is not None:
                stack.enter_context(relay.raw(0))
        elif proxy:
            stack.enter_context(_forwarding(machine, container.id))
        return relay.relay(connection, streams)


@contextlib.contextmanager
def _on(name: str, handler: object) -> Iterator[None]:
    number = getattr(signal, name)
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _forwarding(machine: Machine, identity: str) -> Iterator[None]:
    """Hand signals on to the container, which decides about them."""

    def forward(number: int, _: FrameType | None) -> None:
        found = records.get(machine.db, identity)
        if found is not None:
            with contextlib.suppress(ContainerError, ContainerConflict):
                ending.signal_to(machine, found, number)

    with contextlib.ExitStack() as stack:
        for name in _FORWARDED:
            stack.enter_context(_on(name, forward))
        yield


def join(bundle: Path) -> socket.socket:
    """Attach; for `lifecycle.start`."""
    return relay.connect(bundle)


def end(machine: Machine, container: Container) -> int:
    """Wait for a container's end, write it down, and return its exit code."""
    if container.process is not None:
        processes.wait(container.process)
    found = records.get(machine.db, container.id)
    code = None
    if found is not None and found.round == container.round:
        found = ending.settle(machine, found)
        code = found.exit_code if found is not None and found.round == container.round else None
    if code is None:  # somebody else tidied up, perhaps removed it
        code = ending.exit_code(machine, container.id)
    if container.spec.auto_remove:
        current = records.get(machine.db, container.id)
        if current is not None:
            with contextlib.suppress(ContainerConflict, ContainerUnknown):
                lifecycle.remove(machine, current, with_volumes=True)
        (machine.place.exits() / container.id).unlink(missing_ok=True)
    return 255 if code is None else code


def fail(error: object) -> None:
    """Say why a container could not be run."""
    print(f"hythe: {error}", file=sys.stderr)
