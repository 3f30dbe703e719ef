"""How bytes become a blob: the end of an upload, and a blob that comes in one request.

What an upload to a distant store is made of is used up when it becomes a blob, and can be used by several requests
at once. So there a closing request first says that it is at it, and claims the digest (docs/storage-s3.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

from registry import failpoints
from registry.content.store import BlobStore, Progress, Upload
from registry.oci.digest import Digest
from registry.oci.errors import BlobUploadUnknown, DigestInvalid, RegistryError, Unavailable
from registry.oci.reference import Repository
from registry.server.auth.caller import Caller
from registry.server.index import blobs, claims, uploads
from registry.server.index.engine import Index, Transaction
from registry.server.index.uploads import Session
from registry.server.service import bodies, publishing, receiving
from registry.server.service.bodies import Body, Chunk
from registry.server.service.quotas import Quotas
from registry.server.service.receiving import Intake


class Finisher:
    """Makes blobs of what came, each with its row: bytes first."""

    def __init__(self, index: Index, store: BlobStore, quotas: Quotas, intake: Intake) -> None:
        self._index = index
        self._store = store
        self._quotas = quotas
        self._intake = intake

    async def finish(self, caller: Caller, session: Session, digest: Digest, chunk: Chunk, body: Body) -> int:
        """Take the last chunk of an open upload, if there is one, publish the blob, and return its length."""
        receiving.expect_in_order(session, chunk)
        body = self._intake.limited(session.size_bytes, body)
        if not session.stored.size_bytes:
            pieces, whole = await bodies.collect(body, self._intake.whole_max_bytes())
            if whole:
                bodies.expect_length(chunk, sum(map(len, pieces)))
                pieces = [session.tail, *pieces]
                return await self._store_whole(caller, session.repository, digest, pieces, session.id)
            body = bodies.again(pieces, body)
        return await self._finish_in_store(caller, session, digest, chunk, body)

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
            await receiving.resume(self._index, upload, session, digest.algorithm)
            try:
                await self._intake.fill(upload, session.tail, body)
                bodies.expect_length(chunk, upload.size_bytes - session.size_bytes)
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
            await receiving.refuse_moved(self._index, session)
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
        body = self._intake.limited(0, body)
        pieces, whole = await bodies.collect(body, self._intake.whole_max_bytes())
        if whole:
            bodies.expect_length(Chunk(length=length), sum(map(len, pieces)))
            return await self._store_whole(caller, repository, digest, pieces, None)
        return await self._push_large(caller, repository, digest, length, bodies.again(pieces, body))

    async def _push_large(
        self, caller: Caller | None, repository: Repository, digest: Digest, length: int | None, body: Body
    ) -> int:
        name, far = str(uuid.uuid4()), not self._store.is_near
        try:
            async with self._store.upload(name) as upload:
                await upload.begin(Progress(), digest.algorithm)
                await self._intake.fill(upload, b"", body)
                bodies.expect_length(Chunk(length=length), upload.size_bytes)
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
