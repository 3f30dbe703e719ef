"""What the local store knows: functions over a connection.

Bytes come first, then the row that names them; on removal the row goes first. So a crash leaves at worst files
that nothing names, which `garbage` finds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.client.images.database import Error as Error
from registry.client.images.database import connect as connect
from registry.client.images.database import writing as writing
from registry.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its id is its configuration's digest, its size that of its unpacked files."""

    id: Digest
    created: str
    size_bytes: int
    labels: dict[str, str]
    parent: str
    tagged_ns: int


@dataclass(frozen=True, slots=True)
class Name:
    """A tag (`docker.io/library/busybox`, `latest`) or a digest by which an image is known in a repository."""

    repository: str
    reference: str
    image_id: Digest
    manifest: Digest


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer."""

    diff_id: Digest
    link: str
    files_bytes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest that is here."""

    digest: Digest
    media_type: str
    size_bytes: int
    image_id: Digest


# --- blobs and layers


def blob(db: sqlite3.Connection, digest: Digest) -> tuple[int, Digest | None] | None:
    """Size and diff id of a blob that is here; the diff id of what was never unpacked is None."""
    row = db.execute("SELECT size_bytes, diff_id FROM blobs WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else (row[0], Digest(row[1]) if row[1] else None)


def layer(db: sqlite3.Connection, diff_id: Digest) -> Layer | None:
    """An unpacked layer."""
    row = db.execute("SELECT diff_id, link, files_bytes FROM layers WHERE diff_id = ?", (diff_id,)).fetchone()
    return None if row is None else Layer(Digest(row[0]), row[1], row[2])


def add_blob(db: sqlite3.Connection, digest: Digest, size_bytes: int, diff_id: Digest | None = None) -> None:
    """Say that a blob is here, and perhaps what it unpacks to."""
    db.execute(
        "INSERT INTO blobs VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET diff_id = coalesce(excluded.diff_id, diff_id)",
        (digest, size_bytes, diff_id),
    )


def add_layer(db: sqlite3.Connection, diff_id: Digest, link: str, files_bytes: int) -> None:
    """Say that a layer is unpacked; one that is known keeps its link."""
    db.execute("INSERT OR IGNORE INTO layers VALUES (?, ?, ?)", (diff_id, link, files_bytes))


# --- images


def add_image(db: sqlite3.Connection, image: Image, diff_ids: Sequence[Digest]) -> None:
    """Say that an image is here: all its layers are."""
    if db.execute(
        "INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?, ?)",
        (image.id, image.created, image.size_bytes, json.dumps(image.labels), image.parent, image.tagged_ns),
    ).rowcount:
        rows = [(image.id, position, diff_id) for position, diff_id in enumerate(diff_ids)]
        db.executemany("INSERT INTO image_layers VALUES (?, ?, ?)", rows)


def add_manifest(db: sqlite3.Connection, stored: Stored, blobs: Iterable[Digest]) -> None:
    """Say that a manifest is here, and which blobs it keeps."""
    row = (stored.digest, stored.media_type, stored.size_bytes, stored.image_id)
    if db.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?, ?, ?)", row).rowcount:
        pairs = [(stored.digest, digest) for digest in blobs]
        db.executemany("INSERT OR IGNORE INTO manifest_blobs VALUES (?, ?)", pairs)


def manifest(db: sqlite3.Connection, digest: Digest) -> Stored | None:
    """A manifest that is here."""
    row = db.execute("SELECT digest, media_type, size_bytes, image_id FROM manifests WHERE digest = ?", (digest,))
    found = row.fetchone()
    return None if found is None else Stored(Digest(found[0]), found[1], found[2], Digest(found[3]))


def is_known_by_digest(db: sqlite3.Connection, manifest: Digest) -> bool:
    """Whether a registry has this manifest, as far as we know."""
    return db.execute("SELECT 1 FROM digests WHERE manifest = ? LIMIT 1", (manifest,)).fetchone() is not None


def replace_manifest(db: sqlite3.Connection, old: Digest, new: Digest) -> None:
    """Let the tags of one manifest mean another of the same image; the old one goes."""
    db.execute("UPDATE names SET manifest = ? WHERE manifest = ?", (new, old))
    db.execute("DELETE FROM manifests WHERE digest = ? AND digest NOT IN (SELECT manifest FROM digests)", (old,))


def _image(row: Sequence[Any]) -> Image:
    return Image(Digest(row[0]), row[1], row[2], json.loads(row[3]), row[4], row[5])


def images(db: sqlite3.Connection) -> list[Image]:
    """All images, the newest first, as docker lists them."""
    rows = db.execute("SELECT id, created, size_bytes, labels, parent, tagged_ns FROM images")
    return sorted(map(_image, rows), key=lambda image: image.created, reverse=True)


def image(db: sqlite3.Connection, image_id: str) -> Image | None:
    """One image by its whole id."""
    row = db.execute(
        "SELECT id, created, size_bytes, labels, parent, tagged_ns FROM images WHERE id = ?", (image_id,)
    ).fetchone()
    return None if row is None else _image(row)


def ids_from(db: sqlite3.Connection, start: str) -> list[Digest]:
    """The ids that begin with these hexadecimal digits."""
    prefix = f"sha256:{start}"
    return [
        Digest(row[0])
        for row in db.execute("SELECT id FROM images WHERE substr(id, 1, ?) = ?", (len(prefix), prefix))
    ]


