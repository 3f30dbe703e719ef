"""Who pulls what, remembered in memory and written down in batches: a pull itself writes nothing.

A moment is kept to within an hour, and the last minute may be lost with its process: retention counts in days.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from registry.oci.errors import RegistryError
from registry.oci.reference import Repository
from registry.server.index import pulled
from registry.server.index.engine import Index

log = logging.getLogger("hythe.pulls")

_SAME_SECONDS = 3600
_FLUSH_SECONDS = 60.0
_BATCH = 500
_REMEMBERED_MAX = 100_000


class Pulls:
    """The pulls that this process answered."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._last: dict[tuple[Repository, str], int] = {}  # seconds; what was or will be written
        self._waiting: dict[tuple[Repository, str], int] = {}

    def record(self, repository: Repository, *names: str) -> None:
        """Somebody asks for a tag, for a digest, or for a tag and the digest that it leads to."""
        now = int(time.time())
        for name in names:
            key = (repository, name)
            if now - self._last.get(key, 0) >= _SAME_SECONDS:
                if len(self._last) >= _REMEMBERED_MAX:
                    self._last.clear()
                self._last[key] = now
                self._waiting[key] = now * 1000

    async def flush(self) -> None:
        """Write down what came since the last time. Raises Unavailable, after which it can be tried again."""
        for batch in self._batches():
            try:
                await self._index.note(pulled.record, batch)
            except RegistryError:
                self._waiting = batch | self._waiting
                raise

    def _batches(self) -> Iterator[dict[tuple[Repository, str], int]]:
        while self._waiting:
            names = list(self._waiting)[:_BATCH]
            yield {name: self._waiting.pop(name) for name in names}

    async def keep_flushing(self) -> None:
        """Flush now and then, and a last time when this is cancelled."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                try:
                    await self.flush()
                except Exception:
                    log.exception("pulls.failed")
        finally:
            with contextlib.suppress(RegistryError):
                await self.flush()
