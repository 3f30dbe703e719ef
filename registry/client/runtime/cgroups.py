"""A container's share of the machine, as the kernel counts it: cgroup v1 and v2.

Source: cgroups(7), cgroup-v2.rst; docker's `stats`, for what counts as memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from registry.client.runtime import ungrouped

_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container takes now; sums are since its start."""

    cpu_ns: int
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    read_bytes: int
    written_bytes: int
    received_bytes: int
    sent_bytes: int


def read(pid: int) -> Usage:
    """The usage of the container that this process is the first of. Raises FileNotFoundError when it is gone."""
    paths = _paths(pid)
    received, sent = _network(pid)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not has_own(pid):
        cpu_ns, used, count = ungrouped.usage(pid)
        return Usage(cpu_ns, used, whole, count, 0, 0, received, sent)
    if "memory" in paths:
        memory, cpu = paths["memory"], paths.get("cpuacct", paths["memory"])
        used = _number(memory / "memory.usage_in_bytes") - _entry(memory / "memory.stat", "total_inactive_file")
        limit = _number(memory / "memory.limit_in_bytes")
        cpu_ns = _number(cpu / "cpuacct.usage")
        reads, writes = _blkio(paths.get("blkio"))
    else:
        own = paths[""]
        used = _number(own / "memory.current") - _entry(own / "memory.stat", "inactive_file")
        limit = _number(own / "memory.max")
        cpu_ns = _entry(own / "cpu.stat", "usage_usec") * 1000
        reads, writes = _io(own)
    pids = _number(paths.get("pids", paths.get("", _ROOT)) / "pids.current")
    return Usage(
        cpu_ns, max(used, 0), limit if 0 < limit < _NO_LIMIT else whole, pids, reads, writes, received, sent
    )


def has_own(pid: int) -> bool:
    """Whether the container that this process is the first of has a cgroup of its own, not its monitor's."""
    return _paths(pid) != _paths(ungrouped.parent(pid))


def _paths(pid: int) -> dict[str, Path]:
    """The cgroup directory of each controller; on v2 that of the empty name."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if not names:
            found[""] = _ROOT / path.lstrip("/")
        for name in names.split(","):
            if name and not name.startswith("name="):
                found[name] = _ROOT / name / path.lstrip("/")
    return found


def _number(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.lstrip("-").isdigit() else 0


def _entry(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)


def _blkio(path: Path | None) -> tuple[int, int]:
    totals = {"Read": 0, "Write": 0}
    if path is not None and (path / "blkio.throttle.io_service_bytes").exists():
        for line in (path / "blkio.throttle.io_service_bytes").read_text().splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in totals:
                totals[words[1]] += int(words[2])
    return totals["Read"], totals["Write"]


def _io(path: Path) -> tuple[int, int]:
    reads = writes = 0
    if (path / "io.stat").exists():
        for word in (path / "io.stat").read_text().split():
            name, _, value = word.partition("=")
            reads += int(value) if name == "rbytes" else 0
            writes += int(value) if name == "wbytes" else 0
    return reads, writes


def _network(pid: int) -> tuple[int, int]:
    received = sent = 0
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            words = numbers.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def pids(pid: int) -> list[int]:
    """All processes of the container that this process is the first of."""
    if not has_own(pid):
        return ungrouped.pids(pid)
    paths = _paths(pid)
    directory = paths.get("pids") or paths.get("memory") or paths[""]
    found: list[int] = []
    for folder, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            found += map(int, Path(folder, "cgroup.procs").read_text().split())
    return found
