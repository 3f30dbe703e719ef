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
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec, TypeVar

from registry import failpoints
from registry.content import disk, placing, threads
from registry.content.files_read import FileBlob
from registry.content.files_upload import FileUpload
from registry.content.placing import Care, How
from registry.content.store import Copy, Progress, expect
from registry.oci.digest import ALGORITHMS, Digest, Hasher
from registry.oci.errors import ContentMissing, RegistryError, UploadBusy

P = ParamSpec("P")
T = TypeVar("T")

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
        expect(digest, hasher.digest())
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
