"""Tags: names that move from manifest to manifest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import changes, dialects, history, names
from registry.server.index.history import Change, Period
from registry.server.index.schema import tag

_PAGE = (
    sa.select(tag.c.name)
    .where(tag.c.repository_id == bindparam("repository_id"), tag.c.name > bindparam("after"))
    .order_by(tag.c.name)
    .limit(bindparam("limit"))
)
_EVERYTHING = (
    sa.select(tag.c.name, tag.c.digest)
    .where(tag.c.repository_id == bindparam("repository_id"))
    .order_by(tag.c.name)
)
_ROW = (tag.c.repository_id == bindparam("row_repository_id"), tag.c.name == bindparam("row_name"))
_HOLD = sa.select(tag.c.digest, tag.c.moved_ms, tag.c.since_ms).where(*_ROW).with_for_update()
_MOVE = (
    tag.update()
    .where(*_ROW)
    .values(digest=bindparam("digest"), moved_ms=bindparam("moved_ms"), since_ms=bindparam("since_ms"))
)
_REMOVE = tag.delete().where(*_ROW).returning(tag.c.name, tag.c.digest, tag.c.moved_ms, tag.c.since_ms)


def some_to(repository_id: sa.ColumnElement[int], digest: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """The condition that a tag of a repository points to a manifest."""
    found = sa.select(tag.c.name).where(tag.c.repository_id == repository_id, tag.c.digest == digest)
    # Left alone, SQLite looks through all tags of the repository for the first that fits.
    return dialects.one(found.with_hint(tag, "INDEXED BY ix_tag_repository_id_digest", "sqlite"))


def everything(tx: sa.Connection, name: Repository) -> dict[Tag, Digest]:
    """All tags of a repository and where they point, in byte order; none when there is no such repository."""
    rows = tx.execute(_EVERYTHING, {"repository_id": names.find(tx, name)})
    return {Tag(row.name): Digest(row.digest) for row in rows}


def move(tx: sa.Connection, repository_id: int, name: Tag, digest: Digest, change: Change | None = None) -> bool:
    """Point a tag at a manifest that the repository has; True when it pointed to another one before."""
    return bool(move_all(tx, repository_id, [name], digest, change))


def move_all(
    tx: sa.Connection, repository_id: int, named: Iterable[Tag], digest: Digest, change: Change | None = None
) -> list[Tag]:
    """Point tags at a manifest that the repository has; returns those that pointed to another one before.

    *change* says in the history who moved them.
    """
    moment = names.now_ms()
    ended = [
        period for name in sorted(named) if (period := _move(tx, repository_id, name, digest, moment)) is not None
    ]
    if ended:
        history.add(tx, repository_id, change, ended)
        changes.mark(tx)
    return [Tag(period.name) for period in ended]


def _move(tx: sa.Connection, repository_id: int, name: Tag, digest: Digest, moment: int) -> Period | None:
    """Point one tag at a manifest; what is over by that, None when it did not point to another one."""
    row = {"row_repository_id": repository_id, "row_name": name}
    # Two that add the same tag at once: the second one finds no room, and then the first one's row.
    while (present := tx.execute(_HOLD, row).first()) is None:
        added = {"repository_id": repository_id, "name": name, "digest": digest, "moved_ms": moment}
        if tx.execute(dialects.insert_or_leave(tx, tag), added).rowcount:
            return None
    if present.digest == digest:
        since = present.moved_ms if present.since_ms is None else present.since_ms
        tx.execute(_MOVE, {**row, "digest": digest, "moved_ms": moment, "since_ms": since})
        return None
    over = period_of(name, present, moment)
    # Clocks of servers differ: what comes after never begins before what it ends.
    tx.execute(_MOVE, {**row, "digest": digest, "moved_ms": over.until_ms, "since_ms": None})
    return over


def period_of(name: str, row: Any, moment: int) -> Period:
    """What is over when a tag's row changes or goes at *moment*."""
    since = row.moved_ms if row.since_ms is None else row.since_ms
    return Period(name, row.digest, since, max(moment, row.moved_ms))


def hold(tx: sa.Connection, name: Repository, held: Tag) -> tuple[Digest, int] | None:
    """Keep everybody else from moving a tag until this transaction ends: where it points, since when (ms).

    None when there is no such tag.
    """
    row = {"row_repository_id": names.find(tx, name), "row_name": held}
    found = tx.execute(_HOLD, row).first()
    return None if found is None else (Digest(found.digest), found.moved_ms)


def remove(tx: sa.Connection, name: Repository, gone: Tag, change: Change | None = None) -> bool:
    """Remove a tag and leave its manifest; False when there was none. *change* says who, in the history."""
    repository_id = names.find(tx, name)
    found = tx.execute(_REMOVE, {"row_repository_id": repository_id, "row_name": gone}).first()
    if found is None or repository_id is None:
        return False
    history.add(tx, repository_id, change, [period_of(gone, found, names.now_ms())])
    changes.mark(tx)
    return True


def page(tx: sa.Connection, name: Repository, after: str, limit: int) -> list[str] | None:
    """Up to *limit* tags in byte order after *after*; None when there is no such repository."""
    repository_id = names.find(tx, name)
    if repository_id is None:
        return None
    found = tx.execute(_PAGE, {"repository_id": repository_id, "after": after, "limit": limit})
    return list(found.scalars())
