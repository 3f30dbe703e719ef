"""`update`: other limits and another restart policy for a container, whether it runs or not."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry.client.images.records import writing
from registry.client.runtime import ending, engine, limits, records, telling
from registry.client.runtime.errors import ContainerConflict, ContainerError
from registry.client.runtime.records import CREATED, EXITED, RUNNING, Container
from registry.client.runtime.spec import Spec

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


def changed(spec: Spec, changes: dict[str, Any]) -> Spec:
    """The specification with other limits. Raises ContainerConflict for what contradicts the rest of it."""
    if changes.get("restart", "no") != "no" and spec.auto_remove:
        raise ContainerConflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
    # What was twice the memory by default stays what it was.
    kept = spec.memory_swap or 2 * max(spec.memory, 0)
    found = replace(spec, **{"memory_swap": kept, **changes})
    if 0 < found.memory_swap < found.memory:
        raise ContainerConflict(
            "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )
    return found


def update(machine: Machine, container: Container, changes: dict[str, Any]) -> None:
    """Change limits; those of a running container at once. Raises ContainerConflict, ContainerError."""
    with ending.holding(machine, container.id):
        current = ending.there(machine, container.id)
        if current.state not in (CREATED, EXITED, RUNNING):
            raise ContainerConflict(f"container {container.id[:12]} is {current.state}")
        spec = changed(current.spec, changes)
        if current.state == RUNNING:
            _tell_engine(machine, current, spec)
        with writing(machine.db):
            records.change(machine.db, container.id, spec=spec)
            telling.note(machine.db, replace(current, spec=spec), "update")


def _tell_engine(machine: Machine, container: Container, spec: Spec) -> None:
    """What is not said stays as it is: the engine is told only what differs."""
    found = limits.resources(replace(spec, devices=()), [])
    before = limits.resources(replace(container.spec, devices=()), [])
    wanted = {
        name: found.get(name, {}) for name in ("memory", "cpu", "pids") if found.get(name) != before.get(name)
    }
    if "pids" in wanted and not wanted["pids"]:
        wanted["pids"] = {"limit": -1}
    if not wanted:
        return
    command = machine.engine_of(container).command("update", "--resources", "-", container.id)
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ContainerError(f"Cannot update container {container.id}: {engine.complaint(done.stderr)}")
