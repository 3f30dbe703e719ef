"""What nothing names goes: rows first, then files, while nobody adds anything; what nobody needs to see, before.

A command that adds images holds the store's lock with others of its kind (`place.making`), removal holds it alone.
So nothing that such a command saw can vanish under it. When somebody adds, removal leaves the files to the next
command that finds the lock free.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.client.images import leftovers, records
from registry.client.images import place as places
from registry.oci.digest import Digest

if TYPE_CHECKING:
    from registry.client.images.store import Store

_PART_SECONDS = 14 * 24 * 3600  # how long a partial download waits for somebody to go on


@dataclass(frozen=True, slots=True)
class Removed:
    """What went: layers by diff id, and how many bytes of files and blobs they and their blobs had."""

    layers: tuple[Digest, ...]
    freed_bytes: int


def collect(store: Store, everything: bool = False) -> Removed:
    """Remove blobs and layers that no image has; with *everything*, also strays and partial downloads."""
    with places.removing(store.place) as alone:
        if not alone:
            return Removed((), 0)
        with records.writing(store.db):
            blobs, layers = leftovers.unused(store.db, everything)
            leftovers.forget(store.db, blobs, layers)
        freed_bytes = sum(layer.files_bytes for layer in layers)
        for layer in layers:
            places.discard(store.place, store.place.link(layer.link))
            places.discard(store.place, store.place.layer(layer.diff_id))
        for digest in blobs:
            places.discard(store.place, store.place.blob(digest))
        if everything:
            _discard_strays(store)
        _discard_old(store, 0 if everything else _PART_SECONDS)
    places.empty(store.place, "trash")
    return Removed(tuple(layer.diff_id for layer in layers), freed_bytes)


def discard_downloads(store: Store) -> int:
    """Remove partial downloads, and what died; how many bytes that were.

    It changes no row, so a disk that is full has room for it, and then for the changes that free more.
    """
    with places.removing(store.place) as alone:
        freed_bytes = _discard_old(store, 0) if alone else 0
    places.empty(store.place, "trash")
    return freed_bytes


def clean(store: Store) -> None:
    """Remove what commands that died left half made; for the beginning of a command that adds."""
    names = ("staging", "trash")
    if not any(os.listdir(store.place.sub(name)) for name in names):
        return
    with places.removing(store.place) as alone:
        if alone:
            _discard_old(store, _PART_SECONDS)
    places.empty(store.place, "trash")


def _discard_old(store: Store, part_seconds: int) -> int:
    """Remove what nobody works on any more; how many bytes of partial downloads that were."""
    freed_bytes = 0
    for path in store.place.sub("staging").iterdir():
        places.discard(store.place, path)
    for path in store.place.sub("locks").iterdir():
        path.unlink(missing_ok=True)
    for path in store.place.sub("ingest").iterdir():
        found = path.stat()
        if found.st_mtime <= time.time() - part_seconds:
            path.unlink(missing_ok=True)
            freed_bytes += found.st_blocks * 512
    return freed_bytes


def _discard_strays(store: Store) -> None:
    """Files that a crash left between their names and their rows."""
    blobs, layers, links = leftovers.known(store.db)
    for algorithm in store.place.sub("blobs").iterdir():
        for path in algorithm.iterdir():
            if f"{algorithm.name}:{path.name}" not in blobs:
                places.discard(store.place, path)
    for path in store.place.sub("layers").iterdir():
        if f"sha256:{path.name}" not in layers:
            places.discard(store.place, path)
    for path in store.place.sub("l").iterdir():
        if path.name not in links:
            path.unlink(missing_ok=True)
