"""What nothing names any more: rows of blobs and layers whose files may go."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from registry.client.images.records import Layer
from registry.oci.digest import Digest


def has_candidates(db: sqlite3.Connection) -> bool:
    """Whether something lost one that named it."""
    return db.execute("SELECT 1 FROM candidates LIMIT 1").fetchone() is not None


def unused(db: sqlite3.Connection, everything: bool) -> tuple[list[Digest], list[Layer]]:
    """Blobs that no manifest names, and layers of no image: of the candidates, or of all."""
    of_these = "" if everything else "AND {} IN (SELECT id FROM candidates)"
    blobs = db.execute(
        "SELECT digest FROM blobs WHERE digest NOT IN (SELECT digest FROM manifest_blobs) "  # noqa: S608 -- all ours
        "AND digest NOT IN (SELECT digest FROM manifests) " + of_these.format("digest")
    )
    gone = [Digest(row[0]) for row in blobs]
    rows = db.execute(
        "SELECT diff_id, link, files_bytes FROM layers "  # noqa: S608 -- all ours
        "WHERE diff_id NOT IN (SELECT diff_id FROM image_layers) " + of_these.format("diff_id")
    )
    return gone, [Layer(Digest(row[0]), row[1], row[2]) for row in rows]


def forget(db: sqlite3.Connection, blobs: Iterable[Digest], layers: Iterable[Layer]) -> None:
    """Take rows away whose files go next."""
    db.executemany("DELETE FROM blobs WHERE digest = ?", [(digest,) for digest in blobs])
    db.executemany("DELETE FROM layers WHERE diff_id = ?", [(layer.diff_id,) for layer in layers])
    db.execute("DELETE FROM candidates")


def known(db: sqlite3.Connection) -> tuple[set[str], set[str], set[str]]:
    """The digests of all blobs, the diff ids of all layers, and their links."""
    rows = db.execute("SELECT diff_id, link FROM layers").fetchall()
    blobs = {row[0] for row in db.execute("SELECT digest FROM blobs")}
    return blobs, {row[0] for row in rows}, {row[1] for row in rows}
