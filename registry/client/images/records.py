"""What the local store knows, in SQLite: functions over a connection. The standard library's module alone.

Bytes come first, then the row that names them; on removal the row goes first. So a crash leaves at worst files
that nothing names, which `garbage` finds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.client.images.errors import StoreFull
from registry.oci.digest import Digest

_VERSION = 1
Error = sqlite3.Error  # what every function here may raise: a damaged file, a full disk
# What lost one that named it is a candidate for removal; what never had one is a download to go on with.
_TRIGGERS = tuple(
    f"CREATE TRIGGER {table}_deleted AFTER DELETE ON {table} BEGIN "  # noqa: S608 -- all of it is ours
    f"INSERT OR IGNORE INTO candidates VALUES (old.{column}); END"
    for table, column in (("manifest_blobs", "digest"), ("manifests", "digest"), ("image_layers", "diff_id"))
)
_SCHEMA = """
CREATE TABLE blobs (digest TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, diff_id TEXT) WITHOUT ROWID;
CREATE TABLE layers (
  diff_id TEXT PRIMARY KEY, link TEXT NOT NULL UNIQUE, files_bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
  id TEXT PRIMARY KEY, created TEXT NOT NULL, size_bytes INTEGER NOT NULL, labels TEXT NOT NULL,
  parent TEXT NOT NULL DEFAULT '', tagged_ns INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE image_layers (
  image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE, position INTEGER NOT NULL, diff_id TEXT NOT NULL,
  PRIMARY KEY (image_id, position)) WITHOUT ROWID;
CREATE INDEX images_of_layer ON image_layers (diff_id);
CREATE TABLE manifests (
  digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL,
  image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX manifests_of_image ON manifests (image_id);
CREATE TABLE manifest_blobs (
  manifest TEXT NOT NULL REFERENCES manifests ON DELETE CASCADE, digest TEXT NOT NULL,
  PRIMARY KEY (manifest, digest)) WITHOUT ROWID;
CREATE INDEX manifests_of_blob ON manifest_blobs (digest);
CREATE TABLE names (
  repository TEXT NOT NULL, tag TEXT NOT NULL, image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
  manifest TEXT NOT NULL, PRIMARY KEY (repository, tag)) WITHOUT ROWID;
CREATE INDEX names_of_image ON names (image_id);
CREATE TABLE digests (
  repository TEXT NOT NULL, digest TEXT NOT NULL, image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
  manifest TEXT NOT NULL, PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE INDEX digests_of_image ON digests (image_id);
CREATE TABLE uses (
  holder TEXT NOT NULL, image_id TEXT NOT NULL REFERENCES images, running INTEGER NOT NULL,
  PRIMARY KEY (holder)) WITHOUT ROWID;
CREATE INDEX uses_of_image ON uses (image_id);
CREATE TABLE candidates (id TEXT PRIMARY KEY) WITHOUT ROWID
"""


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


def connect(path: Path) -> sqlite3.Connection:
    """Open the records, made when they are not there. Transactions are begun by `writing` alone."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        _make(connection)
    return connection


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    with writing(connection):
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in (*_SCHEMA.split(";"), *_TRIGGERS):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that writes; durable when it ends. Raises StoreFull when there is no room for it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise StoreFull from None
        raise


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


# --- what nothing names


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
