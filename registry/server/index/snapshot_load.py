"""Reading a backup: the lines that `snapshot` wrote, each looked at once, into an index or only counted."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa

from registry import failpoints
from registry.oci.errors import HytheError
from registry.server.index import dialects, migrate, schema
from registry.server.index.names import now_ms
from registry.server.index.snapshot import VERSION, Contents

_ROWS_AT_ONCE = 500
_USED = ("repository", "manifest", "blob_link", "blob")  # have rows once somebody has pushed


class BackupInvalid(HytheError):
    """A file that is no backup, or not the whole of one, or of another release."""


class NotEmpty(HytheError):
    """The index has something in it."""


def contents(lines: Iterable[bytes]) -> Contents:
    """What a backup has, if it is whole. Raises BackupInvalid."""
    rows: dict[str, int] = {}
    reader = _Reader(lines)
    for table, values in reader.tables():
        rows[table["table"]] = sum(1 for _ in values)
    return Contents(reader.header["schema"], reader.header["created_ms"], reader.header["database"], rows)


def load(
    tx: sa.Connection,
    lines: Iterable[bytes],
    replace: bool = False,
    then: Callable[[sa.Connection], None] | None = None,
) -> Contents:
    """Make the index what a backup says, all or nothing, and run *then* in the same transaction.

    The tables have to be there as the backup's release had them (`migrate.upgrade`). Raises BackupInvalid, and
    NotEmpty unless *replace*.
    """
    reader, rows = _Reader(lines), {}
    for statement in migrate.BEGIN[tx.dialect.name]:
        tx.exec_driver_sql(statement)
    try:
        if not replace and not is_empty(tx):
            raise NotEmpty("the index has repositories; --force replaces all of it by the backup")
        with _no_triggers(tx):
            _clear(tx)
            for table, values in reader.tables():
                rows[table["table"]] = _load_table(tx, table, values)
            _settle(tx)
        if then is not None:
            then(tx)
        failpoints.reach("restore.loaded")
        tx.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            tx.exec_driver_sql("ROLLBACK")
        raise
    return Contents(reader.header["schema"], reader.header["created_ms"], reader.header["database"], rows)


def is_empty(tx: sa.Connection) -> bool:
    """Whether nobody has pushed anything; accounts may be there."""
    found = (tx.execute(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)) for name in _USED)
    return not any(rows.first() for rows in found)


class _Reader:
    """The lines of a backup, each looked at once, and in the end their sum."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._hasher = hashlib.sha256()
        self._waiting: Any = None
        self.header: dict[str, Any] = self._next()
        if not isinstance(self.header, dict) or "hythe_backup" not in self.header:
            raise BackupInvalid("this is no backup of Hythe")
        if self.header["hythe_backup"] != VERSION:
            raise BackupInvalid("the backup is from a later release; restore it with that one")

    def _next(self) -> Any:
        line = next(self._lines, b"")
        try:
            value = json.loads(line)
        except ValueError:
            raise BackupInvalid("the backup is damaged, or not the whole of one") from None
        is_sum = isinstance(value, dict) and "sha256" in value
        if is_sum and value["sha256"] != self._hasher.hexdigest():
            raise BackupInvalid("the backup is damaged: its sum is another one")
        self._hasher.update(line)
        return value

    def tables(self) -> Iterator[tuple[dict[str, Any], Iterator[list[Any]]]]:
        """Each table with its rows, which have to be taken before the next table."""
        self._waiting = self._next()
        while "sha256" not in self._waiting:
            table = self._waiting
            yield table, self._rows(table)
        if next(self._lines, b""):
            raise BackupInvalid("the backup is damaged: something follows its end")

    def _rows(self, table: dict[str, Any]) -> Iterator[list[Any]]:
        try:
            binary = [table["columns"].index(name) for name in table["binary"]]
            while isinstance(values := self._next(), list):
                for place in binary:
                    values[place] = base64.b64decode(values[place])
                yield values
        except (KeyError, TypeError, ValueError, IndexError):
            raise BackupInvalid("the backup is damaged: a row is none") from None
        self._waiting = values


def _load_table(tx: sa.Connection, table: dict[str, Any], rows: Iterator[list[Any]]) -> int:
    names, count = table["columns"], 0
    target = sa.table(table["table"], *(sa.column(name) for name in names))
    while some := [dict(zip(names, row, strict=True)) for row in islice(rows, _ROWS_AT_ONCE)]:
        tx.execute(target.insert(), some)
        failpoints.reach("restore.row")
        count += len(some)
    if table["next_id"] is not None:
        _number_from(tx, table["table"], table["next_id"])
    return count


def _number_from(tx: sa.Connection, table: str, next_id: int) -> None:
    if tx.dialect.name == dialects.POSTGRESQL:
        statement = sa.text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :next, false)")
        tx.execute(statement, {"name": table, "next": next_id})
        return
    key = {"name": table, "last": next_id - 1}
    created = tx.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = :name"), key).scalar_one()
    if "AUTOINCREMENT" in created.upper():
        tx.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), key)
        tx.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), key)


def _existing(tx: sa.Connection) -> list[str]:
    return [name for name in sa.inspect(tx).get_table_names() if name in schema.metadata.tables]


def _clear(tx: sa.Connection) -> None:
    for name in _existing(tx):
        tx.execute(sa.delete(sa.table(name)))


def _settle(tx: sa.Connection) -> None:
    """What waits for its end has a grace period from now; and no process takes its memory for what is here now."""
    candidate, change = schema.candidate, schema.change
    tx.execute(candidate.update().values(since_ms=dialects.clock_ms()))
    first = sa.select(sa.func.min(change.c.id)).scalar_subquery()
    tx.execute(change.update().where(change.c.id == first).values(count=change.c.count + now_ms()))


@contextlib.contextmanager
def _no_triggers(tx: sa.Connection) -> Iterator[None]:
    """Rows come and go as they are, and no trigger makes anything of that."""
    if tx.dialect.name == dialects.POSTGRESQL:
        names = _existing(tx)
        for name in names:
            tx.exec_driver_sql(f"ALTER TABLE {name} DISABLE TRIGGER USER")
        yield
        for name in names:
            tx.exec_driver_sql(f"ALTER TABLE {name} ENABLE TRIGGER USER")
        return
    triggers = tx.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
    for name, _ in triggers:
        tx.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    for _, created in triggers:
        tx.exec_driver_sql(created)
