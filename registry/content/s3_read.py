"""Reading a blob of a bucket as a stream, over its objects and over connections that break."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

from registry.content import threads
from registry.content.s3_bucket import Bucket
from registry.content.s3_client import Missing, store_faults_are_answers
from registry.content.s3_notes import Extent
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, Unavailable

# Connections may break while a blob is read; so often in a row without a byte between, and it is given up.
_FAILURES_MAX = 4
_PIECE_BYTES = 1 << 20
_PAUSE_SECONDS = 0.2


def whole(bucket: Bucket, extents: Sequence[Extent], stream: Any = None) -> Iterator[bytes]:
    """All bytes of some objects, in pieces; blocking. Raises Missing, Unavailable."""
    reader = Reader(bucket, extents, 0, sum(extent.size_bytes for extent in extents), stream)
    with contextlib.closing(reader):
        while piece := reader.read(_PIECE_BYTES):
            yield piece


class Reader:
    """The bytes of some objects in order, from one place to another; blocking. *stream* has the first already."""

    def __init__(
        self, bucket: Bucket, extents: Sequence[Extent], start: int, end: int, stream: Any = None
    ) -> None:
        self._bucket = bucket
        self._extents = extents
        self._at = start
        self._end = end
        self._stream = stream
        self._stream_end = extents[0].size_bytes if stream is not None else 0
        self._failures = 0
        self._in_use = threading.Lock()

    def read(self, most: int) -> bytes:
        """The next bytes, *most* at most; none at the end. Raises Missing, Unavailable."""
        with self._in_use:
            while self._at < self._end:
                try:
                    if piece := self._read(most):
                        return piece
                    raise Unavailable("the object store ended a blob early; try again")
                except Unavailable:
                    if not self._may_go_on():
                        raise
            return b""

    def _read(self, most: int) -> bytes:
        if self._stream is None or self._at >= self._stream_end:
            self._open()
        with store_faults_are_answers():
            piece: bytes = self._stream.read(min(most, self._stream_end - self._at, self._end - self._at))
        self._at += len(piece)
        self._failures = 0 if piece else self._failures
        return piece

    def _open(self) -> None:
        """Ask for what follows, to the end of the object that has it."""
        begin = 0
        for extent in self._extents:
            if self._at < begin + extent.size_bytes:
                break
            begin += extent.size_bytes
        self._stream_end = min(begin + extent.size_bytes, self._end)
        self._stream = self._bucket.get(extent.key, self._at - begin, self._stream_end - begin)

    def _may_go_on(self) -> bool:
        """Pause after a failure; False when there were too many."""
        self._drop()
        self._failures += 1
        time.sleep(_PAUSE_SECONDS * self._failures * random.random())  # noqa: S311 - spreads those who come again
        return self._failures < _FAILURES_MAX

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Let go of the connection, when nobody reads from it any more."""
        with self._in_use:
            self._end = self._at
            self._drop()


class S3Blob:
    """A blob that is being read already: deleted now, it is still read to the end of its first object."""

    def __init__(
        self, bucket: Bucket, pool: Executor, digest: Digest, extents: Sequence[Extent], stream: Any
    ) -> None:
        self._bucket = bucket
        self._pool = pool
        self._digest = digest
        self._extents = extents
        self.size_bytes = sum(extent.size_bytes for extent in extents)
        self._first: Reader | None = self._reader(0, self.size_bytes, stream)
        self._readers = {self._first}

    def _reader(self, start: int, end: int, stream: Any = None) -> Reader:
        return Reader(self._bucket, self._extents, start, end, stream)

    @property
    def file(self) -> int | None:
        return None

    async def pieces(self, start: int, end: int, piece_bytes: int) -> AsyncIterator[bytes | bytearray]:
        reader = self._take(start, end)
        try:
            while piece := await threads.run(self._pool, reader.read, piece_bytes):
                yield piece
        except Missing:
            raise ContentMissing(self._digest) from None
        finally:
            self._let_go(reader)

    def _take(self, start: int, end: int) -> Reader:
        """The reader of the whole blob, which waits since it was opened, or one of the range's own."""
        first, self._first = self._first, None
        if first is not None and (start, end) == (0, self.size_bytes):
            return first
        if first is not None:
            self._let_go(first)
        reader = self._reader(start, end)
        self._readers.add(reader)
        return reader

    def _let_go(self, reader: Reader) -> None:
        self._readers.discard(reader)
        with contextlib.suppress(RuntimeError):  # the store is closed, and its connections with it
            self._pool.submit(reader.close)

    def close(self) -> None:
        for reader in list(self._readers):
            self._let_go(reader)
