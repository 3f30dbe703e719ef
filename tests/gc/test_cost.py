"""What a collection costs: as much as what became garbage, not as the registry around it.

Counted in the instructions of SQLite's machine, which are the same on every computer and under any load.
`HYTHE_COST_ROWS=1000000` makes the large one as large as the promise says.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import blobs, candidates, garbage, history, inventory, pulled, schema, tags, usage
from registry.server.index.engine import EmbeddedIndex, sqlite_engine
from registry.server.service.collect import Choices, Collector, Tally
from tests.gc.keeper import QUICK, collect, collect_all
from tests.gc.test_plan import Memory

# Taken out, as servers refuse variables with this prefix that are no settings.
LARGE_ROWS = int(os.environ.pop("HYTHE_COST_ROWS", "50000"))
SMALL_ROWS = 5_000
GARBAGE = 100
LAYERS = 10
_STEP = 100


def fill(path: Path, rows: int, loose: int, layers: int = LAYERS) -> list[str]:
    """Make *rows* blobs, *layers* of them in each manifest with a tag, and *loose* ones that are due.

    Returns those.
    """
    engine = sqlite_engine(path)
    with engine.connect() as tx:
        tx.exec_driver_sql("BEGIN")
        tx.execute(schema.repository.insert(), {"id": 1, "name": "team/big", "created_ms": 0})
        digests = [f"sha256:{number * 2654435761 % 2**32:08x}{number:056x}" for number in range(rows + loose)]
        tx.execute(schema.blob.insert(), [{"digest": d, "size_bytes": 1, "stored_ms": 0} for d in digests])
        tx.execute(schema.blob_link.insert(), [{"repository_id": 1, "digest": d, "linked_ms": 0} for d in digests])
        _manifests(tx, digests[:rows], layers)
        tx.execute(schema.candidate.delete())
        old = [{"repository_id": 1, "digest": d, "since_ms": 1, "reason": "pushed"} for d in digests[rows:]]
        if old:
            tx.execute(schema.candidate.insert(), old)
        tx.exec_driver_sql("COMMIT")
    engine.dispose()
    return digests[rows:]


def _manifests(tx: sa.Connection, digests: list[str], layers: int) -> None:
    """A manifest with a tag for every few blobs."""
    names = [f"sha256:{number:064x}" for number in range(2**200, 2**200 + len(digests) // layers)]
    common = {"repository_id": 1, "media_type": "m", "payload": b"{}", "pushed_ms": 0}
    tx.execute(schema.manifest.insert(), [{**common, "id": n, "digest": d} for n, d in enumerate(names)])
    tx.execute(schema.blob.insert(), [{"digest": d, "size_bytes": 2, "stored_ms": 0} for d in names])
    tagged = [{"repository_id": 1, "name": f"t{n}", "digest": d, "moved_ms": 0} for n, d in enumerate(names)]
    tx.execute(schema.tag.insert(), tagged)
    tx.execute(
        schema.reference.insert(),
        [
            {"manifest_id": place, "digest": each, "repository_id": 1}
            for place in range(len(names))
            for each in digests[place * layers : (place + 1) * layers]
        ],
    )


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


def cost(path: Path, rows: int) -> tuple[Tally, int]:
    """What it takes to collect the same garbage among so many rows."""
    store = Memory()
    store.digests.update(fill(path, rows, GARBAGE))

    async def counted() -> tuple[Tally, int]:
        index = EmbeddedIndex(path)
        try:
            counter = Counter(index)
            tally = await collect(index, store, Choices(0, QUICK, delete_untagged=True))  # type: ignore[arg-type]
            return tally, counter.steps
        finally:
            index.close()

    return asyncio.run(counted())


def test_the_same_garbage_costs_the_same_in_a_larger_registry(migrated: Path, tmp_path: Path) -> None:
    found = []
    for rows in (SMALL_ROWS, LARGE_ROWS):
        path = Path(shutil.copy(migrated, tmp_path / f"{rows}.sqlite3"))
        tally, steps = cost(path, rows)
        assert (tally.unlinked, tally.deleted, tally.examined) == (GARBAGE, GARBAGE, GARBAGE)
        found.append(steps)
    small, large = found
    print(f"{GARBAGE} of {SMALL_ROWS}: {small} instructions, of {LARGE_ROWS}: {large}")
    assert large < 1.1 * small


@pytest.fixture
def tx(migrated: Path, tmp_path: Path) -> Iterator[sa.Connection]:
    """A connection to an index with rows enough for SQLite to care how it finds them."""
    path = Path(shutil.copy(migrated, tmp_path / "index.sqlite3"))
    fill(path, 2000, 20)
    engine = sqlite_engine(path)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


DIGEST = Digest("sha256:" + "0" * 64)
STATEMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "what is due": (
        garbage.DUE,
        {"limit_ms": 1, "limit": 50, "after_ms": -1, "after_of": -1, "after_named": ""},
    ),
    "one candidate": (garbage.OF, {"of": 1, "named": DIGEST}),
    "who has a digest": (garbage.HOLDERS, {"named": DIGEST}),
    "what keeps a manifest": (garbage.NODE, {"of": 1, "named": DIGEST}),
    "what lists a manifest": (garbage.PARENTS, {"of": 1, "named": DIGEST}),
    "whether anything is due": (candidates._ANY_DUE, {"limit_ms": 1}),
    "a candidate that is done": (candidates._FORGET, {"of": 1, "named": DIGEST, "seen_ms": 1}),
    "bytes that are due at once": (candidates._MAKE_DUE, {"of": 1, "named": DIGEST}),
    "a look at a blob": (blobs._STANDING, {"name": "team/big", "digest": DIGEST}),
    "a note of a look": (blobs._TELL, {"of": 1, "named": DIGEST, "moment_ms": 1}),
    "a link that goes": (blobs._UNLINK, {"repository_id": 1, "digest": DIGEST}),
    "bytes that go": (blobs._FORGET_BYTES, {"digest": DIGEST}),
    "the tags of a repository": (pulled._TAGS, {"of": 1, "after": "", "limit": 10}),
    "a tag that goes": (tags._HOLD, {"row_repository_id": 1, "row_name": "t1"}),
    "a repository's history": (history._ENTRIES, {"of": 1, "before": 9, "limit": 10}),
    "a tag's history": (history._ENTRIES_OF_TAG, {"of": 1, "before": 9, "limit": 10, "named": "t1"}),
    "where a tag pointed then": (history._THEN, {"of": 1, "named": "t1", "at_ms": 5}),
    "where a tag pointed before": (history._BEFORE, {"of": 1, "named": "t1", "present": ""}),
    "history that is over": (history._OLDEST, {"limit_ms": 5, "limit": 10}),
    "whether a namespace has a digest": (usage._HAS, {"first": "a", "beyond": "b", "named": DIGEST}),
    "a page of links": (inventory._LINKS, {"of": 1, "named": DIGEST, "limit": 10}),
    "a page of manifests": (inventory._MANIFESTS, {"of": 1, "named": DIGEST, "limit": 10}),
    "a page of records": (inventory._RECORDS, {"named": DIGEST, "limit": 10}),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_a_whole_table(tx: sa.Connection, name: str) -> None:
    statement, values = STATEMENTS[name]
    compiled = statement.compile(dialect=tx.dialect)
    parameters = tuple(compiled.construct_params(values)[each] for each in compiled.positiontup or ())
    plan = [row[3] for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", parameters)]
    print("\n".join(plan))
    assert plan
    tables = {table.name for table in schema.metadata.tables.values()}
    for line in plan:
        assert line.split()[:1] != ["SCAN"] or line.split()[1] not in tables, line
        assert "TEMP B-TREE" not in line, line
        assert not line.endswith("(repository_id=?)"), f"{line}: all of a repository"


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
            tally = await collect_all(index, store, Choices(0, QUICK, delete_untagged=True))  # type: ignore[arg-type]
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
