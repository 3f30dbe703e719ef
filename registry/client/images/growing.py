"""A file that one side appends to while another reads it from its beginning: a download, unpacked meanwhile."""

from __future__ import annotations

import os
import threading


class Growing:
    """The reader sees what `advance` was told of, and waits for more until `end` or `fail`."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self._size_bytes = size_bytes
        self._at = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def advance(self, size_bytes: int) -> None:
        """Writer: that many bytes more are in the file."""
        with self._changed:
            self._size_bytes += size_bytes
            self._changed.notify()

    def end(self) -> None:
        """Writer: that was all."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """Writer: no more will come; the reader raises *error*."""
        with self._changed:
            self._error = error
            self._changed.notify()

    def read(self, size_bytes: int) -> bytes:
        """Reader: up to *size_bytes*; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._size_bytes > self._at or self._ended or self._error)
            if self._error is not None:
                raise self._error
            size_bytes = min(size_bytes, self._size_bytes - self._at)
        data = os.pread(self._fd, size_bytes, self._at)
        self._at += len(data)
        return data
