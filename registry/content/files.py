"""The content store that is a directory.

    blobs/<algorithm>/<first two digits>/<digits>     published, never changed
    uploads/<session>                                 bytes of an upload that is not finished
    uploads/<random>.tmp                              bytes of one request that writes a whole blob, or of a
                                                      blob that was taken away
    quarantine/<algorithm>-<digits>                   bytes that do not have this digest, for the operator

One machine, or several that share the directory, may use it at once: a published name is only ever
replaced by the same bytes, and the lock of an upload's file keeps a second writer out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec, TypeVar

from registry import failpoints
from registry.content import disk, placing, threads
from registry.content.placing import Care, How
from registry.content.store import Copy, Progress
from registry.oci.digest import ALGORITHMS, Digest, Hasher
from registry.oci.errors import BlobUploadUnknown, ContentMissing, DigestInvalid, RegistryError, UploadBusy

P = ParamSpec("P")
T = TypeVar("T")

_WRITEBACK_BYTES = 8 << 20
_HASH_PIECE_BYTES = 1 << 20
_TEMPORARY = ".tmp"
_BUSY_WAIT_SECONDS = (0.02, 0.05, 0.1, 0.3, 0.5, 1.0)


class FileStore:
    """A BlobStore in *directory*, which is created when it is missing. *threads* bounds its disk work."""

    def __init__(self, directory: Path, threads: int = 16) -> None:
        self.directory = directory
        self._uploads = directory / "uploads"
        self._quarantine = directory / "quarantine"
        self._taken: queue.SimpleQueue[tuple[Path, Path]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="disk")
        with disk.full_disk_is_an_answer():
            for path in (self._uploads, *(directory / "blobs" / algorithm for algorithm in ALGORITHMS)):
                disk.make_directory(path)

    async def run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking step in one of the store's threads; see `threads.run`."""
        return await threads.run(self._pool, step, *args, **kwargs)

    async def _open(self, path: Path, flags: int) -> int:
        return await threads.acquire(self._pool, lambda: os.open(path, flags | os.O_CLOEXEC, 0o640), os.close)

    def path(self, digest: Digest) -> Path:
        """Where a blob lies when it is here."""
        encoded = digest.encoded
        return self.directory / "blobs" / digest.algorithm / encoded[:2] / encoded

    async def size(self, digest: Digest) -> int | None:
        try:
            return (await self.run(os.stat, self.path(digest))).st_size
        except FileNotFoundError:
            return None

    async def open(self, digest: Digest) -> FileBlob:
        try:
            fd = await self._open(self.path(digest), os.O_RDONLY)
        except FileNotFoundError:
            raise ContentMissing(digest) from None
        return FileBlob(fd, os.fstat(fd).st_size, self._pool)

    async def read(self, digest: Digest) -> bytes:
        try:
            return await self.run(self.path(digest).read_bytes)
        except FileNotFoundError:
            raise ContentMissing(digest) from None

    async def put(self, digest: Digest, pieces: Sequence[bytes]) -> None:
        await self.run(self._put, digest, pieces)

    def _put(self, digest: Digest, pieces: Sequence[bytes]) -> None:
        hasher = Hasher(digest.algorithm)
        for piece in pieces:
            hasher.update(piece)
        _expect(digest, hasher.digest())
        with self.temporary() as (fd, path), disk.full_disk_is_an_answer():
            disk.write_all(fd, pieces)
            os.fsync(fd)
            failpoints.reach("blob.flushed")
            disk.publish(path, self.path(digest))
            failpoints.reach("blob.published")

    async def adopt(self, digest: Digest, source: Path, size_bytes: int, care: Care) -> How:
        """Take a file over that others have too; see `placing.place`."""
        return await self.run(placing.place, source, self.path(digest), digest, size_bytes, self.temporary, care)

    def temporary(self) -> AbstractContextManager[tuple[int, Path]]:
        """A file beside the blobs; see `disk.temporary`."""
        return disk.temporary(self._uploads / (secrets.token_hex(16) + _TEMPORARY), 0o640)

    @contextlib.asynccontextmanager
    async def upload(self, session: str) -> AsyncIterator[FileUpload]:
        path = self._uploads / session
        fd = await self._hold(path)
        held = FileUpload(self, fd, path)
        try:
            yield held
        finally:
            try:
                if not held.begun:
                    await threads.clean_up(self._pool, disk.remove_if_empty, fd, path)
            finally:
                held.close()

    async def _hold(self, path: Path) -> int:
        """Open and lock an upload's file; a holder that is just letting go is waited for.

        Whoever held it may have published it: then the lock is on a blob, and the name is to be opened anew.
        """
        for pause in (*_BUSY_WAIT_SECONDS, None):
            with disk.full_disk_is_an_answer():
                fd = await self._open(path, os.O_RDWR | os.O_CREAT)
            if disk.lock(fd) and disk.is_named(fd, path):
                return fd
            os.close(fd)
            if pause is not None:
                await asyncio.sleep(pause)
        raise UploadBusy

    async def discard(self, session: str, progress: Progress) -> None:
        await self.run(disk.remove, self._uploads / session)

    async def delete(self, digest: Digest) -> None:
        def remove_and_flush() -> None:
            path = self.path(digest)
            disk.remove(path)
            if path.parent.is_dir():
                disk.flush_directory(path.parent)

        await self.run(remove_and_flush)

    @property
    def is_near(self) -> bool:
        return True

    @property
    def settle_seconds(self) -> float:
        return 0.0

    def has(self, digest: Digest) -> bool:
        # Opened, not asked for: over a network file system, what is only asked for may be remembered.
        try:
            os.close(os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return False
        return True

    def take_away(self, digest: Digest) -> None:
        # A rename costs the same for a gigabyte; the file is freed when no transaction waits for it.
        path, doomed = self.path(digest), self._uploads / (secrets.token_hex(16) + _TEMPORARY)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, doomed)
        self._taken.put((path.parent, doomed))

    async def free(self) -> None:
        await self.run(self._free)

    def _free(self) -> None:
        taken: list[tuple[Path, Path]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._taken.get_nowait())
        try:
            for directory in {directory for directory, _ in taken}:
                if directory.is_dir():
                    disk.flush_directory(directory)
            for _, doomed in taken:
                disk.remove(doomed)
        except BaseException:
            for each in taken:
                self._taken.put(each)
            raise

    async def copy_of(self, digest: Digest) -> Copy | None:
        return await self.run(self._copy_of, digest)

    def _copy_of(self, digest: Digest) -> Copy | None:
        try:
            found = os.stat(self.path(digest))
        except FileNotFoundError:
            return None
        return Copy(found.st_size, f"{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}")

    async def preserve(self, digest: Digest, copy: Copy) -> None:
        await self.run(disk.make_directory, self._quarantine)

    def set_aside(self, digest: Digest, copy: Copy | None) -> bool:
        # Who publishes the digest between the look and the rename sees under its lock that this took it away.
        found, path = self._copy_of(digest), self.path(digest)
        if found != copy:
            return False
        if found is not None:
            os.rename(path, self._quarantine / f"{digest.algorithm}-{digest.encoded}")
            disk.flush_directory(self._quarantine)
            disk.flush_directory(path.parent)
        return True

    async def digests(self) -> AsyncIterator[Digest]:
        for algorithm in ALGORITHMS:
            for fan in await self.run(_names, self.directory / "blobs" / algorithm):
                for encoded in await self.run(_names, self.directory / "blobs" / algorithm / fan):
                    with contextlib.suppress(RegistryError):
                        yield Digest.parse(f"{algorithm}:{encoded}")

    async def sessions(self) -> AsyncIterator[str]:
        for name in await self.run(_names, self._uploads):
            if not name.endswith(_TEMPORARY):
                yield name

    async def check(self) -> None:
        def probe() -> None:
            with self.temporary() as (fd, _), disk.full_disk_is_an_answer():
                os.write(fd, b"ready")

        await self.run(probe)

    async def remove_stale_temporaries(self, older_than: float) -> None:
        """Delete what killed requests left: temporary files last written before *older_than* (epoch seconds)."""

        def sweep() -> None:
            for name in _names(self._uploads):
                path = self._uploads / name
                with contextlib.suppress(FileNotFoundError):
                    if name.endswith(_TEMPORARY) and path.stat().st_mtime < older_than:
                        disk.remove(path)

        await self.run(sweep)

    async def clear_quarantine(self, older_than: float) -> int:
        return await self.run(self._clear_quarantine, older_than)

    def _clear_quarantine(self, older_than: float) -> int:
        count = 0
        for name in _names(self._quarantine):
            path = self._quarantine / name
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ctime < older_than:  # of the rename; the other time is of the bytes
                    disk.remove(path)
                    count += 1
        return count

    def close(self) -> None:
        """Wait for the disk work that is under way."""
        self._pool.shutdown(wait=True)


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _expect(expected: Digest, actual: Digest) -> None:
    if actual != expected:
        raise DigestInvalid("the bytes that came do not have this digest", {"digest": expected, "actual": actual})


