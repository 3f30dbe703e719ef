"""Pushing a blob: begin, append, finish, cancel, mount.

An upload belongs to one repository and one caller. Its first bytes, while they are few, travel in its index
row; more of them make it a file or a multipart upload, held by one request at a time. Every step leaves a
state that a client can go on from, whichever process takes its next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from registry import failpoints
from registry.content.store import BlobStore, Progress, Upload
from registry.oci.digest import DEFAULT_ALGORITHM, Digest
from registry.oci.errors import (
    BlobTooLarge,
    BlobUnknown,
    BlobUploadUnknown,
    ChunkOutOfOrder,
    DigestInvalid,
    HytheError,
    RegistryError,
    SizeInvalid,
    TooManyRequests,
    Unavailable,
)
from registry.oci.reference import Repository
from registry.server.auth.caller import Caller
from registry.server.index import blobs, claims, uploads
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.index.uploads import Session
from registry.server.service import publishing
from registry.server.service.links import Links
from registry.server.service.policy import Policy
from registry.server.service.quotas import Quotas

# Up to this many bytes of an upload live in its index row: a small blob then costs no file of its own before
# it is whole, and its closing request one thread hop.
TAIL_MAX_BYTES = 64 << 10
# A request with a whole blob of up to this size is stored from memory.
WHOLE_MAX_BYTES = 1 << 20
_FINISHED_KEPT_SECONDS = 900

Body = AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a request says of its body: where it begins (None: at the end of what is there), and its length."""

    begins_at: int | None = None
    length: int | None = None


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
        self._piece_bytes = piece_bytes

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
        _expect_in_order(session, chunk)
        body = self._limited(session.size_bytes, body)
        if not session.stored.size_bytes:
            pieces, whole = await _collect(body, TAIL_MAX_BYTES - len(session.tail))
            if whole:
                return await self._append_to_tail(session, chunk, pieces)
            body = _again(pieces, body)
        return await self._append_to_store(session, chunk, body)

    async def _append_to_tail(self, session: Session, chunk: Chunk, pieces: list[bytes]) -> Session:
        data = b"".join(pieces)
        _expect_length(chunk, len(data))
        grown = replace(session, tail=session.tail + data)
        await self._advance(session, grown)
        return grown

    async def _advance(self, was: Session, grown: Session) -> None:
        if not await self._index.note(uploads.advance, was, grown.stored, grown.tail):
            await self._refuse_moved(was)
        failpoints.reach("upload.parked")

    async def _refuse_moved(self, was: Session) -> None:
        """Another request moved the upload meanwhile: say where it stands now."""
        now = await self._index.read(uploads.get, was.id)
        if now is None or now.finished is not None:
            raise BlobUploadUnknown(was.id)
        raise ChunkOutOfOrder(was.size_bytes, now.id, now.size_bytes)

    async def _append_to_store(self, session: Session, chunk: Chunk, body: Body) -> Session:
        async with self._store.upload(session.id) as upload:
            await self._resume(upload, session, session.algorithm)
            try:
                await self._fill(upload, session.tail, body)
                _expect_length(chunk, upload.size_bytes - session.size_bytes)
            except HytheError:
                await upload.revert()
                raise
            except BaseException:
                # The client went away, or this server is stopping: what came is not lost.
                await asyncio.shield(self._park(upload, session))
                raise
            return await self._park(upload, session)

    async def _resume(self, upload: Upload, session: Session, algorithm: str) -> None:
        """Begin where *session* stands, if it still stands there now that nobody else can write.

        *algorithm* counts while nothing is hashed yet.
        """
        now = await self._index.read(uploads.get, session.id)
        if now != session:
            await self._refuse_moved(session)
        await upload.begin(session.stored, algorithm)

    async def _park(self, upload: Upload, session: Session) -> Session:
        grown = replace(session, stored=await upload.park(), tail=b"")
        if grown.size_bytes > session.size_bytes:
            await self._advance(session, grown)
        return grown

    async def _fill(self, upload: Upload, tail: bytes, body: Body) -> None:
        """Write *tail* and *body*, the next piece being received while the last one is hashed and written."""
        writing: asyncio.Task[None] | None = None
        try:
            async for pieces in _batches(tail, body, self._piece_bytes):
                if writing is not None:
                    await writing
                writing = asyncio.create_task(_append(upload, pieces))
                if self._piece_bytes() <= TAIL_MAX_BYTES:  # very many are under way: a piece each is enough
                    await writing
            if writing is not None:
                await writing
        except BaseException:
            if writing is not None:
                await asyncio.wait([writing])
            raise

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
            return await self._finish(caller, session, digest, chunk, body)
        except (BlobUploadUnknown, Unavailable):
            # The same request was sent twice, and the other one was first.
            now = await self._index.read(uploads.get, name)
            if now is None or now.finished is None:
                raise
            return await self._finished_before(now, digest)

    async def _finish(self, caller: Caller, session: Session, digest: Digest, chunk: Chunk, body: Body) -> int:
        _expect_in_order(session, chunk)
        body = self._limited(session.size_bytes, body)
        if not session.stored.size_bytes:
            pieces, whole = await _collect(body, self._whole_max_bytes())
            if whole:
                _expect_length(chunk, sum(map(len, pieces)))
                pieces = [session.tail, *pieces]
                return await self._store_whole(caller, session.repository, digest, pieces, session.id)
            body = _again(pieces, body)
        return await self._finish_in_store(caller, session, digest, chunk, body)

    async def _finished_before(self, session: Session, digest: Digest) -> int:
        if session.finished != digest:
            raise BlobUploadUnknown(session.id)
        try:
            return await self._links.size(session.repository, digest)
        except BlobUnknown:
            raise BlobUploadUnknown(session.id) from None

    async def _finish_in_store(
        self, caller: Caller, session: Session, digest: Digest, chunk: Chunk, body: Body
    ) -> int:
        size_bytes, is_free = await self._commit_in_store(caller, session, digest, chunk, body)
        if is_free:
            with contextlib.suppress(RegistryError):  # what cannot be freed now is swept up later
                await self._store.discard(session.id, session.stored)
        return size_bytes

    async def _commit_in_store(
        self, caller: Caller, session: Session, digest: Digest, chunk: Chunk, body: Body
    ) -> tuple[int, bool]:
        """The blob's length, and whether parts are left over that may be freed."""
        async with self._store.upload(session.id) as upload:
            await self._resume(upload, session, digest.algorithm)
            try:
                await self._fill(upload, session.tail, body)
                _expect_length(chunk, upload.size_bytes - session.size_bytes)
                await self._quotas.take(caller, session.repository, digest, upload.size_bytes)
                is_contested = await self._close(session, digest)
            except BaseException:
                await asyncio.shield(upload.revert())
                raise
            commit = partial(self._commit, upload, session, digest, is_contested)
            alone = await self._publish(session.repository, digest, upload.size_bytes, session.id, commit)
            return upload.size_bytes, alone and upload.has_leftovers

    async def _close(self, session: Session, digest: Digest) -> bool:
        """From here on the parts are joined: whoever cancels leaves them alone, nobody deletes what they become.

        Whether others may be joining them too. Raises BlobUploadUnknown, BeingDeleted.
        """
        if self._store.is_near:  # the hold keeps everybody else out, and what it has can be published again
            return False
        closing = await publishing.claimed(self._index, uploads.close, session.id, digest)
        if closing is None:
            await self._refuse_moved(session)
        return closing is not None and closing.is_contested

    async def _commit(self, upload: Upload, session: Session, digest: Digest, is_contested: bool) -> None:
        try:
            await upload.commit(digest)
        except DigestInvalid:
            await asyncio.shield(self._reopen(upload, session))
            raise
        except BaseException as error:
            await asyncio.shield(upload.revert())
            if is_contested and isinstance(error, BlobUploadUnknown):
                # What another one is making of the parts is seen soon, or they are there again.
                raise Unavailable("another request is finishing this upload; try again soon") from error
            raise

    async def _reopen(self, upload: Upload, session: Session) -> None:
        await upload.revert()
        if not self._store.is_near:
            await self._index.note(uploads.reopen, session.id)

    async def push_whole(
        self,
        repository: Repository,
        digest: Digest,
        length: int | None,
        body: Body,
        caller: Caller | None = None,
    ) -> int:
        """Store a blob that comes in one request, and return its length in bytes. Raises QuotaExceeded too."""
        body = self._limited(0, body)
        pieces, whole = await _collect(body, self._whole_max_bytes())
        if whole:
            _expect_length(Chunk(length=length), sum(map(len, pieces)))
            return await self._store_whole(caller, repository, digest, pieces, None)
        return await self._push_large(caller, repository, digest, length, _again(pieces, body))

    async def _push_large(
        self, caller: Caller | None, repository: Repository, digest: Digest, length: int | None, body: Body
    ) -> int:
        name, far = str(uuid.uuid4()), not self._store.is_near
        try:
            async with self._store.upload(name) as upload:
                await upload.begin(Progress(), digest.algorithm)
                await self._fill(upload, b"", body)
                _expect_length(Chunk(length=length), upload.size_bytes)
                await self._quotas.take(caller, repository, digest, upload.size_bytes)
                if far:
                    await publishing.claimed(self._index, claims.take, digest, name)
                commit = partial(upload.commit, digest)
                await self._publish(repository, digest, upload.size_bytes, None, commit, name if far else None)
                return upload.size_bytes
        except BaseException:
            await asyncio.shield(self._give_up(name, far))
            raise

    async def _give_up(self, name: str, is_claimed: bool) -> None:
        await self._store.discard(name, Progress())
        if is_claimed:
            with contextlib.suppress(RegistryError):  # then `expire` finds it
                await self._index.note(claims.release, name)

    async def _store_whole(
        self,
        caller: Caller | None,
        repository: Repository,
        digest: Digest,
        pieces: list[bytes],
        session: str | None,
    ) -> int:
        size_bytes = sum(map(len, pieces))
        await self._quotas.take(caller, repository, digest, size_bytes)
        await self._publish(repository, digest, size_bytes, session, partial(self._store.put, digest, pieces))
        return size_bytes

    async def _publish(
        self,
        repository: Repository,
        digest: Digest,
        size_bytes: int,
        session: str | None,
        put: Callable[[], Awaitable[object]],
        claim: str | None = None,
    ) -> bool:
        """Publish, and record it. True when nobody else is finishing the same upload."""

        def link_and_finish(tx: Transaction) -> bool:
            blobs.link(tx, repository, digest, size_bytes)
            if claim is not None:
                claims.release(tx, claim, digest)
            return session is None or uploads.finish(tx, session, digest)

        alone = await publishing.publish(self._index, self._store, digest, put, link_and_finish)
        failpoints.reach("blob.linked")
        return alone

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

    def _whole_max_bytes(self) -> int:
        """What one request may hold in memory now, as many others may."""
        return min(WHOLE_MAX_BYTES, self._piece_bytes())

    def _limited(self, already: int, body: Body) -> Body:
        limit = self._policy.blob_size_max_bytes
        return _limited(already, limit, body) if limit else body

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


