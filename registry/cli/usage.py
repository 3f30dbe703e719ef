"""`hythe df`: what takes space, and what could go."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from registry.cli import listing, local
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


def run(words: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    parser = argparse.ArgumentParser(prog="hythe df", description="Show disk usage")
    parser.add_argument("--format", metavar="TEMPLATE", help="table, json, or a Go template")
    parser.add_argument("-v", "--verbose", action="store_true", help="each image")
    options = parser.parse_args(words)
    with local.opened() as store:
        rows = [_images(store), *_nothing_yet()]
    listing.show(rows, options.format or _TABLE, _HEADINGS)
    return 0


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
