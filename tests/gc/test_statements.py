"""How the databases find the rows of collection and history: by their keys, whatever the table's size."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from registry.oci.digest import Digest
from registry.server.index import (
    blobs,
    candidates,
    claims,
    garbage,
    history,
    inventory,
    pulled,
    schema,
    tags,
    usage,
)
from registry.server.index.engine import sqlite_engine
from registry.server.index.postgres_connect import postgres_engine
from tests.gc.large import fill
from tests.gc.test_cost import fill_postgres
from tests.support.postgres import Postgres

ROWS = 50_000  # of manifests and tags a tenth
BIG = {"blob", "blob_link", "manifest", "reference", "tag", "tag_history", "candidate"}
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
    "whether bytes are claimed": (claims._YOUNGEST, {"digest": DIGEST}),
    "claims of an upload that go": (claims._RELEASE, {"by": "upload"}),
    "claims that are over": (claims._STALE, {"age_ms": 1, "limit": 10}),
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


@pytest.fixture
def tx(migrated: Path, tmp_path: Path) -> Iterator[sa.Connection]:
    """A connection to an index with rows enough for SQLite to care how it finds them."""
    path = Path(shutil.copy(migrated, tmp_path / "index.sqlite3"))
    fill(path, 2000, 20)
    engine = sqlite_engine(path)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_reads_no_whole_table(tx: sa.Connection, name: str) -> None:
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


@pytest.fixture(scope="module")
def large(postgres: Postgres) -> Iterator[sa.Engine]:
    """A PostgreSQL index whose tables are large, and known to be."""
    url = postgres.url(postgres.database())
    fill_postgres(url, ROWS, 1000, young=ROWS // 2, past=True)
    engine = postgres_engine(url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_postgresql_reads_no_whole_table(large: sa.Engine, name: str, mode: str) -> None:
    """With the values at hand, and as it plans a statement that comes again and again."""
    statement, values = STATEMENTS[name]
    with large.connect() as connection:
        compiled = statement.compile(dialect=connection.dialect)
        names: list[str] = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", str(compiled))))
        given = compiled.construct_params(values)
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", str(compiled))
        words = ", ".join(_literal(given[each]) for each in names)
        connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {mode}")
        connection.exec_driver_sql(f"PREPARE it AS {numbered}")
        run = f"EXECUTE it({words})" if names else "EXECUTE it"
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {run}").scalar_one()
        connection.exec_driver_sql("DEALLOCATE it")
    print(json.dumps(plan, indent=1))
    for node in _nodes(plan[0]["Plan"]):
        table = node.get("Relation Name")
        assert node["Node Type"] != "Seq Scan" or table not in BIG, f"all of {table} is read"
        found = node.get("Index Cond") or node.get("Recheck Cond") or ""
        by_repository_alone = re.fullmatch(r"\(repository_id = \S+\)", found)
        # Along a key's order, a page of a repository begins where the last one ended, and ends by its limit.
        assert not by_repository_alone or node["Parent Relationship"] != "SubPlan", f"{node}: all of a repository"


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for each in node.get("Plans", ()):
        yield from _nodes(each)
