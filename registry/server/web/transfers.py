"""Bodies under way in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

_PIECES_BYTES_MAX = 16 << 20
_PIECE_BYTES_MAX = 1 << 20
_PIECE_BYTES_MIN = 64 << 10


class Transfers:
    """How many bodies are under way, and so how large their pieces may be for memory to stay bounded."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.contextmanager
    def counted(self, counts: bool) -> Iterator[None]:
        """Count one body while it lasts."""
        if not counts:
            yield
            return
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def wait_until_none(self, seconds: float) -> None:
        """Wait, at most so long, until no body is under way."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), seconds)

    def piece_bytes(self) -> int:
        """The size of pieces to read or write now, in bytes."""
        share = _PIECES_BYTES_MAX // (2 * max(1, self._count))
        return max(_PIECE_BYTES_MIN, min(_PIECE_BYTES_MAX, share))
