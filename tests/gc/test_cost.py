"""What a collection costs: as much as what became garbage, not as the registry around it.

Counted on SQLite in the instructions of its machine, and on PostgreSQL in the pages that it looks at: both are the
same on every computer and under any load. `HYTHE_COST_ROWS=1000000` makes the large one as large as was promised.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from registry.oci.reference import Repository
from registry.server.index import schema, tags
from registry.server.index.engine import EmbeddedIndex, Index
from registry.server.index.postgres import PostgresIndex
from registry.server.service.collect import Choices, Collector, Tally
from tests.gc.keeper import QUICK, collect, collect_all
from tests.gc.large import fill, fill_with
from tests.gc.test_plan import Memory
from tests.support.postgres import Postgres

# Taken out, as servers refuse variables with this prefix that are no settings.
LARGE_ROWS = int(os.environ.pop("HYTHE_COST_ROWS", "100000"))
SMALL_ROWS = 10_000
GARBAGE = 1_000
CHOICES = Choices(0, QUICK, delete_untagged=True)
_STEP = 100


class Counter:
    """Counts the instructions of every connection of an index."""

    def __init__(self, index: EmbeddedIndex) -> None:
        self.steps = 0
        raw: Any = index._reader.connection.dbapi_connection
        raw.set_progress_handler(self._count, _STEP)
        sa.event.listen(index._engine, "connect", lambda raw, _: raw.set_progress_handler(self._count, _STEP))

    def _count(self) -> int:
        self.steps += _STEP
        return 0


async def timed(index: Index, digests: list[str]) -> float:
    """Collect *digests*, which are all the garbage; how many seconds it took."""
    store = Memory()
    store.digests.update(digests)
    began = time.perf_counter()
    tally = await collect(index, store, CHOICES)  # type: ignore[arg-type]
    assert (tally.unlinked, tally.deleted, tally.examined) == (GARBAGE, GARBAGE, GARBAGE)
    assert not store.digests
    return time.perf_counter() - began


def cost(path: Path, rows: int) -> int:
    """How many instructions it takes SQLite to collect the same garbage among so many rows."""
    digests = fill(path, rows, GARBAGE)

    async def counted() -> int:
        index = EmbeddedIndex(path)
        try:
            counter = Counter(index)
            seconds = await timed(index, digests)
            print(f"{GARBAGE} of {rows}: {counter.steps} instructions, {seconds:.2f} s")
            return counter.steps
        finally:
            index.close()

    return asyncio.run(counted())


def test_the_same_garbage_costs_the_same_in_a_larger_registry(migrated: Path, tmp_path: Path) -> None:
    paths = [Path(shutil.copy(migrated, tmp_path / f"{rows}.sqlite3")) for rows in (SMALL_ROWS, LARGE_ROWS)]
    small, large = cost(paths[0], SMALL_ROWS), cost(paths[1], LARGE_ROWS)
    assert large < 1.1 * small


def pages(postgres: Postgres, rows: int) -> int:
    """How many pages PostgreSQL looks at while the same garbage is collected among so many rows."""
    database = postgres.database()
    digests = fill_postgres(postgres.url(database), rows, GARBAGE)

    def looked_at() -> int:
        postgres.wait_for_no_connections(database)
        counted = "SELECT blks_read + blks_hit FROM pg_stat_database WHERE datname = "
        return int(postgres.execute("postgres", f"{counted}'{database}'")[0][0])

    async def run() -> float:
        index = PostgresIndex(postgres.url(database), 2)
        try:
            return await timed(index, digests)
        finally:
            index.close()

    before = looked_at()
    seconds = asyncio.run(run())
    count = looked_at() - before
    print(f"{GARBAGE} of {rows}: {count} pages, {seconds:.2f} s")
    return count


def fill_postgres(url: str, rows: int, loose: int, young: int = 0, past: bool = False) -> list[str]:
    """Make a database large, and let PostgreSQL look at it as its own housekeeping does; see `fill_with`."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as tx:
            made = fill_with(tx, rows, loose, young=young, past=past)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
            tx.exec_driver_sql("VACUUM ANALYZE")
        return made
    finally:
        engine.dispose()


def test_on_postgresql_too(postgres: Postgres) -> None:
    small, large = pages(postgres, SMALL_ROWS), pages(postgres, LARGE_ROWS)
    # An index that is a hundred times as large is one page deeper; the rest are equal.
    assert large < 1.4 * small


def test_a_repository_of_ten_thousand_manifests(migrated: Path, tmp_path: Path) -> None:
    """Half of them are children of one index; a few lose their tags."""
    path = Path(shutil.copy(migrated, tmp_path / "index.sqlite3"))
    fill(path, 20_000, 0, layers=2)
    store = Memory()

    async def live() -> tuple[Tally, int]:
        index = EmbeddedIndex(path)
        try:
            await index.write(untag_half)
            store.digests.update(
                await index.read(lambda tx: tx.execute(sa.select(schema.blob.c.digest)).scalars())
            )
            for number in range(5000, 5020):
                await index.write(tags.remove, Repository("team/big"), f"t{number}")
            counter = Counter(index)
            tally = await collect_all(index, store, CHOICES)  # type: ignore[arg-type]
            planned = [each async for each in Collector(index, store, Choices(0)).plan()]  # type: ignore[arg-type]
            assert planned == []
            return tally, counter.steps
        finally:
            index.close()

    tally, steps = asyncio.run(live())
    assert (tally.removed, tally.unlinked, tally.deleted) == (20, 40, 60)
    assert tally.examined >= 5000  # the children, which became candidates with their tags
    assert steps < 10_000_000


def untag_half(tx: sa.Connection) -> None:
    """Put the first half under an index, the last manifest, and take their tags away."""
    for row in tx.execute(sa.select(schema.manifest.c.digest).where(schema.manifest.c.id < 5000)).all():
        tx.execute(schema.reference.insert(), {"manifest_id": 9999, "digest": row.digest, "repository_id": 1})
    tx.exec_driver_sql("DELETE FROM tag WHERE digest IN (SELECT digest FROM manifest WHERE id < 5000)")
