"""Bytes from wherever they are into a content store, hashed as they pass."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor

from registry.content import threads
from registry.content.store import BlobStore, Progress
from registry.oci.digest import Digest
from registry.oci.errors import RegistryError

_SMALL_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20


async def store(target: BlobStore, digest: Digest, size_bytes: int, pieces: AsyncIterator[bytes]) -> None:
    """Put a blob into *target*; when this returns it is on stable storage. Safe to repeat.

    Raises DigestInvalid when *pieces* are not what *digest* says; then nothing is stored.
    """
    if size_bytes <= _SMALL_BYTES:
        await target.put(digest, [piece async for piece in pieces])
        return
    session = f"moving-{secrets.token_hex(12)}"
    async with target.upload(session) as upload:
        await upload.begin(Progress(), digest.algorithm)
        try:
            async for piece in pieces:
                await upload.append([piece])
            await upload.commit(digest)
        except (RegistryError, OSError, asyncio.CancelledError):
            await upload.revert()
            await target.discard(session, Progress())
            raise


async def of_blob(source: BlobStore, digest: Digest) -> AsyncIterator[bytes]:
    """A blob's bytes. Raises ContentMissing."""
    blob = await source.open(digest)
    try:
        async for piece in blob.pieces(0, blob.size_bytes, _PIECE_BYTES):
            yield bytes(piece)
    finally:
        blob.close()


async def of_iterator(pool: Executor, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """What a blocking iterator gives, each piece fetched in a thread."""
    while (piece := await threads.run(pool, next, pieces, None)) is not None:
        yield piece
