"""What an upload to a bucket consists of while it grows: segments, then a tail or, once that is taken up, a spool.

A hold adds to places of its own alone: its multipart uploads and tails are written by nobody else, ever, so that
nothing of a writer who lost, or was killed, can come to lie in another's blob. Everything here blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from registry.content.s3_bucket import Bucket
from registry.content.s3_client import Missing
from registry.content.s3_notes import DATA, Extent, Parts, Segment, data_key, noted_digest, tail_key
from registry.content.s3_parts import PartWriter, Spool
from registry.content.s3_read import whole
from registry.oci.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Workshop:
    """What uploads work with. *senders* are threads that wait for none of ours."""

    bucket: Bucket
    spools: Path
    part_bytes: int
    parts_max: int
    senders: Executor


class Gathering:
    """The bytes of one upload as one hold sees them, beginning with what *parts* says is there."""

    def __init__(self, workshop: Workshop, session: str, parts: Parts) -> None:
        self._shop = workshop
        self._bucket = workshop.bucket
        self._session = session
        self._begun_with = parts
        self._segments = list(parts.segments)
        self._written_down = len(self._segments)  # so many of them the last note names
        self._tail = parts.tail  # None once it is taken up
        self._tails: list[str] = []  # those that this hold wrote
        self._is_taken_up = False
        self._spool: Spool | None = None
        self._writer: PartWriter | None = None

    # --- growing

    def take_up(self) -> None:
        """Before the first byte is added: see that all is still there, and go on from the tail. Raises Missing."""
        if self._is_taken_up:
            return
        self._is_taken_up = True
        if self._segments and not self._is_unpublished(self._segments[-1]):
            raise Missing
        if self._tail is not None:
            tail, self._tail = self._tail, None
            for piece in whole(self._bucket, [tail], self._bucket.get(tail.key)):
                self.add(piece)

    def _is_unpublished(self, segment: Segment) -> bool:
        if segment.upload_id and self._bucket.is_open(segment.key, segment.upload_id):
            return True
        if self._bucket.size(segment.key) != segment.size_bytes:
            return False
        pages = self._bucket.items(f"{DATA}{self._session}/")
        return not any(noted_digest(item.key) for page in pages for item in page)

    def add(self, piece: bytes) -> None:
        """Take *piece* in; whole parts are sent meanwhile. Raises StorageFull, Unavailable, Missing."""
        data = memoryview(piece)
        while data:
            if self._spool is None:
                self._spool = Spool(self._shop.spools)
            room = self._shop.part_bytes - self._spool.size_bytes
            self._spool.write(data[:room])
            data = data[room:]
            if self._spool.size_bytes == self._shop.part_bytes:
                self._send_spool()
                if self._writer is not None and self._writer.count == self._shop.parts_max:
                    self._end_segment()

    def _send_spool(self) -> None:
        assert self._spool is not None
        if self._writer is None:
            self._writer = PartWriter(self._bucket, data_key(self._session), self._shop.senders)
        self._writer.send(self._spool)
        self._spool = None

    def _end_segment(self) -> None:
        """Make a segment of what this hold wrote, with the spool as its last part; what follows goes elsewhere."""
        if self._writer is None:
            return
        if self._spool is not None:
            self._send_spool()
        self._segments.append(self._writer.finish())
        self._writer = None

    # --- resting

    def write_down(self) -> Parts:
        """Bring everything to the store, and return what another process goes on with."""
        self._end_segment()
        tail = self._tail
        if self._spool is not None:
            tail = Extent(tail_key(self._session), self._spool.size_bytes)
            self._bucket.put(tail.key, self._spool.body())
            self._tails.append(tail.key)
        superseded = tuple(key for key in self._all_tails() if tail is None or key != tail.key)
        self._delete(self._begun_with.superseded)
        self._written_down = len(self._segments)
        return Parts(tuple(self._segments), tail, superseded)

    def _all_tails(self) -> list[str]:
        return [*([self._begun_with.tail.key] if self._begun_with.tail else []), *self._tails]

    def _delete(self, keys: Sequence[str]) -> None:
        """Delete what nobody needs; what cannot be deleted now is swept up later."""
        with contextlib.suppress(RegistryError):
            for key in keys:
                self._bucket.delete(key)

    # --- taking back

    def take_back(self) -> None:
        """Free what this hold added."""
        self._free(since=len(self._begun_with.segments))
        self._delete(self._tails)

    def let_go(self) -> None:
        """Free what this hold added and no note names."""
        self._free(since=self._written_down)

    def free_own(self) -> bool:
        """Free all that can be, as the blob is there already; True when parts are left that others know of.

        Others may be joining those at this moment. A store that is told to join and to abort the same at once may
        say yes to both; Ceph then keeps the object, and deletes what it consists of two hours later.
        """
        self._free(since=len(self._begun_with.segments))
        self.free_tails()
        return bool(self._begun_with.segments)

    def free_tails(self) -> None:
        """Free what has become part of a blob elsewhere."""
        self.close()
        self._delete([*self._begun_with.superseded, *self._all_tails()])

    def _free(self, since: int) -> None:
        self.close()
        with contextlib.suppress(RegistryError):
            if self._writer is not None:
                self._writer.abort()
            for segment in self._segments[since:]:
                self._bucket.abort(segment.key, segment.upload_id)

    def close(self) -> None:
        """Free the file that bytes were gathered in."""
        if self._spool is not None:
            self._spool.close()

    # --- becoming a blob

    def is_small(self) -> bool:
        """Whether no part of it has been written: it fits into one object that is stored as one."""
        return not self._segments and self._writer is None

    def pieces(self) -> Iterator[bytes]:
        """All bytes, read again. Raises Missing."""
        extents = self.join()
        if self._tail is not None:
            extents.append(self._tail)
        yield from whole(self._bucket, extents)
        if self._spool is not None:
            yield from self._spool.pieces()

    def write_rest(self, key: str) -> int:
        """Make an object of what belongs to no segment and return its length. Raises Missing."""
        if self._spool is not None:
            self._bucket.put(key, self._spool.body())
            return self._spool.size_bytes
        if self._tail is not None:
            self._bucket.copy(self._tail.key, key)
            return self._tail.size_bytes
        return 0

    def join(self) -> list[Extent]:
        """Make objects of the segments; an earlier commit may have come this far. Raises Missing."""
        self._end_segment()
        for segment in self._segments:
            self._join(segment)
        return [Extent(segment.key, segment.size_bytes) for segment in self._segments]

    def _join(self, segment: Segment) -> None:
        if self._bucket.size(segment.key) == segment.size_bytes:
            return
        try:
            self._bucket.join(segment.key, segment.upload_id, segment.etags)
        except RegistryError:
            # Of one that was aborted, or joined by another meanwhile, stores say all kinds of things.
            if self._bucket.is_open(segment.key, segment.upload_id):
                raise
        if self._bucket.size(segment.key) != segment.size_bytes:
            raise Missing
