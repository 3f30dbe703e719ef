"""What a container takes: bytes that it wrote, and its share of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from registry.client.runtime.records import Container

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


def written_bytes(machine: Machine, container: Container) -> int:
    """The bytes of the files in a container's own layer; each of several hard links counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [os.path.join(machine.place.container(container.id), "upper")]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=False) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total
