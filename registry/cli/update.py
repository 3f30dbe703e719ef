"""`hythe update`: other limits and another restart policy for containers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import container_options, containers
from registry.cli.flags import Words
from registry.client.runtime import parse, updating
from registry.client.runtime.machine import Machine
from registry.oci.errors import HytheError

_UPDATE = Words(
    "update",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    container_options.LIMITS,
    least=1,
)
_FIELDS = {
    "cpu-shares": "cpu_shares",
    "cpus": "nano_cpus",
    "cpuset-cpus": "cpuset",
    "memory": "memory",
    "memory-reservation": "memory_reservation",
    "memory-swap": "memory_swap",
    "pids-limit": "pids_limit",
}


def run(words: Sequence[str]) -> int:
    """Run `update` and return its exit status."""
    return containers.execute(_UPDATE, words, _run)


def _run(machine: Machine, options: SimpleNamespace) -> int:
    if not options.given:
        raise HytheError("You must provide one or more flags when using this command.")
    changes = _changes(options)
    return containers.each(machine, options.words, lambda each: updating.update(machine, each, changes))


def _changes(options: SimpleNamespace) -> dict[str, Any]:
    """The fields of the specification that are to be other."""
    found = container_options.limits(options, alone=False)
    changes = {_FIELDS[name]: found[_FIELDS[name]] for name in options.given if name in _FIELDS}
    if "restart" in options.given:
        changes["restart"], changes["restart_max"] = parse.restart(options.restart)
    return changes
