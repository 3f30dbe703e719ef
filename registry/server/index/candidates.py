"""Candidates: what may be garbage since a moment. Triggers of the database add them (migration 0005).

Times are the database's own. A candidate is looked at when it is older than the grace period; each later event
(a push that told a client of it, a reference that went) makes it younger again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.server.index import dialects
from registry.server.index.schema import candidate

BYTES = 0  # in place of a repository: the bytes themselves


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a repository (BYTES: the store) has under a digest is to be looked at, for something that happened."""

    repository_id: int
    digest: Digest
    since_ms: int
    reason: str


_KEY = (candidate.c.repository_id == bindparam("of"), candidate.c.digest == bindparam("named"))
_FORGET = candidate.delete().where(*_KEY, candidate.c.since_ms == bindparam("seen_ms"))
_MAKE_DUE = candidate.update().where(*_KEY).values(since_ms=0)
_COUNT = sa.select(sa.func.count(), sa.func.min(candidate.c.since_ms)).select_from(candidate)
_DUE = sa.select(sa.func.count()).select_from(candidate).where(candidate.c.since_ms <= bindparam("limit_ms"))
_ANY_DUE = sa.select(candidate.c.digest).where(candidate.c.since_ms <= bindparam("limit_ms")).limit(1)
_NOW = sa.select(dialects.clock_ms())


@functools.cache
def _insert(dialect: str) -> sa.Insert:
    make = dialects.upsert(dialect)(candidate)
    later = sa.case(
        (make.excluded.since_ms > candidate.c.since_ms, make.excluded.since_ms), else_=candidate.c.since_ms + 1
    )
    return make.on_conflict_do_update(
        index_elements=["repository_id", "digest"], set_={"reason": make.excluded.reason, "since_ms": later}
    ).values(
        repository_id=bindparam("repository_id"),
        digest=bindparam("digest"),
        since_ms=dialects.clock_ms(),
        reason=bindparam("reason"),
    )


def add(tx: sa.Connection, repository_id: int, digests: Iterable[str], reason: str) -> None:
    """Have *digests* looked at a grace period from now, whatever was to happen to them before."""
    rows = [{"repository_id": repository_id, "digest": one, "reason": reason} for one in sorted(set(digests))]
    if rows:
        tx.execute(_insert(tx.dialect.name), rows)


def add_new(tx: sa.Connection, repository_id: int, digests: Iterable[str], reason: str) -> int:
    """As `add`, for those of *digests* alone that are no candidates yet; returns how many there were."""
    values = {"repository_id": repository_id, "since_ms": tx.execute(_NOW).scalar_one(), "reason": reason}
    statement = dialects.insert_or_leave(tx, candidate)
    return sum(tx.execute(statement, {**values, "digest": each}).rowcount for each in sorted(set(digests)))


def make_due(tx: sa.Connection, repository_id: int, digest: str) -> None:
    """Have a candidate looked at as soon as possible: its grace period was waited for under another name."""
    tx.execute(_MAKE_DUE, {"of": repository_id, "named": digest})


def forget(tx: sa.Connection, seen: Sequence[Candidate]) -> None:
    """Drop candidates that were looked at, except those of which there was news since."""
    if seen:
        tx.execute(_FORGET, [{"of": c.repository_id, "named": c.digest, "seen_ms": c.since_ms} for c in seen])


def limit_ms(tx: sa.Connection, grace_ms: int) -> int:
    """The moment before which the candidates are due."""
    return int(tx.execute(_NOW).scalar_one()) - grace_ms


def any_due(tx: sa.Connection, before_ms: int) -> bool:
    """Whether there is something to look at."""
    return tx.execute(_ANY_DUE, {"limit_ms": before_ms}).first() is not None


def standing(tx: sa.Connection, before_ms: int) -> tuple[int, int, int | None]:
    """How many candidates there are, how many of them are due, and since when the oldest one waits."""
    count, oldest = tx.execute(_COUNT).one()
    return count, tx.execute(_DUE, {"limit_ms": before_ms}).scalar_one(), oldest
