"""The Upload of a directory: an open, locked file and a hash, and how they become a blob."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from registry import failpoints
from registry.content import disk
from registry.content.store import Progress, expect
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import BlobUploadUnknown

P = ParamSpec("P")
T = TypeVar("T")

_WRITEBACK_BYTES = 8 << 20
_HASH_PIECE_BYTES = 1 << 20


class Shelf(Protocol):
    """What an upload needs of its store."""

    def run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run a blocking step in a thread, to its end."""
        ...

    def path(self, digest: Digest) -> Path:
        """Where a blob lies when it is here."""
        ...

    def has(self, digest: Digest) -> bool:
        """Whether it is here; blocking."""
        ...

    def temporary(self) -> AbstractContextManager[tuple[int, Path]]:
        """A new file that is deleted again unless it was renamed."""
        ...


class FileUpload:
    """The Upload of a directory: an open, locked file and a hasher; see `store.Upload`."""

    def __init__(self, shelf: Shelf, fd: int, path: Path) -> None:
        self._shelf = shelf
        self._fd = fd
        self._path = path
        self._progress = Progress()
        self._hasher = Hasher()
        self._written_back_bytes = 0
        # The file is a blob by now, or may be: nothing is written to it or cut off any more.
        self._sealed = False
        # It became one through this hold, so that the open file has the whole of it.
        self._published = False
        self._in_use = threading.Lock()
        self.begun = False
        self.size_bytes = 0
        self.has_leftovers = False

    async def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step that works on the open file; the file stays open until it is over."""

        def while_open() -> T:
            with self._in_use:
                return step(*args, **kwargs)

        return await self._shelf.run(while_open)

    def close(self) -> None:
        """Let the file go, when no thread works on it; that is a matter only for those cancelled twice."""
        with self._in_use:
            os.close(self._fd)
            self._fd = -1

    async def begin(self, progress: Progress, algorithm: str) -> None:
        self.begun = True
        self._progress = progress
        self._algorithm = algorithm
        # A commit whose row was never written took the file away; only the same requests can be repeated.
        self._sealed = os.fstat(self._fd).st_size < progress.size_bytes
        await self.revert()
        failpoints.reach("upload.created")

    async def revert(self) -> None:
        state = self._progress.hash_state
        self._hasher = Hasher.resume(state) if state else Hasher(self._algorithm)
        self.size_bytes = self._written_back_bytes = self._progress.size_bytes
        await self._run(self._rewind)

    def _rewind(self) -> None:
        if not self._sealed:
            os.ftruncate(self._fd, self.size_bytes)
            os.lseek(self._fd, self.size_bytes, os.SEEK_SET)

    async def append(self, pieces: Sequence[bytes]) -> None:
        await self._run(self._append, pieces)

    def _append(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._hasher.update(piece)
        if self._sealed:  # the same bytes once more, or `commit` will say that they are not
            self.size_bytes += sum(map(len, pieces))
            return
        with disk.full_disk_is_an_answer():
            self.size_bytes += disk.write_all(self._fd, pieces)
        failpoints.reach("upload.written")
        waiting = self.size_bytes - self._written_back_bytes
        if waiting >= _WRITEBACK_BYTES:
            disk.begin_writeback(self._fd, self._written_back_bytes, waiting)
            self._written_back_bytes = self.size_bytes

    async def park(self) -> Progress:
        await self._run(self._flush)
        failpoints.reach("upload.flushed")
        return Progress(self.size_bytes, self._hasher.state())

    def _flush(self) -> None:
        if self._sealed:
            raise BlobUploadUnknown(self._path.name)
        with disk.full_disk_is_an_answer():
            os.fdatasync(self._fd)

    async def commit(self, expected: Digest) -> int:
        await self._run(self._commit, expected)
        return self.size_bytes

    def _commit(self, expected: Digest) -> None:
        if self._published:
            self._publish_again(expected)
            return
        if self._sealed:
            self._commit_again(expected)
            return
        same = expected.algorithm == self._hasher.algorithm
        expect(expected, self._hasher.digest() if same else _hash_file(self._fd, expected.algorithm))
        with disk.full_disk_is_an_answer():
            os.fsync(self._fd)
            failpoints.reach("blob.flushed")
            if not disk.is_named(self._fd, self._path):  # discarded meanwhile; the name may be another's
                raise BlobUploadUnknown(self._path.name)
            self._sealed = True
            try:
                disk.publish(self._path, self._shelf.path(expected))
            except FileNotFoundError:
                raise BlobUploadUnknown(self._path.name) from None
            self._published = True
        failpoints.reach("blob.published")

    def _publish_again(self, expected: Digest) -> None:
        """This hold published the blob: if it was taken away since, a copy of the open file takes its place."""
        if self._shelf.has(expected):
            return
        with self._shelf.temporary() as (fd, path), disk.full_disk_is_an_answer():
            disk.copy(self._fd, fd)
            expect(expected, _hash_file(fd, expected.algorithm))
            os.fsync(fd)
            disk.publish(path, self._shelf.path(expected))

    def _commit_again(self, expected: Digest) -> None:
        """An earlier commit took the file away: see that it published these bytes, and finish what it began."""
        path = self._shelf.path(expected)
        try:
            with path.open("rb", buffering=0) as published:
                same = expected.algorithm == self._hasher.algorithm
                known = expected if same else _hash_file(published.fileno(), self._hasher.algorithm)
        except FileNotFoundError:
            known = None
        if known != self._hasher.digest():
            raise BlobUploadUnknown(self._path.name)
        disk.flush_directory(path.parent)
        disk.remove_if_empty(self._fd, self._path)


def _hash_file(fd: int, algorithm: str) -> Digest:
    """What a file has, by an algorithm that it was not hashed with on the way in.

    A client may name its algorithm only in the closing request.
    """
    hasher = Hasher(algorithm)
    offset = 0
    while piece := os.pread(fd, _HASH_PIECE_BYTES, offset):
        hasher.update(piece)
        offset += len(piece)
    return hasher.digest()
