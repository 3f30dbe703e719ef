"""What /proc says of a server: its processes, their memory, their open files; and what its log must not say."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PROC = Path("/proc")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and only waited for does not."""
    with contextlib.suppress(OSError):
        return _stat(pid)[0] != "Z"
    return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before them may have any character."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """*pid* and all that descend from it, those that run."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *_ = _stat(int(entry.name))
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid] if is_alive(pid) else []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def session(pid: int) -> list[int]:
    """Processes of the session that *pid* leads or led, also those whose parent is gone."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, leader, *_ = _stat(int(entry.name))
                if state != "Z" and int(leader) == pid:
                    found.append(int(entry.name))
    return found


def workers(pid: int) -> list[int]:
    """The processes of a server with several workers that serve: children that were spawned to run Python code."""
    found = []
    for child in tree(pid):
        with contextlib.suppress(OSError):
            command = (_PROC / str(child) / "cmdline").read_bytes()
            if child != pid and b"spawn_main" in command:
                found.append(child)
    return found


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(_PROC / str(pid) / "fd"))


def memory_bytes(pid: int) -> int:
    """What a process and its descendants hold in memory; pages that several share count once (PSS)."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in (_PROC / str(each) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


@contextlib.contextmanager
def peak_memory(pid: int, every_seconds: float = 0.2) -> Iterator[list[int]]:
    """Sample `memory_bytes` while the context lasts; the list has every sample, the first one from its start."""
    samples = [memory_bytes(pid)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(every_seconds):
            samples.append(memory_bytes(pid))

    sampling = threading.Thread(target=sample, daemon=True)
    sampling.start()
    try:
        yield samples
    finally:
        over.set()
        sampling.join()
        samples.append(memory_bytes(pid))


def wait_until(condition: Callable[[], object], timeout: float = 10.0, every_seconds: float = 0.02) -> bool:
    """Ask *condition* until it says yes; False when it did not in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_seconds)
    return bool(condition())


def tracebacks(log: str) -> list[str]:
    """Every line of a log that shows a fault of the program."""
    return [line for line in log.split("\n") if '"traceback"' in line or line.startswith("Traceback (")]
