"""Blocking file-system steps of the directory store: each is run in a thread, none knows of uploads or blobs.

The order is always the same: temporary name, bytes, flush, rename, flush of the directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry import failpoints
from registry.oci.errors import StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT}
# Another file system, one without links, too many of them, or (EPERM) a file of somebody else.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
_IOV_MAX = 512  # Linux allows 1024 buffers for one writev
_COPY_BYTES = 1 << 20
_FICLONE = 0x40049409  # ioctl_ficlone(2)

_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_SYNC_FILE_RANGE_WRITE = 2


@contextlib.contextmanager
def full_disk_is_an_answer() -> Iterator[None]:
    """Turn "no space left" into StorageFull, which clients are told; other faults pass as they are."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull from error
        raise


@contextlib.contextmanager
def temporary(path: Path, mode: int) -> Iterator[tuple[int, Path]]:
    """A new file at *path*, open to write and read, that is deleted again unless it was renamed."""
    with full_disk_is_an_answer():
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield fd, path
    finally:
        os.close(fd)
        remove(path)


def write_all(fd: int, pieces: Sequence[bytes]) -> int:
    """Write *pieces* one after another and return their length; short writes are gone on with."""
    total = 0
    for first in range(0, len(pieces), _IOV_MAX):
        batch = [piece for piece in pieces[first : first + _IOV_MAX] if piece]
        wanted = sum(map(len, batch))
        done = os.writev(fd, batch) if batch else 0
        if done < wanted:
            rest = memoryview(b"".join(batch))
            while done < wanted:
                done += os.write(fd, rest[done:])
        total += wanted
    return total


def copy(source: int, target: int) -> None:
    """Copy an open file, wherever it stands, to an empty one; by reference where the file system can."""
    end, done = os.fstat(source).st_size, 0
    while done < end:
        try:
            step = os.copy_file_range(source, target, end - done, done, done)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            step = os.pwrite(target, os.pread(source, _COPY_BYTES, done), done)
        if not step:
            raise OSError(errno.EIO, f"the file ends at byte {done}, before {end}")
        done += step


def begin_writeback(fd: int, start: int, length: int) -> None:
    """Ask the kernel to start writing a range now, so that the flush at the end finds little to do."""
    if _sync_file_range is not None:
        _sync_file_range(fd, start, length, _SYNC_FILE_RANGE_WRITE)


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int = 0o750) -> None:
    """Create *path* and what is missing above it, durably."""
    if path.is_dir():
        return
    make_directory(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    flush_directory(path.parent)  # also when it was another: its name has to last for us too


def publish(temporary: Path, final: Path) -> None:
    """Give flushed bytes their name, durably; what had the name before is replaced by the same bytes."""
    try:
        os.rename(temporary, final)
    except FileNotFoundError:
        # Another writer may be making the directory at this moment: only a second failure is one.
        make_directory(final.parent)
        os.rename(temporary, final)
    failpoints.reach("blob.renamed")
    flush_directory(final.parent)


def lock(fd: int) -> bool:
    """Take the exclusive lock of an open file for as long as it is open; False when another holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove(path: Path) -> None:
    """Delete a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def is_named(fd: int, path: Path) -> bool:
    """Whether *path* still names the open file."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def remove_if_empty(fd: int, path: Path) -> None:
    """Delete an open file that nothing was written to, if *path* is still its name."""
    if os.fstat(fd).st_size == 0 and is_named(fd, path):
        remove(path)


def clone(source: int, target: int) -> bool:
    """Give an empty open file the bytes of another by reference; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _FULL:
            raise
        return False
    return True


def link(source: Path, temporary: Path) -> bool:
    """Make a temporary name that of a flushed file instead; False where that cannot be."""
    remove(temporary)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True
