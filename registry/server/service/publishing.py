"""Bytes first, then the row that names them, with no collection in between.

A collection that runs beside a push may delete the bytes after they were published and before a row names them,
as nothing names them yet. So the transaction that writes the row takes the digest's lock, and sees that the bytes
are there; if not, they are published again from what the push still holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, RegistryError
from registry.server.index import candidates, sweeps
from registry.server.index.engine import Index, Transaction
from registry.server.index.sweeps import BeingDeleted

P = ParamSpec("P")
T = TypeVar("T")

# Each try is lost only to a deletion that hits the same digest in the same moment.
_PAUSES_SECONDS = (0.0, 0.05, 0.2, 0.5, 1.0)


async def claimed(
    index: Index, claim: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run *claim*, which takes a claim (claims.py), as soon as nobody is deleting the same bytes.

    Raises BeingDeleted. That may be taken back by a power cut of the database: then `publish` sees what was lost.
    """
    for pause in _PAUSES_SECONDS:
        try:
            return await index.note(claim, *args, **kwargs)
        except BeingDeleted:
            await asyncio.sleep(pause)
    return await index.note(claim, *args, **kwargs)


async def publish(
    index: Index,
    store: BlobStore,
    digest: Digest,
    put: Callable[[], Awaitable[object]],
    record: Callable[Concatenate[Transaction, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Publish bytes by *put*, which may be repeated, and run *record*, which names them and takes their lock."""
    return await publish_all(index, store, [digest], put, record, *args, **kwargs)


async def publish_all(
    index: Index,
    store: BlobStore,
    digests: Sequence[Digest],
    put: Callable[[], Awaitable[object]],
    record: Callable[Concatenate[Transaction, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """As `publish`, of several blobs: *put* sees that all are there, and *record* takes the locks of all."""
    for pause in _PAUSES_SECONDS:
        swept = dict.fromkeys(digests, -1) if store.is_near else await index.read(_swept, digests)
        await put()
        try:
            return await index.write(_record, store, swept, record, args, kwargs)
        except (ContentMissing, BeingDeleted):
            await asyncio.sleep(pause)
        except RegistryError:  # refused: nothing names the bytes, and nothing else would find them soon
            with contextlib.suppress(RegistryError):
                await index.note(candidates.add, candidates.BYTES, digests, "refused")
            raise
    raise BeingDeleted


def _swept(tx: Transaction, digests: Sequence[Digest]) -> dict[Digest, int]:
    return {digest: sweeps.count(tx, digest) for digest in digests}


def _record(
    tx: Transaction,
    store: BlobStore,
    swept: Mapping[Digest, int],
    record: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> T:
    result = record(tx, *args, **kwargs)
    # Under the locks, which *record* has taken: what is there now stays.
    for digest, count in swept.items():
        if _may_be_gone(tx, store, digest, count) and not store.has(digest):
            raise ContentMissing(digest)
    return result


def _may_be_gone(tx: Transaction, store: BlobStore, digest: Digest, swept: int) -> bool:
    """Whether the store has to be asked: a directory always, a distant one after a deletion alone."""
    if store.is_near:
        return True
    now = sweeps.state(tx, digest)
    if now.is_condemned:
        raise BeingDeleted
    if now.is_abandoned:
        sweeps.pardon(tx, digest)
    return now.is_abandoned or now.count != swept
