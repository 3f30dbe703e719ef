"""From settings to backups and rebuilding: what works on an index that no server may be able to start with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from registry.config import Settings
from registry.content.store import BlobStore
from registry.oci.errors import ConfigurationError, Unavailable
from registry.server import storage, wiring
from registry.server.index import audit, jobs, recovered, snapshot
from registry.server.index.engine import Index, Transaction
from registry.server.index.snapshot import Contents
from registry.server.index.snapshot_load import NotEmpty
from registry.server.service import backup, collect, lease, rebuild
from registry.server.service.administration.changes import Actor
from registry.server.service.rebuild import Found, Rebuilding


def index_place(settings: Settings) -> Path | str:
    """Where the index is: a file, or a database's address. Raises ConfigurationError when there is none."""
    if settings.index.is_postgres():
        return settings.index.url
    path = wiring.index_path(settings)
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no index")
    return path


def restore(settings: Settings, file: Path, actor: Actor, replace: bool) -> Contents:
    """Make the index what a backup says. Raises BackupInvalid, NotEmpty, ConfigurationError, OSError."""

    def record(tx: Transaction) -> None:
        audit.write(tx, actor.name, actor.address, "index.restore", file.name)

    known = backup.examine(file)
    return backup.restore(_new_place(settings), file, known, replace, record)


def _new_place(settings: Settings) -> Path | str:
    """As `index_place`; the file is created when it is missing."""
    if not settings.index.is_postgres():
        path = wiring.index_path(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        wiring.keep_private(path)
    return index_place(settings)


async def rebuild_index(settings: Settings, file: Path | None, actor: Actor, add: bool) -> Found:
    """Make the index anew from the store, beginning with a backup if there is one; again, if that was cut off.

    Raises NotEmpty, unless *add*, and what `restore` and the store raise.
    """
    if file is not None:
        _begin_with(settings, file)
    wiring.migrate_index(settings)
    async with _opened(settings) as (index, store):
        is_begun = (await index.read(jobs.get, rebuild.JOB)).finished_ms is None and file is not None
        if not (add or is_begun) and await index.read(recovered.others, rebuild.REPOSITORY):
            raise NotEmpty("the index has repositories; --add adds what the storage has and the index has not")
        async with lease.take_in_time(index, collect.JOB) as taken:
            if taken is None:
                raise Unavailable("a collection is under way; stop the servers, or: hythe admin gc pause")
            if not is_begun:
                await index.write(jobs.begin, rebuild.JOB, taken.holder)
            found = await Rebuilding(index, store, settings.limits.manifest_size_bytes).run(taken)
            detail = {"stored": found.stored, "manifests": found.manifests, "blobs": found.blobs}
            await index.write(_end, actor, detail)
            return found


def _end(tx: Transaction, actor: Actor, detail: dict[str, int]) -> None:
    audit.write(tx, actor.name, actor.address, "index.rebuild", "index", "done", **detail)
    jobs.progress(tx, rebuild.JOB, detail, finished=True)


def _begin_with(settings: Settings, file: Path) -> None:
    """Restore a backup, unless a rebuilding that was cut off has done so."""
    known = backup.examine(file)
    mark = {"backup": known.created_ms}

    def begin(tx: Transaction) -> None:
        jobs.begin(tx, rebuild.JOB, "")
        jobs.progress(tx, rebuild.JOB, mark)

    place = _new_place(settings)
    try:
        backup.restore(place, file, known, then=begin)
    except NotEmpty:
        with snapshot.connection(place) as tx:
            job = jobs.get(tx, rebuild.JOB)
        if job.started_ms is None or job.finished_ms is not None or job.detail != mark:
            raise


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Index, BlobStore]]:
    index = wiring.make_index(settings)
    store = storage.make_store(settings)
    try:
        yield index, store
    finally:
        index.close()
        store.close()