async def _append(upload: Upload, pieces: list[bytes]) -> None:
    await upload.append(pieces)


def _expect_in_order(session: Session, chunk: Chunk) -> None:
    if chunk.begins_at is not None and chunk.begins_at != session.size_bytes:
        raise ChunkOutOfOrder(chunk.begins_at, session.id, session.size_bytes)


def _expect_length(chunk: Chunk, received: int) -> None:
    if chunk.length is not None and chunk.length != received:
        raise SizeInvalid(
            f"the request announced {chunk.length} bytes and sent {received}",
            {"announced": chunk.length, "received": received},
        )


async def _collect(body: Body, limit_bytes: int) -> tuple[list[bytes], bool]:
    """Receive up to a little over *limit_bytes*; True when that was the whole body and not more."""
    pieces: list[bytes] = []
    size_bytes = 0
    async for piece in body:
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > limit_bytes:
            return pieces, False
    return pieces, True


async def _again(pieces: list[bytes], body: Body) -> Body:
    """*pieces* that were taken from *body* already, then the rest of it."""
    for piece in pieces:
        yield piece
    async for piece in body:
        yield piece


async def _batches(tail: bytes, body: Body, piece_bytes: Callable[[], int]) -> AsyncIterator[list[bytes]]:
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


async def _limited(already: int, limit_bytes: int, body: Body) -> Body:
    async for piece in body:
        already += len(piece)
        if already > limit_bytes:
            raise BlobTooLarge(limit_bytes)
        yield piece
