"""Taking an upload's bytes in: from where it stands, to the content store, hashed while the next piece comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from registry.content.store import Upload
from registry.oci.errors import BlobUploadUnknown, ChunkOutOfOrder
from registry.server.index import uploads
from registry.server.index.engine import Index
from registry.server.index.uploads import Session
from registry.server.service import bodies
from registry.server.service.bodies import Body, Chunk

# Up to this many bytes of an upload live in its index row: a small blob then costs no file of its own before
# it is whole, and its closing request one thread hop.
TAIL_MAX_BYTES = 64 << 10
# A request with a whole blob of up to this size is stored from memory.
WHOLE_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Intake:
    """How bodies come in: in pieces of a size that shrinks as their number grows, and up to a limit (0: none)."""

    piece_bytes: Callable[[], int]
    limit_bytes: int

    def whole_max_bytes(self) -> int:
        """What one request may hold in memory now, as many others may."""
        return min(WHOLE_MAX_BYTES, self.piece_bytes())

    def limited(self, already: int, body: Body) -> Body:
        """*body*, which raises BlobTooLarge when it is too much beside what is there *already*."""
        return bodies.limited(already, self.limit_bytes, body) if self.limit_bytes else body

    async def fill(self, upload: Upload, tail: bytes, body: Body) -> None:
        """Write *tail* and *body*, the next piece being received while the last one is hashed and written."""
        writing: asyncio.Task[None] | None = None
        try:
            async for pieces in bodies.batches(tail, body, self.piece_bytes):
                if writing is not None:
                    await writing
                writing = asyncio.create_task(_append(upload, pieces))
                if self.piece_bytes() <= TAIL_MAX_BYTES:  # very many are under way: a piece each is enough
                    await writing
            if writing is not None:
                await writing
        except BaseException:
            if writing is not None:
                await asyncio.wait([writing])
            raise


async def _append(upload: Upload, pieces: list[bytes]) -> None:
    await upload.append(pieces)


async def resume(index: Index, upload: Upload, session: Session, algorithm: str) -> None:
    """Begin where *session* stands, if it still stands there now that nobody else can write.

    *algorithm* counts while nothing is hashed yet.
    """
    now = await index.read(uploads.get, session.id)
    if now != session:
        await refuse_moved(index, session)
    await upload.begin(session.stored, algorithm)


async def refuse_moved(index: Index, was: Session) -> None:
    """Another request moved the upload meanwhile: say where it stands now."""
    now = await index.read(uploads.get, was.id)
    if now is None or now.finished is not None:
        raise BlobUploadUnknown(was.id)
    raise ChunkOutOfOrder(was.size_bytes, now.id, now.size_bytes)


def expect_in_order(session: Session, chunk: Chunk) -> None:
    """Raises ChunkOutOfOrder when a chunk does not begin where the upload ends."""
    if chunk.begins_at is not None and chunk.begins_at != session.size_bytes:
        raise ChunkOutOfOrder(chunk.begins_at, session.id, session.size_bytes)
