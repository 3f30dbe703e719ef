"""One writer of an upload at a time, among the processes of one machine: the lock of an empty file.

Writers on other machines are not kept out. What they do is kept apart, and the upload's row in the index takes
the word of one of them only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from registry.content import disk
from registry.oci.errors import UploadBusy

_WAIT_SECONDS = (0.02, 0.05, 0.1, 0.3, 0.5, 1.0)


class Hold:
    """A lock that is held as long as its file is open; whoever deletes the file takes the upload away."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def is_kept(self) -> bool:
        """Whether nobody has taken the upload away meanwhile."""
        return disk.is_named(self._fd, self._path)

    def release(self) -> None:
        """Delete the file, if it is still this one, and let go."""
        if self.is_kept():
            disk.remove(self._path)
        os.close(self._fd)


def _take(path: Path) -> Hold | None:
    with disk.full_disk_is_an_answer():
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    held = Hold(path, fd)
    # Who held it has deleted the file; then the lock is on one that others cannot see, and is taken anew.
    if disk.lock(fd) and held.is_kept():
        return held
    os.close(fd)
    return None


@contextlib.asynccontextmanager
async def hold(path: Path) -> AsyncIterator[Hold]:
    """Hold *path*; who is just letting go is waited for. Raises UploadBusy."""
    held = _take(path)
    for pause in _WAIT_SECONDS:
        if held is not None:
            break
        await asyncio.sleep(pause)
        held = _take(path)
    if held is None:
        raise UploadBusy
    try:
        yield held
    finally:
        held.release()


def take_away(path: Path) -> None:
    """Make a hold know that its upload is gone."""
    disk.remove(path)


def remove_old(directory: Path, older_than: float) -> None:
    """Delete what killed processes left: files that nobody has held since *older_than* (seconds of the epoch)."""
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < older_than and (held := _take(path)) is not None:
                held.release()
