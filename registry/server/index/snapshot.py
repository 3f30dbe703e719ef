"""The whole index as lines of text, of one moment, from either database; `snapshot_load` reads them.

The first line says what it is; then for each table one with its columns, and one for each row; the last one has
the SHA-256 of all others. So a copy that was cut off or changed is refused before anything of it counts, and what
was written from SQLite can be read into PostgreSQL, and the other way round.

    {"hythe_backup": 1, "schema": "0006", "created_ms": 1781000000000, "database": "sqlite"}
    {"table": "tag", "columns": ["repository_id", "name", "digest", "moved_ms"], "binary": [], "next_id": null}
    [1, "latest", "sha256:…", 1781000000000]
    {"sha256": "…", "rows": 1}

Bytes (columns listed in `binary`) are in base64. `next_id` is above every id that the table ever gave.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from registry.oci.errors import ConfigurationError
from registry.server.index import dialects, migrate, schema
from registry.server.index.names import now_ms

VERSION = 1
# What is of the moment alone: who works now, uploads under way, failed logins.
_LEFT_OUT = {"lease", "upload", "claim", "attempt"}
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup says of itself, and how many rows each table has."""

    schema: str
    created_ms: int
    database: str
    rows: dict[str, int]


@contextlib.contextmanager
def connection(place: Path | str) -> Iterator[sa.Connection]:
    """A connection to an embedded index (a path) or a database (a URL), for work that takes its time."""
    if isinstance(place, str):
        with migrate.administering(place) as opened:
            yield opened
        return
    with migrate.administering_sqlite(place) as opened:
        yield opened


def dump(tx: sa.Connection, write: Callable[[bytes], object]) -> Contents:
    """Write everything that was committed before this call, line by line, while others go on writing."""
    postgres = tx.dialect.name == dialects.POSTGRESQL
    present, head = migrate.revisions(tx)
    if present != head:
        raise ConfigurationError(f"the index has schema {present}, this release {head}; run: hythe admin migrate")
    # SQLite: everything is read as of the first look, and writers do not wait for readers.
    for statement in _READ[tx.dialect.name]:
        tx.exec_driver_sql(statement)
    try:
        hasher = hashlib.sha256()

        def line(value: Any) -> None:
            data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            hasher.update(data)
            write(data)

        header = {"schema": head, "created_ms": now_ms(), "database": "postgresql" if postgres else "sqlite"}
        line({"hythe_backup": VERSION, **header})
        rows = {table.name: _dump_table(tx, table, line) for table in _tables()}
        write(json.dumps({"sha256": hasher.hexdigest(), "rows": sum(rows.values())}).encode() + b"\n")
        return Contents(head, header["created_ms"], header["database"], rows)  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            tx.exec_driver_sql("ROLLBACK")


_READ = {
    "sqlite": ("BEGIN",),
    "postgresql": (
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
    ),
}


def _tables() -> list[sa.Table]:
    return [table for table in schema.metadata.sorted_tables if table.name not in _LEFT_OUT]


def _dump_table(tx: sa.Connection, table: sa.Table, line: Callable[[Any], None]) -> int:
    columns = list(table.columns)
    binary = [place for place, column in enumerate(columns) if isinstance(column.type, sa.LargeBinary)]
    names = [column.name for column in columns]
    line(
        {
            "table": table.name,
            "columns": names,
            "binary": [names[place] for place in binary],
            "next_id": _next_id(tx, table),
        }
    )
    count = 0
    statement = sa.select(*columns).order_by(*table.primary_key.columns)
    for row in tx.execution_options(stream_results=True, yield_per=_ROWS_AT_ONCE).execute(statement):
        values = list(row)
        for place in binary:
            values[place] = base64.b64encode(values[place]).decode()
        line(values)
        count += 1
    return count


def _next_id(tx: sa.Connection, table: sa.Table) -> int | None:
    """What the table's next row gets at least; None when it numbers none."""
    number = table.columns.get("id")
    if number is None or not isinstance(number.type, sa.Integer):
        return None
    if tx.dialect.name == dialects.POSTGRESQL:
        sequence = tx.exec_driver_sql(f"SELECT pg_get_serial_sequence('{table.name}', 'id')").scalar_one()
        return 1 + int(tx.exec_driver_sql(f"SELECT last_value FROM {sequence}").scalar_one())  # noqa: S608
    known = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :name")
    highest = tx.execute(sa.select(sa.func.max(number))).scalar() or 0
    return 1 + max(int(highest), int(tx.execute(known, {"name": table.name}).scalar() or 0))
