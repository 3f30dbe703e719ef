"""The machine that it all runs on: what it is, and who else uses it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.servers import Registry

_TICKS = os.sysconf("SC_CLK_TCK")


def facts(storage: Path) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(storage),
        "load_average": os.getloadavg()[0],
    }


def own_seconds() -> float:
    """What this process and its dead children have used of the cores."""
    return sum(os.times()[:4])


def line(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{facts['cores']} cores, kernel {facts['kernel']}, Python {facts['python']}, storage on "
        f"{facts['file_system']}, load average {facts['load_average']:.1f} at the start"
    )


class Others:
    """The share of the cores' time that neither the servers nor this client and its children use."""

    def __init__(self, registries: Sequence[Registry]) -> None:
        self.registries = registries
        self.begun = self._taken()

    def share(self) -> float:
        """Since it was made, between 0 and 1; the kernel's own threads count as others."""
        busy, total, known = (now - then for now, then in zip(self._taken(), self.begun, strict=True))
        return max(0.0, busy - known) / total if total else 0.0

    def _taken(self) -> tuple[float, float, float]:
        """Seconds of all cores: busy, altogether, and those of the processes that we know."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, waiting, *interrupts = (int(field) / _TICKS for field in fields)
        busy = user + nice + system + sum(interrupts)
        known = own_seconds() + sum(registry.cpu_seconds() for registry in self.registries)
        return busy, busy + idle + waiting, known


def _file_system(path: Path) -> str:
    """The type of the file system that holds *path*: the longest mount point above it tells."""
    resolved = path.resolve()
    best, kind = -1, "an unknown file system"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        point = Path(mount.split()[4])
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), source.split()[0]
    return kind
