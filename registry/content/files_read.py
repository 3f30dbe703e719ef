"""The Blob of a directory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import Executor

from registry.content import threads

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class FileBlob:
    """An open file; what the page cache has is read at once, the rest in a thread."""

    def __init__(self, fd: int, size_bytes: int, pool: Executor) -> None:
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
