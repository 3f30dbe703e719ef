"""The Upload of a bucket: a hash and a gathering of bytes, and how they become a blob."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import ParamSpec, Protocol, TypeVar

from registry import failpoints
from registry.content import threads
from registry.content.holds import Hold
from registry.content.s3_client import Missing
from registry.content.s3_gather import Gathering, Workshop
from registry.content.s3_notes import Extent, Link, Parts, blob_key, data_key
from registry.content.store import Progress, expect
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import BlobUploadUnknown

P = ParamSpec("P")
T = TypeVar("T")


class Shelf(Protocol):
    """What publishing needs of the store; each blocks."""

    def has_whole(self, digest: Digest, size_bytes: int) -> bool:
        """Whether a blob is there, with all of its bytes."""
        ...

    def publish(self, link: Link, session: str) -> None:
        """Make a blob of objects that are there, which are *session*'s."""
        ...

    def pieces(self, digest: Digest) -> Iterable[bytes]:
        """A blob's bytes. Raises Missing."""
        ...


class S3Upload:
    """See `store.Upload`."""

    def __init__(self, shelf: Shelf, workshop: Workshop, threads: Executor, session: str, hold: Hold) -> None:
        self._shelf = shelf
        self._shop = workshop
        self._threads = threads
        self._session = session
        self._hold = hold
        # It is a blob by now, or gone: nothing is added to it, or taken from it, any more.
        self._sealed = False
        self._gathering = Gathering(workshop, session, Parts())
        self.size_bytes = 0
        self.has_leftovers = False

    async def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def with_an_answer() -> T:
            try:
                return step(*args, **kwargs)
            except Missing:
                raise BlobUploadUnknown(self._session) from None

        return await threads.run(self._threads, with_an_answer)

    async def begin(self, progress: Progress, algorithm: str) -> None:
        self._progress = progress
        self._algorithm = algorithm
        self._start()
        failpoints.reach("upload.created")

    def _start(self) -> None:
        try:
            parts = Parts.from_bytes(self._progress.parts)
        except ValueError:
            raise BlobUploadUnknown(self._session) from None
        state = self._progress.hash_state
        self._hasher = Hasher.resume(state) if state else Hasher(self._algorithm)
        self._gathering = Gathering(self._shop, self._session, parts)
        self._parked = self._progress
        self.size_bytes = self._progress.size_bytes

    async def append(self, pieces: Sequence[bytes]) -> None:
        await self._run(self._append, [piece for piece in pieces if piece])

    def _append(self, pieces: Sequence[bytes]) -> None:
        if pieces and not self._sealed:
            try:
                self._gathering.take_up()
            except Missing:
                self._seal()
        for piece in pieces:
            self._hasher.update(piece)
            self.size_bytes += len(piece)
            if not self._sealed:  # else they are the same once more, or `commit` will say that they are not
                self._gathering.add(piece)
        failpoints.reach("upload.written")

    def _seal(self) -> None:
        self._sealed = True
        self._gathering.close()

    async def park(self) -> Progress:
        await self._run(self._park)
        failpoints.reach("upload.flushed")
        return self._parked

    def _park(self) -> None:
        if self._sealed:
            raise Missing
        if self.size_bytes > self._parked.size_bytes:
            parts = self._gathering.write_down()
            self._parked = Progress(self.size_bytes, self._hasher.state(), parts.to_bytes())

    async def revert(self) -> None:
        await self._run(self._revert)

    def _revert(self) -> None:
        if not self._sealed:
            self._gathering.take_back()
        self._start()

    async def close(self) -> None:
        """Let go; what was neither parked nor published is freed."""
        await threads.clean_up(self._threads, self._seal if self._sealed else self._gathering.let_go)

    # --- publishing

    async def commit(self, expected: Digest) -> int:
        await self._run(self._commit, expected)
        return self.size_bytes

    def _commit(self, expected: Digest) -> None:
        if not self._sealed:
            try:
                self._expect(expected)
                self._publish(expected)
            except Missing:
                self._seal()
            else:
                self._sealed = True
                return
        self._commit_again(expected)

    def _expect(self, expected: Digest) -> None:
        """Raises DigestInvalid. A client may name its algorithm only now: then all is read again."""
        same = expected.algorithm == self._hasher.algorithm
        actual = self._hasher.digest() if same else _digest(self._gathering.pieces(), expected.algorithm)
        expect(expected, actual)

    def _publish(self, expected: Digest) -> None:
        if self._shelf.has_whole(expected, self.size_bytes):
            self.has_leftovers = self._gathering.free_own()
        elif self._gathering.is_small():
            self._publish_small(expected)
        else:
            self._publish_large(expected)
        failpoints.reach("blob.published")

    def _publish_small(self, expected: Digest) -> None:
        failpoints.reach("blob.flushed")
        self._require_hold()
        if not self._gathering.write_rest(blob_key(expected)):
            self._shop.bucket.put(blob_key(expected), b"")
        self._gathering.free_tails()

    def _publish_large(self, expected: Digest) -> None:
        failpoints.reach("blob.flushed")
        self._require_hold()
        extents = self._gathering.join()
        key = data_key(self._session)
        if size_bytes := self._gathering.write_rest(key):
            extents.append(Extent(key, size_bytes))
        failpoints.reach("blob.renamed")
        self._require_hold()
        self._shelf.publish(Link(expected, tuple(extents)), self._session)
        self._gathering.free_tails()

    def _require_hold(self) -> None:
        if not self._hold.is_kept():
            self._gathering.free_own()
            raise BlobUploadUnknown(self._session)

    def _commit_again(self, expected: Digest) -> None:
        """An earlier commit took the bytes away: see that it published these."""
        if not self._shelf.has_whole(expected, self.size_bytes):
            raise Missing
        same = expected.algorithm == self._hasher.algorithm
        known = expected if same else _digest(self._shelf.pieces(expected), self._hasher.algorithm)
        if known != self._hasher.digest():
            raise Missing


def _digest(pieces: Iterable[bytes], algorithm: str) -> Digest:
    hasher = Hasher(algorithm)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()
