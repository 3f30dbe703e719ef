"""Doing work in the background so slowly that the requests beside it do not feel it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

_IDLE_SHARE = 4  # it rests for so many times as long as it worked


class Pace:
    """At most *per_second* steps a second, and rests between them; 0 of it means as fast as can be."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next step may be made."""
        pause = self._next - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Make one step."""
        began = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            if self._interval:
                self._next = max(began + self._interval, ended + _IDLE_SHARE * (ended - began))


class Flow:
    """At most *bytes_per_second* on average; 0 means as fast as can be."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second if bytes_per_second else 0.0
        self._next = 0.0

    async def spend(self, size_bytes: int) -> None:
        """Return when so many bytes more may be read."""
        if not self._seconds_per_byte:
            await asyncio.sleep(0)
            return
        now = time.monotonic()
        self._next = max(self._next, now) + size_bytes * self._seconds_per_byte
        await asyncio.sleep(max(0.0, self._next - now))
