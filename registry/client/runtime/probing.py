"""One question to a container's health: a command in it, in time; its exit code, and how its output begins."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from registry.client.runtime import durations, executing, processes
from registry.client.runtime import engine as engines
from registry.client.runtime.errors import ContainerConflict, ContainerError
from registry.client.runtime.records import Container

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

_OUTPUT_BYTES = 4096
_PIPE_BYTES = 1 << 16  # all that a pipe holds


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of it; -1 is the exit code of what could not be executed or took too long."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


def probe(machine: Machine, container: Container, words: tuple[str, ...], timeout_ns: int) -> Probe | None:
    """Execute *words* in a container; None when it has ended meanwhile."""
    start_ns = processes.now_ns()
    try:
        code, output = _execute(machine, container, words, timeout_ns)
    except (ContainerConflict, FileNotFoundError):
        return None
    except ContainerError as error:
        code, output = -1, str(error)
    if not processes.is_alive(container.process):
        return None
    return Probe(start_ns, processes.now_ns(), code, output)


def _execute(machine: Machine, container: Container, words: tuple[str, ...], timeout_ns: int) -> tuple[int, str]:
    deadline = time.monotonic() + timeout_ns / 1e9
    with executing.prepared(machine, container, executing.Command(words)) as call:
        pid_file = call.log.with_suffix(".pid")
        try:
            child = subprocess.Popen(
                call.words("--pid-file", str(pid_file)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert child.stdout is not None
            with child.stdout as stream:
                said, in_time = _read(child, stream, deadline)
            if not in_time:
                _end(child, pid_file)
                return -1, f"Health check exceeded timeout ({durations.shown(timeout_ns)})"
        finally:
            pid_file.unlink(missing_ok=True)
        complaint = call.complaint()
    if child.returncode and complaint:
        raise engines.failure(complaint)
    return child.returncode, said.decode("utf-8", "replace")


def _read(child: subprocess.Popen[bytes], stream: IO[bytes], deadline: float) -> tuple[bytes, bool]:
    """The beginning of what it says, until it has ended (True) or its time is over."""
    ended = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(stream, select.POLLIN)
        said = b""
        while True:
            ready = dict(poll.poll(max(0, (deadline - time.monotonic()) * 1000)))
            if stream.fileno() in ready:
                piece = os.read(stream.fileno(), _PIPE_BYTES)
                said = (said + piece)[:_OUTPUT_BYTES]
                if not piece:
                    poll.unregister(stream)
            if ended in ready:
                child.wait()
                return said, True
            if not ready or time.monotonic() > deadline:
                return said, False
    finally:
        os.close(ended)


def _end(child: subprocess.Popen[bytes], pid_file: Path) -> None:
    """Kill the command, then the engine's process that waits for it."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        processes.kill(processes.identify(int(pid_file.read_text())))
    child.kill()
    child.wait()
