"""The bodies of requests as they come: pieces of no known number, which may break off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from registry.oci.errors import BlobTooLarge, SizeInvalid

Body = AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a request says of its body: where it begins (None: at the end of what is there), and its length."""

    begins_at: int | None = None
    length: int | None = None


def expect_length(chunk: Chunk, received: int) -> None:
    """Raises SizeInvalid when not so many bytes were announced."""
    if chunk.length is not None and chunk.length != received:
        raise SizeInvalid(
            f"the request announced {chunk.length} bytes and sent {received}",
            {"announced": chunk.length, "received": received},
        )


async def collect(body: Body, limit_bytes: int) -> tuple[list[bytes], bool]:
    """Receive up to a little over *limit_bytes*; True when that was the whole body and not more."""
    pieces: list[bytes] = []
    size_bytes = 0
    async for piece in body:
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > limit_bytes:
            return pieces, False
    return pieces, True


async def again(pieces: list[bytes], body: Body) -> Body:
    """*pieces* that were taken from *body* already, then the rest of it."""
    for piece in pieces:
        yield piece
    async for piece in body:
        yield piece


async def batches(tail: bytes, body: Body, piece_bytes: Callable[[], int]) -> AsyncIterator[list[bytes]]:
    """What comes, in lists worth a thread hop; when it breaks off, what came before that is yielded first."""
    pieces = [tail] if tail else []
    waiting = len(tail)
    try:
        async for piece in body:
            pieces.append(piece)
            waiting += len(piece)
            if waiting >= piece_bytes():
                yield pieces
                pieces, waiting = [], 0
    except (Exception, asyncio.CancelledError):
        if pieces:
            yield pieces
        raise
    if pieces:
        yield pieces


async def limited(already: int, limit_bytes: int, body: Body) -> Body:
    """*body*, which raises BlobTooLarge when it and what is there *already* are more than *limit_bytes*."""
    async for piece in body:
        already += len(piece)
        if already > limit_bytes:
            raise BlobTooLarge(limit_bytes)
        yield piece
