"""The two contracts of the content store. Every implementation passes tests/content/contract.py.

A blob is visible under its digest only when all of its bytes are on stable storage. Success means "the
bytes are stored", not "by this call": every operation may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload has come, as plain data that any process can go on from.

    `hash_state` is a `Hasher.state()`, empty before the first byte. `parts` is the store's own note (the
    parts of a multipart upload, say), empty for a directory.
    """

    size_bytes: int = 0
    hash_state: bytes = b""
    parts: bytes = b""


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of a blob as they lie in the store: how many there really are, and a mark that no others have.

    Others are those that somebody published later under the same digest.
    """

    size_bytes: int
    mark: str


class Upload(Protocol):
    """One writer's hold on an upload; nobody can read what it writes before `commit`."""

    @property
    def size_bytes(self) -> int:
        """Bytes taken in so far, those of earlier requests included."""
        ...

    @property
    def has_leftovers(self) -> bool:
        """Whether `commit` found the blob there and left bytes of earlier requests: `discard` frees them, once
        nobody else can be committing this upload."""
        ...

    async def begin(self, progress: Progress, algorithm: str) -> None:
        """Stand where *progress*, read while this hold lasts, says; what a killed writer added is cut off.

        Raises BlobUploadUnknown when the bytes that *progress* speaks of are gone.
        """
        ...

    async def append(self, pieces: Sequence[bytes]) -> None:
        """Take *pieces* in, in order. Raises StorageFull; `revert` then gives the space back."""
        ...

    async def park(self) -> Progress:
        """Flush what came to stable storage and return where the next request goes on."""
        ...

    async def revert(self) -> None:
        """Forget, and free, everything since the progress that this hold began with."""
        ...

    async def commit(self, expected: Digest) -> int:
        """Publish the bytes under *expected* and return their number; before this nobody can read them.

        Safe to repeat, also when an earlier commit was not recorded. When the blob was taken away since this
        hold committed it, it is published again from what the hold still has. Raises DigestInvalid if the
        bytes hash to something else; the upload then stays. Raises BlobUploadUnknown when the bytes are gone.
        """
        ...


class Blob(Protocol):
    """An open blob; it can be read to its end even when it is deleted meanwhile."""

    @property
    def size_bytes(self) -> int:
        """The length of the whole blob."""
        ...

    @property
    def file(self) -> int | None:
        """An open file that has just these bytes, to be read by position; None when there is none."""
        ...

    def pieces(self, start: int, end: int, piece_bytes: int) -> AsyncIterator[bytes | bytearray]:
        """The bytes from *start* to before *end*, in pieces of at most *piece_bytes*."""
        ...

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        ...


class BlobStore(Protocol):
    """Where bytes live under their digest."""

    async def size(self, digest: Digest) -> int | None:
        """The length of a blob in bytes, None when it is not here."""
        ...

    async def open(self, digest: Digest) -> Blob:
        """Open a blob for reading. Raises ContentMissing when it is not here."""
        ...

    async def read(self, digest: Digest) -> bytes:
        """A small blob, whole. Raises ContentMissing when it is not here."""
        ...

    async def put(self, digest: Digest, pieces: Sequence[bytes]) -> None:
        """Store a small blob that is whole in memory; returns when it is on stable storage.

        Raises DigestInvalid if *pieces* hash to something else.
        """
        ...

    def upload(self, session: str) -> AbstractAsyncContextManager[Upload]:
        """Hold the upload *session* for writing. Raises UploadBusy while another request holds it.

        Read its progress from the index while the hold lasts, then call `Upload.begin`.
        """
        ...

    async def discard(self, session: str, progress: Progress) -> None:
        """Remove the bytes of an upload that will not be finished; safe to repeat.

        In a store that is not near nobody may be committing it meanwhile: the index knows (`uploads.close`).
        """
        ...

    async def delete(self, digest: Digest) -> None:
        """Remove a blob; safe to repeat."""
        ...

    @property
    def is_near(self) -> bool:
        """Whether `has` and `take_away` cost microseconds and are over when they return, whatever they return."""
        ...

    @property
    def settle_seconds(self) -> float:
        """How long after it was begun a `take_away` that failed or was cut off may still come true."""
        ...

    def has(self, digest: Digest) -> bool:
        """Whether a blob is here at this moment. Blocks; for a thread that runs a transaction."""
        ...

    def take_away(self, digest: Digest) -> None:
        """Take a blob out of the store: `has` is false from this moment on; safe to repeat.

        Its space is free after `free`, and until then who has opened it before may find it. When the machine
        dies before `free`, the blob may be back, whole. Blocks; in a near store, for a thread that runs a
        transaction. Never tried again by itself: when it returns, it has happened, once and for all.
        """
        ...

    async def free(self) -> None:
        """Free the space of what this object took away, and make sure that it does not come back."""
        ...

    async def copy_of(self, digest: Digest) -> Copy | None:
        """The copy of a blob that is here now, whether its bytes are right or wrong; None when there is none."""
        ...

    async def preserve(self, digest: Digest, copy: Copy) -> None:
        """Do what is slow of `set_aside`, before anything waits for that; safe to repeat."""
        ...

    def set_aside(self, digest: Digest, copy: Copy | None) -> bool:
        """Take wrong bytes out of the store and keep them for the operator: as `take_away`, also in what it costs.

        False, and nothing is done, when another copy than *copy* (None: any) is here by now.
        """
        ...

    def digests(self) -> AsyncIterator[Digest]:
        """Every blob that is here, in no order."""
        ...

    def sessions(self) -> AsyncIterator[str]:
        """Every upload that has bytes here, in no order."""
        ...

    async def check(self) -> None:
        """Raise what a write would raise now: the store is gone, read-only or full."""
        ...

    async def remove_stale_temporaries(self, older_than: float) -> None:
        """Free what killed requests left and nobody touched since *older_than* (seconds of the epoch)."""
        ...

    async def clear_quarantine(self, older_than: float) -> int:
        """Delete what was set aside before *older_than* (seconds of the epoch); how many files or objects."""
        ...

    def close(self) -> None:
        """Wait for the work that is under way, and let go of everything."""
        ...


def expect(expected: Digest, actual: Digest) -> None:
    """Raise DigestInvalid when bytes that came have another digest than they should."""
    if actual != expected:
        raise DigestInvalid("the bytes that came do not have this digest", {"digest": expected, "actual": actual})
