"""Where tags pointed before: written with each move and deletion, in its transaction; read to undo them.

An entry is a time that is over: a tag led to a manifest from one moment to another, and somebody ended that. What
a tag points to now is the tag's own row. While an entry is there, its manifest stays, as under a tag
(docs/garbage-collection.md); when it is forgotten, a trigger makes that a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import dialects, names
from registry.server.index.schema import manifest, tag, tag_history

ID_MAX = (1 << 31) - 1  # of an INTEGER of PostgreSQL
UNTAGGED = ""  # in place of a tag's name: the manifest itself


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes where tags point, and how: what becomes history says so.

    The *action* is `moved`, `deleted`, `deleted with its manifest`, `retention` or `restored`.
    """

    actor: str
    action: str


@dataclass(frozen=True, slots=True)
class Period:
    """A tag (UNTAGGED: the manifest alone) led to a manifest from one moment to another, in ms since 1970."""

    name: str
    digest: str
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A period that is over, who ended it, and how; `is_served` is whether its manifest can be pulled."""

    id: int
    name: str
    digest: Digest
    from_ms: int
    until_ms: int
    actor: str
    action: str
    is_served: bool


@dataclass(frozen=True, slots=True)
class Point:
    """Where a tag points or pointed: since when, and until when if that is over (ms since 1970)."""

    digest: Digest
    from_ms: int
    until_ms: int | None


_here = (manifest.c.repository_id == tag_history.c.repository_id, manifest.c.digest == tag_history.c.digest)
_served = sa.select(sa.literal(1)).where(*_here, manifest.c.deleted_ms.is_(None)).correlate(tag_history)
_ENTRIES = (
    sa.select(tag_history, dialects.one(_served).label("is_served"))
    .where(tag_history.c.repository_id == bindparam("of"), tag_history.c.id < bindparam("before"))
    .order_by(tag_history.c.id.desc())
    .limit(bindparam("limit"))
)
_ENTRIES_OF_TAG = _ENTRIES.where(tag_history.c.name == bindparam("named"))
_TAG = (tag.c.repository_id == bindparam("of"), tag.c.name == bindparam("named"))
_NOW = sa.select(tag.c.digest, sa.func.coalesce(tag.c.since_ms, tag.c.moved_ms).label("from_ms")).where(*_TAG)
_OF_TAG = (tag_history.c.repository_id == bindparam("of"), tag_history.c.name == bindparam("named"))
_THEN = (
    sa.select(tag_history.c.digest, tag_history.c.from_ms, tag_history.c.until_ms)
    .where(*_OF_TAG, tag_history.c.until_ms > bindparam("at_ms"))
    .order_by(tag_history.c.id)
    .limit(1)
)
_BEFORE = (
    sa.select(tag_history.c.digest)
    .where(*_OF_TAG, tag_history.c.digest != bindparam("present"))
    .order_by(tag_history.c.id.desc())
    .limit(1)
)
_OLDEST = (
    sa.select(tag_history.c.id)
    .where(tag_history.c.until_ms < bindparam("limit_ms"))
    .order_by(tag_history.c.until_ms)
    .limit(bindparam("limit"))
)


def some_of(repository_id: sa.ColumnElement[int], digest: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """The condition that the history of a repository names a manifest."""
    found = sa.select(tag_history.c.id).where(
        tag_history.c.repository_id == repository_id, tag_history.c.digest == digest
    )
    return dialects.one(found.with_hint(tag_history, "INDEXED BY ix_tag_history_repository_id_digest", "sqlite"))


def add(tx: sa.Connection, repository_id: int, change: Change | None, periods: Sequence[Period]) -> None:
    """Keep what *change* ended; without one nothing is kept."""
    if change is None or not periods:
        return
    common = {"repository_id": repository_id, "actor": change.actor, "action": change.action}
    rows = [
        {"name": p.name, "digest": p.digest, "from_ms": p.from_ms, "until_ms": p.until_ms, **common}
        for p in periods
    ]
    tx.execute(tag_history.insert(), rows)


def page(tx: sa.Connection, name: Repository, of: str | None, before: int, limit: int) -> list[Entry]:
    """Up to *limit* entries of a repository, or of one tag, the latest first, with ids less than *before*."""
    key = {"of": names.find(tx, name), "before": before, "limit": limit}
    rows = tx.execute(_ENTRIES, key) if of is None else tx.execute(_ENTRIES_OF_TAG, {**key, "named": of})
    return [
        Entry(
            row.id,
            row.name,
            Digest(row.digest),
            row.from_ms,
            row.until_ms,
            row.actor,
            row.action,
            bool(row.is_served),
        )
        for row in rows
    ]


def now(tx: sa.Connection, name: Repository, of: Tag) -> Point | None:
    """Where a tag points; None when there is no such tag."""
    row = tx.execute(_NOW, {"of": names.find(tx, name), "named": of}).first()
    return None if row is None else Point(Digest(row.digest), row.from_ms, None)


def at(tx: sa.Connection, name: Repository, of: Tag, at_ms: int) -> Point | None:
    """Where a tag pointed at a moment; None when it did not exist, or that is forgotten."""
    key = {"of": names.find(tx, name), "named": of, "at_ms": at_ms}
    row = tx.execute(_THEN, key).first()
    found = now(tx, name, of) if row is None else Point(Digest(row.digest), row.from_ms, row.until_ms)
    return found if found is not None and found.from_ms <= at_ms else None


def before(tx: sa.Connection, name: Repository, of: str, present: str) -> Digest | None:
    """Where a tag pointed last that is not *present*; None when the history has nothing of that kind."""
    found = tx.execute(_BEFORE, {"of": names.find(tx, name), "named": of, "present": present}).scalar()
    return None if found is None else Digest(found)


def forget(tx: sa.Connection, before_ms: int, limit: int) -> int:
    """Forget up to *limit* entries that ended before a moment, and return how many there were."""
    old = list(tx.execute(_OLDEST, {"limit_ms": before_ms, "limit": limit}).scalars())
    if old:
        tx.execute(tag_history.delete().where(tag_history.c.id.in_(sorted(old))))
    return len(old)


def forget_all_of(tx: sa.Connection, name: Repository, of: str | None) -> int:
    """Forget the history of a repository, or of one tag of it, and return how many entries there were."""
    gone = tag_history.delete().where(tag_history.c.repository_id == names.find(tx, name))
    return tx.execute(gone if of is None else gone.where(tag_history.c.name == of)).rowcount