def layers_of(db: sqlite3.Connection, image_id: Digest) -> list[Layer]:
    """An image's layers, the lowest first."""
    rows = db.execute(
        "SELECT diff_id, link, files_bytes FROM image_layers JOIN layers USING (diff_id) WHERE image_id = ? "
        "ORDER BY position",
        (image_id,),
    )
    return [Layer(Digest(row[0]), row[1], row[2]) for row in rows]


def diff_ids(db: sqlite3.Connection) -> dict[Digest, tuple[Digest, ...]]:
    """The layers of every image that has any, the lowest first."""
    found: dict[Digest, tuple[Digest, ...]] = {}
    for image_id, diff_id in db.execute("SELECT image_id, diff_id FROM image_layers ORDER BY image_id, position"):
        found[image_id] = (*found.get(image_id, ()), Digest(diff_id))
    return found


def manifests_of(db: sqlite3.Connection, image_id: Digest) -> list[Stored]:
    """The manifests by which an image came."""
    rows = db.execute(
        "SELECT digest, media_type, size_bytes, image_id FROM manifests WHERE image_id = ? ORDER BY digest",
        (image_id,),
    )
    return [Stored(Digest(row[0]), row[1], row[2], Digest(row[3])) for row in rows]


# --- names

_NAMES = {"tag": "names", "digest": "digests"}


def _names(db: sqlite3.Connection, column: str, where: str = "", values: Sequence[str] = ()) -> list[Name]:
    query = (
        f"SELECT repository, {column}, image_id, manifest FROM {_NAMES[column]} {where} "  # noqa: S608 -- all ours
        f"ORDER BY repository, {column}"
    )
    return [Name(row[0], row[1], Digest(row[2]), Digest(row[3])) for row in db.execute(query, values)]


def tags(db: sqlite3.Connection, image_id: Digest | None = None) -> list[Name]:
    """All tags, or those of an image."""
    return _names(db, "tag", "WHERE image_id = ?" if image_id else "", (image_id,) if image_id else ())


def digests(db: sqlite3.Connection, image_id: Digest | None = None) -> list[Name]:
    """All names by digest, or those of an image."""
    return _names(db, "digest", "WHERE image_id = ?" if image_id else "", (image_id,) if image_id else ())


def tag(db: sqlite3.Connection, repository: str, text: str) -> Name | None:
    """What a tag means."""
    return next(iter(_names(db, "tag", "WHERE repository = ? AND tag = ?", (repository, text))), None)


def digest(db: sqlite3.Connection, repository: str, text: str) -> Name | None:
    """What a digest means in a repository."""
    return next(iter(_names(db, "digest", "WHERE repository = ? AND digest = ?", (repository, text))), None)


def tags_in(db: sqlite3.Connection, repository: str) -> list[Name]:
    """The tags of a repository."""
    return _names(db, "tag", "WHERE repository = ?", (repository,))


def set_tag(db: sqlite3.Connection, name: Name, now_ns: int) -> None:
    """Let a tag mean an image; what it meant before has one name less."""
    db.execute(
        "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)",
        (name.repository, name.reference, name.image_id, name.manifest),
    )
    db.execute("UPDATE images SET tagged_ns = ? WHERE id = ?", (now_ns, name.image_id))


def set_digest(db: sqlite3.Connection, name: Name) -> None:
    """Note that an image was seen in a repository under a digest."""
    db.execute(
        "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)",
        (name.repository, name.reference, name.image_id, name.manifest),
    )


def remove_tag(db: sqlite3.Connection, repository: str, text: str) -> None:
    """Take a tag away."""
    db.execute("DELETE FROM names WHERE repository = ? AND tag = ?", (repository, text))


def remove_digest(db: sqlite3.Connection, repository: str, text: str) -> None:
    """Take a name by digest away."""
    db.execute("DELETE FROM digests WHERE repository = ? AND digest = ?", (repository, text))


def remove_image(db: sqlite3.Connection, image_id: Digest) -> None:
    """Take an image away with its names; its blobs and layers are garbage when no other has them."""
    db.execute("DELETE FROM images WHERE id = ?", (image_id,))


def users(db: sqlite3.Connection, image_id: Digest) -> list[tuple[str, bool]]:
    """The containers of an image, and whether each runs."""
    rows = db.execute("SELECT holder, running FROM uses WHERE image_id = ? ORDER BY holder", (image_id,))
    return [(row[0], bool(row[1])) for row in rows]


def any_running(db: sqlite3.Connection) -> bool:
    """Whether some container runs, as far as the records know."""
    return db.execute("SELECT 1 FROM uses WHERE running LIMIT 1").fetchone() is not None


def repositories_with(db: sqlite3.Connection, digest: Digest, host: str) -> list[str]:
    """The repositories of a registry (*host* ends with a slash) that had an image with this blob."""
    rows = db.execute(
        "SELECT DISTINCT repository FROM digests JOIN manifest_blobs USING (manifest) "
        "WHERE manifest_blobs.digest = ? AND substr(repository, 1, ?) = ? ORDER BY repository",
        (digest, len(host), host),
    )
    return [row[0][len(host) :] for row in rows]


def layers_bytes(db: sqlite3.Connection, images: Sequence[Digest] | None) -> int:
    """The length of the files in the layers of *images*, each layer once; None means all layers."""
    if images is None:
        return int(db.execute("SELECT coalesce(sum(files_bytes), 0) FROM layers").fetchone()[0])
    layers = {layer.diff_id: layer.files_bytes for image_id in images for layer in layers_of(db, image_id)}
    return sum(layers.values())
