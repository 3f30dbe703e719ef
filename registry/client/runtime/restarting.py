"""Restart policies: which container is started again, and when.

There is no daemon: its monitor's last call does it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from registry.client.images.records import writing
from registry.client.runtime import lifecycle, processes, records
from registry.client.runtime.errors import ContainerConflict, ContainerUnknown
from registry.client.runtime.records import Container

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

_FIRST_SECONDS, _LONGEST_SECONDS = 0.1, 60.0
_SETTLED_SECONDS = 10


def wants(container: Container) -> bool:
    """Whether a container that has just ended is to run again."""
    spec = container.spec
    if container.stopped or spec.restart == "no":
        return False
    if spec.restart == "on-failure":
        return container.exit_code != 0 and (not spec.restart_max or container.restarts < spec.restart_max)
    return True


def delay(container: Container) -> float:
    """Seconds to wait: twice as long each time, as docker does; little for one that ran for a while."""
    if container.finished_ns - container.started_ns > _SETTLED_SECONDS * 10**9:
        return _FIRST_SECONDS
    return float(min(_FIRST_SECONDS * 2 ** min(container.restarts, 10), _LONGEST_SECONDS))


def again(machine: Machine, container: Container) -> None:
    """Start a container again, unless somebody stopped, started or removed it meanwhile.

    Our caller is the old monitor, which would wait for the new one as its child's child: it has done its work.
    """
    found = records.get(machine.db, container.id)
    if found is None or found.round != container.round or found.stopped or found.state != records.EXITED:
        return
    monitor = processes.identify(os.getppid())
    with writing(machine.db):
        records.change(machine.db, container.id, restarts=container.restarts + 1)
    if monitor is not None and _is_monitor(monitor.pid, container.id):
        processes.kill(monitor, signal.SIGKILL)
    try:
        lifecycle.start(machine, container.id, lambda _: None)
    except (ContainerConflict, ContainerUnknown):
        return


def _is_monitor(pid: int, identity: str) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    return os.path.basename(words[0]) == b"conmon" and identity.encode() in words


def due(machine: Machine) -> list[Container]:
    """The containers that a machine's start brings back, the oldest first."""
    found = [each for each in machine.every() if each.state == records.EXITED and each.spec.restart != "no"]
    return [
        each
        for each in reversed(found)
        if each.spec.restart == "always"
        or (each.stopped != 1 and (each.spec.restart != "on-failure" or each.exit_code))
    ]
