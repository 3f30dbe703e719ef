"""Sessions of browsers, as hashes of what their cookies say."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.server.index.names import now_ms
from registry.server.index.schema import session

_GET = sa.select(session).where(session.c.hash == bindparam("hash"))


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's session: of which account, and of which generation of it."""

    hash: str
    account_id: int
    generation: int
    created_ms: int
    expires_ms: int


def get(tx: sa.Connection, hashed: str) -> Session | None:
    """A session whose time is not over."""
    row = tx.execute(_GET, {"hash": hashed}).first()
    found = None if row is None else Session(**row._mapping)
    return found if found is not None and found.expires_ms > now_ms() else None


def add(tx: sa.Connection, hashed: str, account_id: int, generation: int, expires_ms: int) -> None:
    """Keep a new session."""
    values = {"account_id": account_id, "generation": generation, "created_ms": now_ms(), "expires_ms": expires_ms}
    tx.execute(session.insert(), {"hash": hashed, **values})


def remove(tx: sa.Connection, hashed: str) -> None:
    """End a session; safe to repeat."""
    tx.execute(session.delete().where(session.c.hash == hashed))


def remove_expired(tx: sa.Connection) -> None:
    """Delete sessions whose time is over."""
    tx.execute(session.delete().where(session.c.expires_ms < now_ms()))
