"""Backups of the index as files: compressed, readable by their owner alone, there only when they are whole.

Everything here blocks: it is for the command line.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from registry.content import disk
from registry.oci.errors import ConfigurationError
from registry.server.index import migrate, snapshot, snapshot_load
from registry.server.index.engine import Transaction
from registry.server.index.snapshot import Contents
from registry.server.index.snapshot_load import BackupInvalid

SUFFIX = ".hythe-backup.gz"
_LEVEL = 3  # a third of the time of the default, for a few percent more bytes


def name_now() -> str:
    """What a backup of now is called."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime()) + SUFFIX


def create(place: Path | str, target: Path) -> tuple[Path, Contents]:
    """Back the index at *place* up into a new file, or into one with the time as its name in a directory.

    Raises ConfigurationError when there is such a file.
    """
    path = target / name_now() if target.is_dir() else target
    if path.exists():
        raise ConfigurationError(f"{path} is there already; name a new file, or a directory")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as opened:
            found = write(place, opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.link(partial, path)  # which fails where a rename would replace another one's
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already; name a new file, or a directory") from None
    finally:
        partial.unlink()
    disk.flush_directory(path.parent)
    return path, found


def write(place: Path | str, stream: BinaryIO) -> Contents:
    """Write a backup of the index at *place*."""
    with (
        gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=_LEVEL) as packed,
        snapshot.connection(place) as tx,
    ):
        return snapshot.dump(tx, packed.write)


@contextlib.contextmanager
def lines(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a backup. Raises BackupInvalid when it cannot be unpacked."""
    try:
        with gzip.open(path, "rb") as packed:
            yield iter(cast(BinaryIO, packed))
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise BackupInvalid(f"{path} is damaged, or no backup") from None


def examine(path: Path) -> Contents:
    """What a backup has, all of which is read. Raises BackupInvalid."""
    with lines(path) as found:
        try:
            return snapshot_load.contents(found)
        except BackupInvalid as error:
            raise BackupInvalid(f"{path}: {error}") from None


def restore(
    place: Path | str,
    path: Path,
    known: Contents,
    replace: bool = False,
    then: Callable[[Transaction], None] | None = None,
) -> Contents:
    """Make the index at *place* what a backup says, of which `examine` said *known*, and run *then* with that.

    Killed at any moment, it is what it was or all of that. Raises BackupInvalid, NotEmpty, and ConfigurationError
    when the tables are those of another release.
    """
    if not migrate.is_known(known.schema):
        raise BackupInvalid(f"{path} is from a later release (schema {known.schema}); restore it with that one")
    with snapshot.connection(place) as tx:
        present = migrate.revisions(tx)[0] or migrate.upgrade(tx, known.schema)[0] or known.schema
        if present != known.schema:
            raise ConfigurationError(
                f"the index has schema {present} already, the backup has {known.schema}: restore it into a new "
                "file or an empty database, which is then brought to this release's schema"
            )
        with lines(path) as found:
            loaded = snapshot_load.load(tx, found, replace, then)
        migrate.upgrade(tx)
    return loaded


def summary(found: Contents) -> dict[str, Any]:
    """What a person wants to know of a backup."""
    names = {"repository": "repositories", "manifest": "manifests", "tag": "tags", "account": "accounts"}
    return {
        "created_ms": found.created_ms,
        "schema": found.schema,
        "database": found.database,
        **{shown: found.rows.get(name, 0) for name, shown in names.items()},
        "rows": sum(found.rows.values()),
    }
