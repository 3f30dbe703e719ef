"""The local store's tables and transactions: SQLite, the standard library's module alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.client.images.errors import StoreFull

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
