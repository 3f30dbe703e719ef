"""A tar as a stream of 512-byte blocks over pieces of any length, without copying what is at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from registry.client.images.errors import LayerRefused

BLOCK_BYTES = 512


class Blocks:
    """Reads forward only. Raises LayerRefused when the archive ends inside of something."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._view = memoryview(b"")
        self._size = 0
        self._at = 0

    def _next(self) -> bool:
        piece = next(self._pieces, None)
        self._view = memoryview(piece or b"")
        self._size = len(self._view)
        self._at = 0
        return piece is not None

    def block(self) -> bytes:
        """The next block; empty at the end of the stream."""
        at = self._at
        block = bytes(self._view[at : at + BLOCK_BYTES])
        if len(block) == BLOCK_BYTES:
            self._at = at + BLOCK_BYTES
            return block
        while len(block) < BLOCK_BYTES and self._next():
            self._at = min(self._size, BLOCK_BYTES - len(block))
            block += self._view[: self._at]
        if block and len(block) < BLOCK_BYTES:
            raise LayerRefused("the archive ends inside of a header")
        return block

    def at_hand(self, size_bytes: int) -> memoryview | None:
        """The next bytes, if one piece has them all; then they count as read."""
        end = self._at + size_bytes
        if end > self._size:
            return None
        view = self._view[self._at : end]
        self._at = end
        return view

    def pieces(self, size_bytes: int) -> Iterator[memoryview]:
        """The next *size_bytes* in parts."""
        while size_bytes:
            if self._at >= self._size and not self._next():
                raise LayerRefused("the archive ends inside of a file")
            view = self._view[self._at : self._at + size_bytes]
            self._at += len(view)
            size_bytes -= len(view)
            if view:
                yield view

    def exactly(self, size_bytes: int) -> bytes:
        """The next *size_bytes*, which the caller has bounded."""
        return b"".join(self.pieces(size_bytes))

    def skip(self, size_bytes: int) -> None:
        """Pass over bytes."""
        end = self._at + size_bytes
        if end <= self._size:
            self._at = end
            return
        for _ in self.pieces(size_bytes):
            pass

    def drain(self) -> None:
        """Read to the end of the stream, which the digests cover."""
        while self._next():
            pass


def padding(size_bytes: int) -> int:
    """The bytes up to the next block."""
    return -size_bytes % BLOCK_BYTES
