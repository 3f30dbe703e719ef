"""`--filter` of the verbs that list and prune containers, as docker has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from registry.cli import filters
from registry.client.images.errors import ImageUnknown
from registry.client.runtime import records
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Container
from registry.oci.errors import HytheError

KEYS = (
    "ancestor", "before", "exited", "expose", "health", "id", "label", "name", "network", "publish", "since",
    "status", "volume",
)  # fmt: skip
HEALTHS = ("starting", "healthy", "unhealthy", "none")
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def state_of(container: Container) -> str:
    """A container's state in docker's words."""
    if container.state == records.RUNNING:
        return "paused" if container.paused else "running"
    return {records.CREATING: "created", records.STARTING: "created"}.get(container.state, container.state)


def health_of(machine: Machine, container: Container) -> str:
    """`starting`, `healthy`, `unhealthy`; `none` of a container that is not asked."""
    if container.spec.health is None:
        return "none"
    from registry.client.runtime import health

    state = health.read(machine, container)
    return health.NONE if state is None else state.status


class Filters:
    """What `--filter KEY=VALUE` asks for; of one key's values any will do, of `label` all."""

    def __init__(self, machine: Machine, texts: Sequence[str], known: Sequence[str] = KEYS) -> None:
        self._machine = machine
        self._wanted: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if key == "label!" or (key == "label" and key.endswith("!")):
                key = "label!"
            if not equals:
                raise HytheError(f"bad format of filter (expected name=value): {text}")
            if key not in known:
                raise HytheError(f"invalid filter '{key}'")
            self._wanted.setdefault(key, []).append(value)
        for status in self._wanted.get("status", ()):
            if status not in STATES:
                raise HytheError(f"invalid filter 'status={status}'")
        for health in self._wanted.get("health", ()):
            if health not in HEALTHS:
                raise HytheError(f"invalid filter 'health={health}'")
        self._moments = {
            key: [machine.find(text).created_ns for text in self._wanted.get(key, ())]
            for key in ("before", "since")
        }

    @property
    def of_state(self) -> bool:
        """Whether a state is asked for: then those that do not run are meant too."""
        return "status" in self._wanted or "exited" in self._wanted

    def matches(self, container: Container) -> bool:
        """Whether a container is meant."""
        return (
            all(self._any(key, container) for key in self._wanted)
            and all(_labelled(container, text) for text in self._wanted.get("label", ()))
            and not any(_labelled(container, text) for text in self._wanted.get("label!", ()))
            and all(container.created_ns < moment for moment in self._moments["before"])
            and all(container.created_ns > moment for moment in self._moments["since"])
        )

    def _any(self, key: str, container: Container) -> bool:
        if key in ("label", "label!", "before", "since"):
            return True
        return any(self._one(key, value, container) for value in self._wanted[key])

    def _one(self, key: str, value: str, container: Container) -> bool:
        spec = container.spec
        if key in ("publish", "expose"):
            wanted = value if "/" in value else f"{value}/tcp"
            if key == "expose":
                return wanted in spec.exposed
            return any(
                wanted in (f"{each.host}/{each.protocol}", f"{each.container}/{each.protocol}")
                for each in spec.ports
            )
        if key == "ancestor":
            try:
                return self._machine.store.find(value).id == container.image_id
            except ImageUnknown:
                return False
        tests: dict[str, Callable[[], object]] = {
            "id": lambda: container.id.startswith(value),
            "name": lambda: re.search(value, f"/{container.name}") or re.search(value, container.name),
            "status": lambda: state_of(container) == value,
            "exited": lambda: container.state == records.EXITED and str(container.exit_code) == value,
            "volume": lambda: any(value in (mount.source, mount.target) for mount in spec.mounts),
            "network": lambda: value in (spec.network, *(each.network for each in spec.others)),
            "health": lambda: health_of(self._machine, container) == value,
            "until": lambda: container.created_ns / 1e9 < filters.moment(value),
        }
        return bool(tests[key]())


def _labelled(container: Container, text: str) -> bool:
    key, equals, value = text.partition("=")
    labels = container.spec.labels
    return key in labels and (not equals or labels[key] == value)
