"""Tags: names that move from manifest to manifest."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import changes, dialects, names
from registry.server.index.schema import tag

_PAGE = (
    sa.select(tag.c.name)
    .where(tag.c.repository_id == bindparam("repository_id"), tag.c.name > bindparam("after"))
    .order_by(tag.c.name)
    .limit(bindparam("limit"))
)
_ROW = (tag.c.repository_id == bindparam("row_repository_id"), tag.c.name == bindparam("row_name"))
_HOLD = sa.select(tag.c.digest).where(*_ROW).with_for_update()
_HOLD_ALL = sa.select(tag.c.digest, tag.c.moved_ms).where(*_ROW).with_for_update()
_MOVE = tag.update().where(*_ROW).values(digest=bindparam("digest"), moved_ms=bindparam("moved_ms"))


def some_to(repository_id: sa.ColumnElement[int], digest: sa.ColumnElement[str]) -> sa.Exists:
    """The condition that a tag of a repository points to a manifest."""
    found = sa.select(tag.c.name).where(tag.c.repository_id == repository_id, tag.c.digest == digest)
    # Left alone, SQLite looks through all tags of the repository for the first that fits.
    return sa.exists(found.with_hint(tag, "INDEXED BY ix_tag_repository_id_digest", "sqlite"))


def move(tx: sa.Connection, repository_id: int, name: Tag, digest: Digest) -> bool:
    """Point a tag at a manifest that the repository has; True when it pointed to another one before."""
    row = {"row_repository_id": repository_id, "row_name": name}
    values = {"digest": digest, "moved_ms": names.now_ms()}
    # Two that add the same tag at once: the second one finds no room, and then the first one's row.
    while (present := tx.execute(_HOLD, row).scalar()) is None:
        added = {"repository_id": repository_id, "name": name, **values}
        if tx.execute(dialects.insert_or_leave(tx, tag), added).rowcount:
            return False
    tx.execute(_MOVE, {**row, **values})
    if present == digest:
        return False
    changes.mark(tx)
    return True


def hold(tx: sa.Connection, name: Repository, held: Tag) -> tuple[Digest, int] | None:
    """Keep everybody else from moving a tag until this transaction ends: where it points, since when (ms).

    None when there is no such tag.
    """
    row = {"row_repository_id": names.find(tx, name), "row_name": held}
    found = tx.execute(_HOLD_ALL, row).first()
    return None if found is None else (Digest(found.digest), found.moved_ms)


def remove(tx: sa.Connection, name: Repository, gone: Tag) -> bool:
    """Remove a tag and leave its manifest; False when there was none."""
    repository_id = names.find(tx, name)
    found = tx.execute(tag.delete().where(tag.c.repository_id == repository_id, tag.c.name == gone))
    if not found.rowcount:
        return False
    changes.mark(tx)
    return True


def page(tx: sa.Connection, name: Repository, after: str, limit: int) -> list[str] | None:
    """Up to *limit* tags in byte order after *after*; None when there is no such repository."""
    repository_id = names.find(tx, name)
    if repository_id is None:
        return None
    found = tx.execute(_PAGE, {"repository_id": repository_id, "after": after, "limit": limit})
    return list(found.scalars())
