"""Processes that cannot be mistaken for another of the same number: pid, start time and boot."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Process:
    """A process; `start` is in the kernel's ticks since the boot `boot`."""

    pid: int
    start: int
    boot: str


@cache
def boot_id() -> str:
    """The machine's present boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def identify(pid: int) -> Process | None:
    """The process that has this number now; None when there is none, or it is dead already.

    Source: proc(5); the second field may hold anything, so fields are counted from the last parenthesis.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else Process(pid, int(fields[19]), boot_id())


def is_alive(process: Process | None) -> bool:
    """Whether this very process still runs."""
    return process is not None and process.boot == boot_id() and identify(process.pid) == process


def wait(process: Process, seconds: float | None = None) -> bool:
    """Wait until a process, which need not be our child, has ended; False when the time was over before."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(process):
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, int(seconds * 1000))))
    finally:
        os.close(fd)


def kill(process: Process | None, number: int = signal.SIGKILL) -> None:
    """Send a signal to this very process; one that has ended is fine."""
    if process is None or process.boot != boot_id():
        return
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(process.pid)
        try:
            if is_alive(process):
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def started_ago(process: Process) -> float:
    """Seconds since it started."""
    with open("/proc/uptime") as file:
        up = float(file.read().split()[0])
    return max(0.0, up - process.start / os.sysconf("SC_CLK_TCK"))


def now_ns() -> int:
    """The time, in nanoseconds since the epoch."""
    return time.time_ns()
