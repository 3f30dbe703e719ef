"""What another process does to an index: the functions that tests start there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import blobs, changes, names
from registry.server.index.engine import EmbeddedIndex, Transaction
from registry.server.index.migrate import migrate_sqlite

WAIT_SECONDS = 60


def migrate(path: Path, together: Barrier) -> None:
    """Bring *path* to this release's schema, at the same moment as others."""
    together.wait(WAIT_SECONDS)
    migrate_sqlite(path)


def write(path: Path, function: Callable[..., Any], *args: Any) -> Any:
    """Run one transaction in an index of this process's own."""

    async def run() -> Any:
        index = EmbeddedIndex(path)
        try:
            return await index.write(function, *args)
        finally:
            index.close()

    return asyncio.run(run())


def add(tx: Transaction, writer: str, number: int) -> None:
    """One of many writes: a name that nobody else writes, a shared one, and the counter."""
    own = Repository(f"{writer}/r{number}")
    blobs.link(tx, own, Digest.of(own.encode()), number)
    blobs.link(tx, Repository("shared"), Digest.of(own.encode()), number)
    names.find_or_add(tx, Repository(f"shared/r{number}"))
    changes.mark(tx)


def add_many(path: Path, writer: str, count: int, together: Barrier) -> None:
    """Write *count* times, some of them at once, while others do the same."""

    async def run() -> None:
        index = EmbeddedIndex(path)
        together.wait(WAIT_SECONDS)
        try:
            for first in range(0, count, 10):
                numbers = range(first, min(first + 10, count))
                await asyncio.gather(*(index.write(add, writer, number) for number in numbers))
        finally:
            index.close()

    asyncio.run(run())
