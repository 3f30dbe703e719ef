"""What SQLite and PostgreSQL have both, and SQLAlchemy writes in two ways."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

POSTGRESQL = "postgresql"


def one(found: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """Whether *found*, which is about the row at hand, has a row: EXISTS for what a statement selects or negates.

    With EXISTS itself, PostgreSQL may read the whole other table for each page, as it plans for all pages at once.
    """
    return found.limit(1).scalar_subquery().is_not(None)


def insert(tx: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that takes ON CONFLICT clauses."""
    return upsert(tx.dialect.name)(table)


def upsert(dialect: str) -> Callable[[sa.Table], postgresql.Insert | sqlite.Insert]:
    """The way to make an INSERT that takes ON CONFLICT clauses, for statements that are made once."""
    return postgresql.insert if dialect == POSTGRESQL else sqlite.insert


def insert_or_leave(tx: sa.Connection, table: sa.Table, *returning: sa.Column[Any]) -> sa.Insert:
    """An INSERT that does nothing when a row with the same key is there already.

    Then it returns no row, and its `rowcount` is 0. When another transaction is just adding that row, PostgreSQL
    waits until it is there or not.
    """
    return _insert_or_leave(tx.dialect.name, table, returning)


@functools.cache
def _insert_or_leave(dialect: str, table: sa.Table, returning: tuple[sa.Column[Any], ...]) -> sa.Insert:
    statement: sa.Insert = upsert(dialect)(table).on_conflict_do_nothing()
    if returning:
        return statement.returning(*returning)
    return statement.execution_options(preserve_rowcount=True)  # else SQLAlchemy forgets it for inserts


# Any number that no other program on the same database uses for its own advisory locks.
_LOCKS = 0x48797468
_WAIT = sa.text(f"SELECT pg_advisory_xact_lock({_LOCKS}, hashtext(:name))")


def wait_for_others(tx: sa.Connection, name: str) -> bool:
    """Let one transaction at a time go on from here that waits for the same *name*, each until its end.

    Take it before any row's lock. False where transactions that write come one by one anyway.
    """
    if tx.dialect.name != POSTGRESQL:
        return False
    tx.execute(_WAIT, {"name": name})
    return True


class clock_ms(sa.sql.functions.FunctionElement[int]):
    """The database's time now, in milliseconds since 1970."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(clock_ms, "postgresql")
def _postgresql_clock(element: clock_ms, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(clock_ms, "sqlite")
def _sqlite_clock(element: clock_ms, compiler: Any, **options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
