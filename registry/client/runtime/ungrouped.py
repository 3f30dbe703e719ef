"""A container without a cgroup of its own, as ordinary users have them on cgroup v1: its processes, one by one.

Source: proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PARENT, _USER_TIME, _SYSTEM_TIME, _RESIDENT = 1, 11, 12, 21  # of /proc/PID/stat, after the name


def pids(first: int) -> list[int]:
    """The processes of the container that *first* is the first of: those of its pid namespace.

    Raises FileNotFoundError when it is gone. Of one in the machine's namespace, the first's descendants.
    """
    theirs = os.readlink(f"/proc/{first}/ns/pid")
    found = dict(_processes(theirs))
    if theirs != os.readlink("/proc/self/ns/pid"):
        return sorted(found)
    kept = {first}
    while more := {pid for pid, fields in found.items() if int(fields[_PARENT]) in kept} - kept:
        kept |= more
    return sorted(kept & found.keys())


def usage(first: int) -> tuple[int, int, int]:
    """Processor time in nanoseconds, resident bytes, and how many processes there are."""
    cpu_ns = resident_bytes = count = 0
    for pid in pids(first):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = _fields(pid)
            cpu_ns += (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) * _TICK_NS
            resident_bytes += int(fields[_RESIDENT]) * _PAGE_BYTES
            count += 1
    return cpu_ns, resident_bytes, count


def parent(pid: int) -> int:
    """A process's parent. Raises FileNotFoundError."""
    return int(_fields(pid)[_PARENT])


def _processes(namespace: str) -> Iterator[tuple[int, list[bytes]]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    yield int(name), _fields(int(name))


def _fields(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
