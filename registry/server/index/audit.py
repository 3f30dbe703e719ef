"""The audit log: rows go in with the change that they tell of, and never go out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from registry.server.index.names import now_ms
from registry.server.index.schema import audit

_INSERT = audit.insert()
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """Who did what to which thing, from where, and what came of it."""

    id: int
    at_ms: int
    actor: str
    address: str
    action: str
    target: str
    result: str
    detail: dict[str, Any]


def write(
    tx: sa.Connection,
    /,
    actor: str,
    address: str,
    action: str,
    target: str,
    result: str = "done",
    **detail: Any,
) -> None:
    """Add an entry; *action* is like `tag.move`, *result* `done` or `denied`. Never a secret in *detail*."""
    values = {
        "at_ms": now_ms(),
        "actor": actor,
        "address": address,
        "action": action,
        "target": target,
        "result": result,
        "detail": json.dumps(detail) if detail else "{}",
    }
    tx.execute(_INSERT, values)


def page(tx: sa.Connection, after: int, since_ms: int = 0, limit: int = _PAGE) -> list[Entry]:
    """Up to *limit* entries after the id *after*, oldest first, not older than *since_ms*."""
    rows = tx.execute(
        sa.select(audit).where(audit.c.id > after, audit.c.at_ms >= since_ms).order_by(audit.c.id).limit(limit)
    )
    return [Entry(**{**row._mapping, "detail": json.loads(row.detail)}) for row in rows]


def everything(tx: sa.Connection, since_ms: int = 0) -> Iterator[Entry]:
    """All entries, oldest first."""
    after = 0
    while entries := page(tx, after, since_ms):
        yield from entries
        after = entries[-1].id
