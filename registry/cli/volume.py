"""`hythe volume`: create, ls, inspect, rm, prune."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import containers, listing, local
from registry.cli.flags import BOOL, LIST, TEXT, Flag, Words
from registry.client.runtime import parse, records, volumes
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import Volume
from registry.oci.errors import HytheError

_CREATE = Words(
    "volume create",
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    (
        Flag("driver", "d", TEXT, "Specify volume driver name", "local"),
        Flag("label", "", LIST, "Set metadata for a volume"),
        Flag("name", "", TEXT, "", ""),
        Flag("opt", "o", LIST, ""),
    ),
    0,
    1,
)
_LS = Words(
    "volume ls",
    "[OPTIONS]",
    "List volumes",
    (
        Flag("filter", "f", LIST, 'Provide filter values (e.g. "dangling=true")'),
        Flag("format", "", TEXT, "Format output: table, json, or a Go template", ""),
        Flag("quiet", "q", BOOL, "Only display volume names"),
    ),
    0,
    0,
)
_INSPECT = Words(
    "volume inspect",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    (Flag("format", "f", TEXT, "A Go template", ""),),
    least=1,
)
_RM = Words(
    "volume rm",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    (Flag("force", "f", BOOL, "Force the removal of one or more volumes"),),
    least=1,
)
_HEADINGS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Scope": "SCOPE",
}


def create(words: Sequence[str]) -> int:
    """Run `volume create` and return its exit status."""
    return containers.execute(_CREATE, words, _create)


def _create(machine: Machine, options: SimpleNamespace) -> int:
    if options.driver != "local" or options.opt:
        raise HytheError("volumes are directories here: there is the driver local, and it takes no options")
    name = options.words[0] if options.words else options.name
    print(volumes.create(machine, name, parse.labels(options.label), anonymous=not name))
    return 0


def ls(words: Sequence[str]) -> int:
    """Run `volume ls` and return its exit status."""
    return containers.execute(_LS, words, _ls)


def _ls(machine: Machine, options: SimpleNamespace) -> int:
    rows = [
        {
            "Driver": "local",
            "Name": each.name,
            "Mountpoint": str(machine.place.volume(each.name)),
            "Scope": "local",
            "Labels": ",".join(f"{key}={value}" for key, value in json.loads(each.labels).items()),
        }
        for each in records.volumes(machine.db)
        if all(_matches(machine, each, text) for text in options.filter)
    ]
    format = "{{.Name}}" if options.quiet else options.format
    listing.show(rows, format if format not in ("", "table") else "table {{.Driver}}\\t{{.Name}}", _HEADINGS)
    return 0


def _matches(machine: Machine, volume: Volume, text: str) -> bool:
    key, _, value = text.partition("=")
    if key == "name":
        return value in volume.name
    if key == "dangling":
        return (not records.volume_users(machine.db, volume.name)) == (value in ("true", "1"))
    if key == "label":
        name, equals, wanted = value.partition("=")
        labels = json.loads(volume.labels)
        return name in labels and (not equals or labels[name] == wanted)
    if key == "driver":
        return value == "local"
    raise HytheError(f"invalid filter '{key}'")


def describe(machine: Machine, volume: Volume) -> dict[str, Any]:
    """A volume as `docker volume inspect` prints it."""
    return {
        "CreatedAt": listing.utc(volume.created_ns, whole=True),
        "Driver": "local",
        "Labels": json.loads(volume.labels) or None,
        "Mountpoint": str(machine.place.volume(volume.name)),
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }


def inspect(words: Sequence[str]) -> int:
    """Run `volume inspect` and return its exit status."""
    from registry.cli import inspect as showing

    return containers.execute(
        _INSPECT,
        words,
        lambda machine, options: showing.show(
            options.words, options.format, lambda name: describe(machine, volumes.find(machine, name))
        ),
    )


def rm(words: Sequence[str]) -> int:
    """Run `volume rm` and return its exit status."""
    return containers.execute(_RM, words, _rm)


def _rm(machine: Machine, options: SimpleNamespace) -> int:
    def remove(name: str) -> None:
        with contextlib.suppress(*((volumes.VolumeUnknown,) if options.force else ())):
            volumes.remove(machine, name)
            print(name)

    return 1 if local.each(options.words, remove) else 0
