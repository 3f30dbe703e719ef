"""`hythe df`: what takes space, and what could go."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.cli import listing, local
from registry.cli.images import HEADINGS, every_line, row
from registry.client.images import records
from registry.client.images.store import Store

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

_HEADINGS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_TABLE = "table {{.Type}}\\t{{.TotalCount}}\\t{{.Active}}\\t{{.Size}}\\t{{.Reclaimable}}"
_IMAGES = (
    "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}"
    "\\t{{.SharedSize}}\\t{{.UniqueSize}}\\t{{.Containers}}"
)


def run(words: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe df", description="Show disk usage")
    parser.add_argument("--format", metavar="TEMPLATE", help="table, json, or a Go template")
    parser.add_argument("-v", "--verbose", action="store_true", help="each image")
    options = parser.parse_args(words)
    with local.opened() as store:
        machine = local.machine(store)
        if options.verbose and not options.format:
            _verbose(store, machine)
        else:
            rows = [_images(store), _containers(machine), _volumes(machine), _row("Build Cache")]
            listing.show(rows, options.format or _TABLE, _HEADINGS)
    return 0


def _verbose(store: Store, machine: Machine | None) -> None:
    """Docker's tables."""
    print("Images space usage:\n")
    listing.show(_each_image(store), _IMAGES, HEADINGS)
    print("\nContainers space usage:\n")
    titles = ["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]
    listing.columns([titles, *(_each_container(machine) if machine else ())])
    print("\nLocal Volumes space usage:\n")
    listing.columns([["VOLUME NAME", "LINKS", "SIZE"], *(_each_volume(machine) if machine else ())])
    print("\nBuild cache usage: 0B\n")
    listing.columns([["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]])


def _each_image(store: Store) -> list[dict[str, str]]:
    """A row for each image under its first name, with what it shares with others."""
    layers = {image.id: records.layers_of(store.db, image.id) for image in records.images(store.db)}
    users = Counter(diff_id for found in layers.values() for diff_id in {layer.diff_id for layer in found})
    rows: dict[str, dict[str, str]] = {}
    for image, repository, tag, digest in every_line(store):
        shared = sum(layer.files_bytes for layer in layers[image.id] if users[layer.diff_id] > 1)
        sizes = {"Size": image.size_bytes, "SharedSize": shared, "UniqueSize": image.size_bytes - shared}
        found = {
            **row(store, image, repository, tag, digest, False),
            **{name: listing.size(size_bytes, 4) for name, size_bytes in sizes.items()},
            "Containers": str(len(records.users(store.db, image.id))),
        }
        rows.setdefault(image.id, found)
    return list(rows.values())


def _images(store: Store) -> dict[str, str]:
    images = records.images(store.db)
    used = [image for image in images if records.users(store.db, image.id)]
    total = records.layers_bytes(store.db, None)
    kept = records.layers_bytes(store.db, [image.id for image in used])
    return _row("Images", len(images), len(used), total, total - kept)


def _row(kind: str, count: int = 0, active: int = 0, total: int = 0, free: int = 0) -> dict[str, str]:
    share = f" ({100 * free // total}%)" if total else ""
    return {
        "Type": kind,
        "TotalCount": str(count),
        "Active": str(active),
        "Size": listing.size(total),
        "Reclaimable": listing.size(free) + share,
    }


# --- containers and volumes


def _containers(machine: Machine | None) -> dict[str, str]:
    if machine is None:
        return _row("Containers")
    from registry.client.runtime import usage
    from registry.client.runtime.records import RUNNING

    sizes = [(each.state == RUNNING, usage.written_bytes(machine, each)) for each in machine.every()]
    free = sum(size_bytes for running, size_bytes in sizes if not running)
    active = sum(running for running, _ in sizes)
    return _row("Containers", len(sizes), active, sum(size_bytes for _, size_bytes in sizes), free)


def _volumes(machine: Machine | None) -> dict[str, str]:
    found = [] if machine is None else _sized_volumes(machine)
    free = sum(size_bytes for _, links, size_bytes in found if not links)
    active = sum(bool(links) for _, links, _ in found)
    return _row("Local Volumes", len(found), active, sum(size_bytes for _, _, size_bytes in found), free)


def _sized_volumes(machine: Machine) -> list[tuple[str, int, int]]:
    """Name, the number of containers that have it, and bytes of each volume."""
    from registry.client.runtime import records as containers
    from registry.client.runtime import volumes

    return [
        (each.name, len(containers.volume_users(machine.db, each.name)), volumes.size(machine, each.name))
        for each in containers.volumes(machine.db)
    ]


def _each_volume(machine: Machine) -> list[list[str]]:
    return [[name, str(links), listing.size(size_bytes)] for name, links, size_bytes in _sized_volumes(machine)]


def _each_container(machine: Machine) -> list[list[str]]:
    from registry.cli import ps
    from registry.client.runtime import usage

    titles = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    found = []
    for each in machine.every():
        size_bytes = usage.written_bytes(machine, each)
        row = ps.row(machine, each, ps.image_names(machine)) | {"Size": listing.size(size_bytes)}
        found.append([row[title] for title in titles])
    return found
