"""`hythe df`: what takes space, and what could go."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from registry.cli import listing, local
from registry.cli.images import HEADINGS, every_line, row
from registry.client.images import records
from registry.client.images.store import Store

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
        rows = [_images(store), *_nothing_yet()]
        found = _each_image(store) if options.verbose else []
    if options.verbose and not options.format:
        _verbose(found)
    else:
        listing.show(rows, options.format or _TABLE, _HEADINGS)
    return 0


def _verbose(found: list[dict[str, str]]) -> None:
    """Docker's tables, of which only that of images has rows."""
    print("Images space usage:\n")
    listing.show(found, _IMAGES, HEADINGS)
    print("\nContainers space usage:\n")
    listing.columns([["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]])
    print("\nLocal Volumes space usage:\n")
    listing.columns([["VOLUME NAME", "LINKS", "SIZE"]])
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
    share = f" ({100 * (total - kept) // total}%)" if total else ""
    return {
        "Type": "Images",
        "TotalCount": str(len(images)),
        "Active": str(len(used)),
        "Size": listing.size(total),
        "Reclaimable": listing.size(total - kept) + share,
    }


def _nothing_yet() -> list[dict[str, str]]:
    empty = {"TotalCount": "0", "Active": "0", "Size": "0B", "Reclaimable": "0B"}
    return [{"Type": name, **empty} for name in ("Containers", "Local Volumes", "Build Cache")]
