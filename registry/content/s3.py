"""The content store that is a bucket, with any number of servers on it. docs/storage-s3.md has the argument.

A blob of less than one part is an object under its digest. A larger one is a link under its digest, which names
where the bytes are: they went there while nobody knew their digest yet, and are never moved.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from registry import failpoints
from registry.content import disk, holds, s3_aside, s3_sweep, threads
from registry.content.s3_bucket import Bucket, Item
from registry.content.s3_client import Missing, S3Options
from registry.content.s3_gather import Workshop
from registry.content.s3_notes import (
    BLOBS,
    DATA,
    Extent,
    Link,
    blob_key,
    data_key,
    digest_of,
    link_key,
    note_key,
    noted_digest,
    session_of,
)
from registry.content.s3_read import S3Blob, whole
from registry.content.s3_upload import S3Upload
from registry.content.store import Copy, Progress, expect
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import ContentMissing

P = ParamSpec("P")
T = TypeVar("T")

_PARTS_MAX = 10_000  # Source: Amazon S3, "Multipart upload limits"
_LINKS_KEPT = 10_000
_SWEEP_SECONDS = 6 * 3600.0


class S3Store:
    """A BlobStore in a bucket.

    *directory* is on this machine and has what parts are gathered in. *threads* bounds the requests under way:
    so many that read, as many that write, and as many parts.
    """

    def __init__(
        self, options: S3Options, directory: Path, threads: int = 16, parts_max: int = _PARTS_MAX
    ) -> None:
        self.bucket = Bucket(options)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="s3-read")
        self._writers = ThreadPoolExecutor(threads, thread_name_prefix="s3-write")
        self._senders = ThreadPoolExecutor(threads, thread_name_prefix="s3-part")
        self._holds = directory / "holds"
        spools = directory / "spools"
        for path in (self._holds, spools):
            disk.make_directory(path)
        self._shop = Workshop(self.bucket, spools, options.part_bytes, parts_max, self._senders)
        self._links: dict[Digest, Link] = {}
        self._taken: queue.SimpleQueue[tuple[str, Digest]] = queue.SimpleQueue()
        self._swept = 0.0

    async def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await threads.run(self._pool, step, *args, **kwargs)

    def require_bucket(self) -> None:
        """Raise ConfigurationError when the bucket cannot be used, Unavailable when the store does not answer."""
        self.bucket.require()

    # --- reading

    async def size(self, digest: Digest) -> int | None:
        extents = await self._run(self._find, digest)
        return None if extents is None else sum(extent.size_bytes for extent in extents)

    def _find(self, digest: Digest) -> tuple[Extent, ...] | None:
        """Where the bytes of a blob are, now."""
        size_bytes = self.bucket.size(blob_key(digest))
        if size_bytes is not None:
            return (Extent(blob_key(digest), size_bytes),)
        link = self._read_link(digest)
        return None if link is None else link.extents

    def _read_link(self, digest: Digest) -> Link | None:
        return s3_sweep.read_link(self.bucket, link_key(digest))

    async def open(self, digest: Digest) -> S3Blob:
        try:
            extents, stream = await threads.acquire(
                self._pool, lambda: self._open(digest), lambda found: found[1].close()
            )
        except Missing:
            raise ContentMissing(digest) from None
        return S3Blob(self.bucket, self._pool, digest, extents, stream)

    def _open(self, digest: Digest) -> tuple[tuple[Extent, ...], Any]:
        """Where a blob is, and a stream of its first object. A link that was seen before is tried first."""
        link = self._links.get(digest)
        if link is not None:
            with contextlib.suppress(Missing):
                return link.extents, self.bucket.get(link.extents[0].key)
            self._links.pop(digest, None)
        with contextlib.suppress(Missing):
            stream = self.bucket.get(blob_key(digest))
            return (Extent(blob_key(digest), stream.content_length),), stream
        link = self._read_link(digest)
        if link is None:
            raise Missing
        if len(self._links) >= _LINKS_KEPT:
            self._links.clear()
        self._links[digest] = link
        return link.extents, self.bucket.get(link.extents[0].key)

    async def read(self, digest: Digest) -> bytes:
        try:
            return await self._run(lambda: b"".join(self.pieces(digest)))
        except Missing:
            raise ContentMissing(digest) from None

    def pieces(self, digest: Digest) -> Iterator[bytes]:
        """A blob's bytes; blocking. Raises Missing, at once."""
        extents, stream = self._open(digest)
        return whole(self.bucket, extents, stream)

    async def redirect_url(self, digest: Digest, ttl_seconds: int) -> str | None:
        """An address that gives the blob to whoever has it, for so long. None when it is not one object."""
        return await self._run(self._redirect_url, digest, ttl_seconds)

    def _redirect_url(self, digest: Digest, ttl_seconds: int) -> str | None:
        extents = self._find(digest)
        if extents is None or len(extents) > 1:
            return None
        return self.bucket.presigned(extents[0].key, ttl_seconds)

    # --- writing

    async def put(self, digest: Digest, pieces: Sequence[bytes]) -> None:
        await threads.run(self._writers, self._put, digest, b"".join(pieces))

    def _put(self, digest: Digest, data: bytes) -> None:
        hasher = Hasher(digest.algorithm)
        hasher.update(data)
        expect(digest, hasher.digest())
        failpoints.reach("blob.flushed")
        self.bucket.put(blob_key(digest), data)
        failpoints.reach("blob.published")

    async def take_over(self, digest: Digest, source: Bucket, key: str, size_bytes: int) -> None:
        """Copy another bucket's object within the store; its bytes do not pass here. Raises FileNotFoundError.

        `source` has to be beside our bucket.
        """
        await threads.run(self._writers, self._take_over, digest, source, key, size_bytes)

    def _take_over(self, digest: Digest, source: Bucket, key: str, size_bytes: int) -> None:
        session = f"moving-{secrets.token_hex(12)}"
        target = data_key(session)
        try:
            if size_bytes < self._shop.part_bytes:
                self.bucket.copy_from(source, key, blob_key(digest), size_bytes)
            else:
                self.bucket.copy_from(source, key, target, size_bytes)
                self.publish(Link(digest, (Extent(target, size_bytes),)), session)
        except Missing:
            raise FileNotFoundError(key) from None

    @contextlib.asynccontextmanager
    async def upload(self, session: str) -> AsyncIterator[S3Upload]:
        async with holds.hold(self._holds / session) as held:
            upload = S3Upload(self, self._shop, self._writers, session, held)
            try:
                yield upload
            finally:
                await upload.close()

    def has_whole(self, digest: Digest, size_bytes: int) -> bool:
        """Whether a blob is there, with all of its bytes; blocking."""
        if self.bucket.size(blob_key(digest)) == size_bytes:
            return True
        link = self._read_link(digest)
        if link is None or link.size_bytes != size_bytes:
            return False
        return all(self.bucket.size(extent.key) == extent.size_bytes for extent in link.extents)

    def publish(self, link: Link, session: str) -> None:
        """Make a blob of objects that are there; blocking. The note comes first, for the sweep to know them by."""
        self.bucket.put(note_key(session, link.digest), b"")
        self.bucket.put(link_key(link.digest), link.to_bytes())

    async def discard(self, session: str, progress: Progress) -> None:
        await threads.run(self._writers, self._discard, session)

    def _discard(self, session: str) -> None:
        """What is joined already stays for the sweep: only that knows for sure that no link names it."""
        holds.take_away(self._holds / session)
        for item in list(s3_sweep.uploads(self.bucket, session)):
            s3_sweep.remove(self.bucket, item)

    async def delete(self, digest: Digest) -> None:
        await threads.run(self._writers, self._delete, digest)

    def _delete(self, digest: Digest) -> None:
        link = self._read_link(digest)
        self.bucket.delete(blob_key(digest))
        self.bucket.delete(link_key(digest))
        self._links.pop(digest, None)
        for session in {session_of(extent.key) for extent in link.extents} if link else ():
            self._delete_data(session, digest)

    @property
    def is_near(self) -> bool:
        return False

    @property
    def settle_seconds(self) -> float:
        return self.bucket.delete_seconds

    def has(self, digest: Digest) -> bool:
        return self._find(digest) is not None

    def take_away(self, digest: Digest) -> None:
        # Without its link a blob cannot be found; the objects that it is made of have time until `free`.
        try:
            link = self._read_link(digest)
        except ValueError:  # damaged: it leads to nothing
            self.bucket.delete_once(link_key(digest))
            link = None
        if link is not None:
            self.bucket.delete_once(link_key(digest))
            for session in {session_of(extent.key) for extent in link.extents}:
                self._taken.put((session, digest))
        self.bucket.delete_once(blob_key(digest))
        self._links.pop(digest, None)

    async def copy_of(self, digest: Digest) -> Copy | None:
        return await self._run(s3_aside.copy_of, self.bucket, digest)

    async def preserve(self, digest: Digest, copy: Copy) -> None:
        await threads.run(self._writers, s3_aside.preserve, self.bucket, digest)

    def set_aside(self, digest: Digest, copy: Copy | None) -> bool:
        if s3_aside.mark_of(self.bucket, digest) != (None if copy is None else copy.mark):
            return False
        if copy is not None:
            self.take_away(digest)
        return True

    async def free(self) -> None:
        await threads.run(self._writers, self._free)

    def _free(self) -> None:
        """What is not freed here, because this fails or never comes, the sweep will find without a link."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._delete_data(*self._taken.get_nowait())

    def _delete_data(self, session: str, digest: Digest) -> None:
        """Delete bytes whose link is gone, unless another link names bytes of the same upload."""
        self.bucket.delete(note_key(session, digest))
        objects = [item for page in self.bucket.items(f"{DATA}{session}/") for item in page]
        if not any(noted_digest(item.key) for item in objects):
            for item in objects:
                self.bucket.delete(item.key)

    # --- housekeeping

    async def digests(self) -> AsyncIterator[Digest]:
        before = None
        async for item in self._listed(item for page in self.bucket.items(BLOBS) for item in page):
            digest = digest_of(item.key)
            if digest is not None and digest != before:  # one may be an object and a link; they are neighbours
                yield digest
                before = digest

    async def sessions(self) -> AsyncIterator[str]:
        seen = set()
        async for item in self._listed(s3_sweep.uploads(self.bucket)):
            if (session := session_of(item.key)) not in seen:
                seen.add(session)
                yield session

    async def _listed(self, items: Iterator[Item]) -> AsyncIterator[Item]:
        def some() -> list[Item]:
            return [item for item, _ in zip(items, range(1000), strict=False)]

        while page := await self._run(some):
            for item in page:
                yield item

    async def check(self) -> None:
        await threads.run(self._writers, self.bucket.put, "ready", b"ready")

    async def remove_stale_temporaries(self, older_than: float) -> None:
        """Free what killed requests left and nobody touched since *older_than* (seconds of the epoch)."""
        await self._run(self._sweep, older_than)

    def _sweep(self, older_than: float) -> None:
        holds.remove_old(self._holds, older_than)
        living = s3_sweep.remove_abandoned(self.bucket, older_than)
        if time.monotonic() >= self._swept:  # every list of all data costs a request for a thousand of them
            self._swept = time.monotonic() + _SWEEP_SECONDS
            s3_sweep.remove_unpublished(self.bucket, older_than, living)

    async def clear_quarantine(self, older_than: float) -> int:
        return await self._run(s3_aside.clear, self.bucket, older_than)

    def close(self) -> None:
        """Wait for the requests that are under way."""
        for pool in (self._writers, self._senders, self._pool):
            pool.shutdown(wait=True)
        self.bucket.close()
