"""All blobs of one content store into another, each hashed as it passes, while both are in use.

A blob is in a store whole or not at all, so what is there already is not copied again: a run that was broken off
goes on, and a later one brings what came since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from registry import failpoints
from registry.content import streaming
from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, DigestInvalid

_AT_ONCE = 8


@dataclass(slots=True)
class Copied:
    """How far a copy is. `damaged` have other bytes than their digest says, and were not copied."""

    blobs: int = 0
    blobs_bytes: int = 0
    present: int = 0
    deleted_meanwhile: int = 0
    damaged: list[Digest] = field(default_factory=list)


async def copy(
    source: BlobStore, target: BlobStore, progress: Callable[[Copied], None], dry_run: bool = False
) -> Copied:
    """Copy what *target* does not have. Raises StorageFull, Unavailable; may be repeated."""
    there = {_short(digest) async for digest in target.digests()}
    done, room = Copied(), asyncio.Semaphore(_AT_ONCE)

    async def one(digest: Digest) -> None:
        try:
            size_bytes = await source.size(digest)
            if size_bytes is None:
                raise ContentMissing(digest)
            if not dry_run:
                await streaming.store(target, digest, size_bytes, streaming.of_blob(source, digest))
                failpoints.reach("copy.stored")
            done.blobs += 1
            done.blobs_bytes += size_bytes
        except ContentMissing:
            done.deleted_meanwhile += 1  # by the collection of whoever serves from it
        except DigestInvalid:
            done.damaged.append(digest)
        finally:
            room.release()
        progress(done)

    try:
        async with asyncio.TaskGroup() as group:
            async for digest in source.digests():
                if _short(digest) in there:
                    done.present += 1
                    progress(done)
                else:
                    await room.acquire()
                    group.create_task(one(digest))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return done


def _short(digest: Digest) -> bytes:
    """A digest in as few bytes as it has: there may be millions of them."""
    return bytes.fromhex(digest.encoded)
