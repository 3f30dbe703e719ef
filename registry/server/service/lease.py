"""Holding a lease for as long as a piece of work goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator

from registry.oci.errors import HytheError
from registry.server.index import leases
from registry.server.index.engine import Index

_SECONDS = 60.0
_RENEW_SECONDS = 15.0


def new_holder() -> str:
    """A name that no other holder of a lease has, and that a person can read."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:12]}"


class Lease:
    """A lease that was taken."""

    def __init__(self, index: Index, name: str, holder: str) -> None:
        self._index = index
        self._name = name
        self.holder = holder
        self._renewed = time.monotonic()

    async def is_kept(self) -> bool:
        """Renew it when it is time to; False when it went to somebody else, and the work shall stop."""
        if time.monotonic() - self._renewed < _RENEW_SECONDS:
            return True
        self._renewed = time.monotonic()
        return await self._index.note(leases.renew, self._name, self.holder, _SECONDS)


@contextlib.asynccontextmanager
async def take_in_time(index: Index, name: str, seconds: float = _SECONDS + 10) -> AsyncIterator[Lease | None]:
    """As `take`, but a holder is waited for; by default as long as one who died still has it."""
    deadline = time.monotonic() + seconds
    while True:
        async with take(index, name) as taken:
            if taken is not None or time.monotonic() > deadline:
                yield taken
                return
        await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def take(index: Index, name: str) -> AsyncIterator[Lease | None]:
    """Take the lease *name* while the context lasts; None when somebody else has it."""
    holder = new_holder()
    if not await index.note(leases.acquire, name, holder, _SECONDS):
        yield None
        return
    try:
        yield Lease(index, name, holder)
    finally:
        with contextlib.suppress(HytheError):
            await index.note(leases.release, name, holder)
