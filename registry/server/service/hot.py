"""Answers that are asked for again and again, kept until any process changes what they say.

Only what exists is kept: absence is looked up each time, so that what one worker adds all see at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Hot(Generic[T]):
    """The most recently used answers, up to *size_max_bytes*, valid while *epoch* stands still.

    Without an *epoch* they are valid for ever, as bytes under their digest are.
    """

    def __init__(self, size_max_bytes: int, epoch: Callable[[], Awaitable[int]] | None = None) -> None:
        self._epoch = epoch
        self._size_max_bytes = size_max_bytes
        self._size_bytes = 0
        self._seen_epoch = -1
        self._entries: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    @property
    def moment(self) -> int:
        """The epoch that the last `get` saw. Take it before the database is read, and hand it to `put`."""
        return self._seen_epoch

    async def get(self, key: Hashable) -> T | None:
        """The answer under *key* if it is kept and still right."""
        epoch = self._seen_epoch if self._epoch is None else await self._epoch()
        if epoch != self._seen_epoch:
            self._seen_epoch = epoch
            self._entries.clear()
            self._size_bytes = 0
            return None
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: T, size_bytes: int, moment: int) -> None:
        """Keep an answer that was read after *moment*; one that may be from before a change is not kept."""
        if moment != self._seen_epoch or size_bytes > self._size_max_bytes // 16 or key in self._entries:
            return
        self._entries[key] = (value, size_bytes)
        self._size_bytes += size_bytes
        while self._size_bytes > self._size_max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self._size_bytes -= freed