class FileUpload:
    """The Upload of a directory: an open, locked file and a hasher; see `store.Upload`."""

    def __init__(self, store: FileStore, fd: int, path: Path) -> None:
        self._store = store
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

        return await self._store.run(while_open)

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
        _expect(expected, self._hasher.digest() if same else _hash_file(self._fd, expected.algorithm))
        with disk.full_disk_is_an_answer():
            os.fsync(self._fd)
            failpoints.reach("blob.flushed")
            if not disk.is_named(self._fd, self._path):  # discarded meanwhile; the name may be another's
                raise BlobUploadUnknown(self._path.name)
            self._sealed = True
            try:
                disk.publish(self._path, self._store.path(expected))
            except FileNotFoundError:
                raise BlobUploadUnknown(self._path.name) from None
            self._published = True
        failpoints.reach("blob.published")

    def _publish_again(self, expected: Digest) -> None:
        """This hold published the blob: if it was taken away since, a copy of the open file takes its place."""
        if self._store.has(expected):
            return
        with self._store.temporary() as (fd, path), disk.full_disk_is_an_answer():
            disk.copy(self._fd, fd)
            _expect(expected, _hash_file(fd, expected.algorithm))
            os.fsync(fd)
            disk.publish(path, self._store.path(expected))

    def _commit_again(self, expected: Digest) -> None:
        """An earlier commit took the file away: see that it published these bytes, and finish what it began."""
        path = self._store.path(expected)
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


_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class FileBlob:
    """An open file; what the page cache has is read at once, the rest in a thread."""

    def __init__(self, fd: int, size_bytes: int, pool: ThreadPoolExecutor) -> None:
        self._fd = fd
        self._pool = pool
        self.size_bytes = size_bytes

    @property
    def file(self) -> int | None:
        return self._fd

    async def pieces(self, start: int, end: int, piece_bytes: int) -> AsyncIterator[bytes | bytearray]:
        while start < end:
            wanted = min(piece_bytes, end - start)
            piece: bytes | bytearray | None = self._cached(start, wanted)
            if piece is None:
                piece = await threads.run(self._pool, os.pread, self._fd, wanted, start)
            if not piece:
                raise OSError(f"the blob ends at byte {start}, before {end}")
            start += len(piece)
            yield piece

    def _cached(self, start: int, wanted: int) -> bytearray | None:
        """Bytes that need no disk; None when it would have to be waited for."""
        if not _NOWAIT:
            return None
        buffer = bytearray(wanted)
        try:
            done = os.preadv(self._fd, [buffer], start, _NOWAIT)
        except OSError:  # EAGAIN: not in memory; EOPNOTSUPP: this file system cannot say
            return None
        del buffer[done:]
        return buffer if done else None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
