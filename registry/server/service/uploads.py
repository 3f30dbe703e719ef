"""Pushing a blob: begin, append, finish, cancel, mount.

An upload belongs to one repository and one caller. Its first bytes, while they are few, travel in its index
row; more of them make it a file or a multipart upload, held by one request at a time. Every step leaves a
state that a client can go on from, whichever process takes its next request.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace

from registry import failpoints
from registry.content.store import BlobStore, Upload
from registry.oci.digest import DEFAULT_ALGORITHM, Digest
from registry.oci.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    HytheError,
    TooManyRequests,
    Unavailable,
    UploadBusy,
)
from registry.oci.reference import Repository
from registry.server.auth.caller import Caller
from registry.server.index import blobs, claims, uploads
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.index.uploads import Session
from registry.server.service import bodies, receiving
from registry.server.service.bodies import Body, Chunk
from registry.server.service.finishing import Finisher
from registry.server.service.links import Links
from registry.server.service.policy import Policy
from registry.server.service.quotas import Quotas
from registry.server.service.receiving import Intake

_FINISHED_KEPT_SECONDS = 900


class Uploads:
    """The uploads of one registry."""

    def __init__(
        self,
        index: Index,
        store: BlobStore,
        policy: Policy,
        piece_bytes: Callable[[], int],
        quotas: Quotas | None = None,
    ) -> None:
        self._index = index
        self._quotas = quotas or Quotas(index, ())
        self._store = store
        self._policy = policy
        self._links = Links(index, policy.gc_grace_seconds)
        self._intake = Intake(piece_bytes, policy.blob_size_max_bytes)
        self._finisher = Finisher(index, store, self._quotas, self._intake)

    async def begin(self, caller: Caller, repository: Repository, algorithm: str = DEFAULT_ALGORITHM) -> Session:
        """Open an upload. Raises TooManyRequests when the caller has too many open, and QuotaExceeded."""
        await self._quotas.require_room(caller, repository)
        session = Session(str(uuid.uuid4()), repository, caller.name, algorithm)
        if not await self._index.note(uploads.add, session, self._policy.uploads_open_max):
            raise TooManyRequests(
                f"{caller.name} has {self._policy.uploads_open_max} uploads open; finish or cancel some", 60
            )
        return session

    async def status(self, caller: Caller, repository: Repository, name: str) -> Session:
        """An upload that is open. Raises BlobUploadUnknown, also for other repositories' and callers'."""
        session = await self._find(caller, repository, name)
        if session.finished is not None:
            raise BlobUploadUnknown(name)
        return session

    async def _find(self, caller: Caller, repository: Repository, name: str) -> Session:
        session = await self._index.read(uploads.get, name)
        if session is None or session.repository != repository or session.owner != caller.name:
            raise BlobUploadUnknown(name)
        return session

    async def append(self, caller: Caller, repository: Repository, name: str, chunk: Chunk, body: Body) -> Session:
        """Take one chunk in and return where the upload stands.

        Raises ChunkOutOfOrder, SizeInvalid when the body is not as long as it said, UploadBusy. A body that
        breaks off is kept as far as it came, when that is more than the index row holds; one with a wrong
        length is not kept.
        """
        session = await self.status(caller, repository, name)
        receiving.expect_in_order(session, chunk)
        body = self._intake.limited(session.size_bytes, body)
        if not session.stored.size_bytes:
            pieces, whole = await bodies.collect(body, receiving.TAIL_MAX_BYTES - len(session.tail))
            if whole:
                return await self._append_to_tail(session, chunk, pieces)
            body = bodies.again(pieces, body)
        return await self._append_to_store(session, chunk, body)

    async def _append_to_tail(self, session: Session, chunk: Chunk, pieces: list[bytes]) -> Session:
        data = b"".join(pieces)
        bodies.expect_length(chunk, len(data))
        grown = replace(session, tail=session.tail + data)
        await self._advance(session, grown)
        return grown

    async def _advance(self, was: Session, grown: Session) -> None:
        if not await self._index.note(uploads.advance, was, grown.stored, grown.tail):
            await receiving.refuse_moved(self._index, was)
        failpoints.reach("upload.parked")

    async def _append_to_store(self, session: Session, chunk: Chunk, body: Body) -> Session:
        async with self._store.upload(session.id) as upload:
            await receiving.resume(self._index, upload, session, session.algorithm)
            try:
                await self._intake.fill(upload, session.tail, body)
                bodies.expect_length(chunk, upload.size_bytes - session.size_bytes)
            except HytheError:
                await upload.revert()
                raise
            except BaseException:
                # The client went away, or this server is stopping: what came is not lost.
                await asyncio.shield(self._park(upload, session))
                raise
            return await self._park(upload, session)

    async def _park(self, upload: Upload, session: Session) -> Session:
        grown = replace(session, stored=await upload.park(), tail=b"")
        if grown.size_bytes > session.size_bytes:
            await self._advance(session, grown)
        return grown

    async def finish(
        self, caller: Caller, repository: Repository, name: str, digest: Digest, chunk: Chunk, body: Body
    ) -> int:
        """Take the last chunk, if there is one, publish the blob and return its length in bytes.

        The same request again is answered the same. Raises what `append` does, and DigestInvalid, after which
        the upload stands where it stood before.
        """
        session = await self._find(caller, repository, name)
        if session.finished is not None:
            return await self._finished_before(session, digest)
        try:
            return await self._finisher.finish(caller, session, digest, chunk, body)
        except (BlobUploadUnknown, UploadBusy, Unavailable):
            # The same request was sent twice, and the other one was first.
            now = await self._index.read(uploads.get, name)
            if now is None or now.finished is None:
                raise
            return await self._finished_before(now, digest)

    async def _finished_before(self, session: Session, digest: Digest) -> int:
        if session.finished != digest:
            raise BlobUploadUnknown(session.id)
        try:
            return await self._links.size(session.repository, digest)
        except BlobUnknown:
            raise BlobUploadUnknown(session.id) from None

    async def push_whole(
        self,
        repository: Repository,
        digest: Digest,
        length: int | None,
        body: Body,
        caller: Caller | None = None,
    ) -> int:
        """Store a blob that comes in one request, and return its length in bytes. Raises QuotaExceeded too."""
        return await self._finisher.push_whole(repository, digest, length, body, caller)

    async def cancel(self, caller: Caller, repository: Repository, name: str) -> None:
        """Forget an upload and free its bytes."""
        session = await self.status(caller, repository, name)
        is_free = await self._index.write(uploads.remove, name)
        failpoints.reach("upload.cancelled")
        if is_free:
            await self._store.discard(session.id, session.stored)

    async def mount(
        self, caller: Caller, repository: Repository, digest: Digest, source: Repository | None
    ) -> bool:
        """Link a blob that another repository has and that the caller may pull there; False when none has."""
        sources = [source] if source is not None else await self._holders(digest)
        for candidate in sources:
            if not caller.may("pull", candidate):
                continue
            size_bytes = await self._index.read(blobs.size, candidate, digest)
            if size_bytes is None:
                continue
            await self._quotas.take(caller, repository, digest, size_bytes)
            if await self._index.write(_link_from, candidate, repository, digest):
                return True
        return False

    async def _holders(self, digest: Digest) -> list[Repository]:
        return [Repository(name) for name in await self._index.read(blobs.holders, digest)]

    async def expire(self) -> int:
        """Forget uploads that nobody touched for long, free their bytes, and return how many there were."""
        open_before = now_ms() - int(self._policy.upload_expiry_seconds * 1000)
        finished_before = now_ms() - _FINISHED_KEPT_SECONDS * 1000
        expired = await self._index.read(uploads.stale, open_before, finished_before, 1000)
        for session in expired:
            is_free = await self._index.note(uploads.remove, session.id)
            if session.finished is None and is_free:
                await self._store.discard(session.id, session.stored)
        if not self._store.is_near:
            await self._index.note(claims.expire, self._policy.upload_expiry_seconds, 1000)
        return len(expired)


def _link_from(tx: Transaction, source: Repository, target: Repository, digest: Digest) -> bool:
    # The link keeps the bytes, and is kept itself until the new one is there.
    if not blobs.keep_link(tx, source, digest):
        return False
    size_bytes = blobs.size(tx, source, digest)
    if size_bytes is None:
        return False
    blobs.link(tx, target, digest, size_bytes)
    return True
