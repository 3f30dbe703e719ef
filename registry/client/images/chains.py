"""Chain ids: docker's names for a layer together with all below it, which `rmi` prints.

Source: OCI image-spec, "Layer ChainID".
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence

from registry.client.images import records
from registry.oci.digest import Digest


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chain id of every layer, the lowest first."""
    found: list[Digest] = []
    for diff_id in diff_ids:
        text = f"{found[-1]} {diff_id}" if found else ""
        found.append(Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}") if text else diff_id)
    return found


def alone(db: sqlite3.Connection, image_id: Digest) -> list[Digest]:
    """The chains that only this image has, the highest first: what goes when it goes."""
    layers = records.diff_ids(db)
    own = layers.pop(image_id, ())
    shared = max((_common(own, other) for other in layers.values()), default=0)
    return chain_ids(own)[: shared - 1 if shared else None : -1]


def _common(first: Sequence[Digest], second: Sequence[Digest]) -> int:
    """How many layers two images have in common, from the lowest on."""
    return next(
        (place for place, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )
