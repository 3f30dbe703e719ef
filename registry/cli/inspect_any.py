"""`hythe inspect`: a container, an image, a volume or a network, whichever has the name, in docker's JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import container_json, containers, inspect, local, network, volume
from registry.cli.flags import BOOL, TEXT, Flag, Stop, Words
from registry.client.images.errors import ImageUnknown
from registry.client.images.store import Store
from registry.client.runtime import networks, volumes
from registry.client.runtime.errors import ContainerUnknown
from registry.client.runtime.machine import Machine
from registry.client.runtime.networks import NetworkUnknown
from registry.client.runtime.volumes import VolumeUnknown
from registry.oci.errors import HytheError

_KINDS = ("container", "image", "volume", "network")
_FLAGS = (
    Flag("format", "f", TEXT, "A Go template", ""),
    Flag("size", "s", BOOL, "Display total file sizes if the type is container"),
    Flag("type", "", TEXT, "Return JSON for specified type: container, image, volume, network", ""),
)
_INSPECT = Words(
    "inspect", "[OPTIONS] NAME|ID [NAME|ID...]", "Return low-level information on objects", _FLAGS, least=1
)
_CONTAINER = Words(
    "container inspect",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    _FLAGS[:2],
    least=1,
)


def run(words: Sequence[str]) -> int:
    """Run `inspect` and return its exit status: 1 when something is not there."""
    try:
        options = _INSPECT.read(words)
    except Stop as stop:
        return stop.status
    if options.type and options.type not in _KINDS:
        raise HytheError(f'"{options.type}" is not a valid value for --type')
    with local.opened() as store:
        # Who may have no containers can still look at images.
        machine = Machine(store, os.environ) if os.geteuid() == 0 else None
        return inspect.show(options.words, options.format, lambda name: _any(store, machine, name, options))


def container(words: Sequence[str]) -> int:
    """Run `container inspect` and return its exit status."""
    return containers.execute(
        _CONTAINER,
        words,
        lambda machine, options: inspect.show(
            options.words,
            options.format,
            lambda name: container_json.describe(machine, machine.find(name), options.size),
        ),
    )


def _any(store: Store, machine: Machine | None, name: str, options: SimpleNamespace) -> dict[str, Any]:
    wanted = (options.type,) if options.type else _KINDS
    for kind in wanted:
        try:
            if kind == "image":
                return inspect.describe(store, store.find(name))
            if machine is not None:
                return _of_machine(machine, kind, name, options.size)
        except (ContainerUnknown, ImageUnknown, VolumeUnknown, NetworkUnknown):
            continue
    what = {"": "object", "container": "container", "image": "image", "volume": "volume", "network": "network"}
    raise HytheError(f"No such {what[options.type]}: {name}")


def _of_machine(machine: Machine, kind: str, name: str, sized: bool) -> dict[str, Any]:
    if kind == "container":
        return container_json.describe(machine, machine.find(name), sized)
    if kind == "volume":
        return volume.describe(machine, volumes.find(machine, name))
    return network.describe(machine, networks.find(machine, name))
