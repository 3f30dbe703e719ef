"""Tags: names that move from manifest to manifest."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import changes, names
from registry.server.index.schema import repository, tag

_PAGE = (
    sa.select(tag.c.name)
    .where(tag.c.repository_id == bindparam("repository_id"), tag.c.name > bindparam("after"))
    .order_by(tag.c.name)
    .limit(bindparam("limit"))
)
_DIGEST = (
    sa.select(tag.c.digest)
    .join(repository, repository.c.id == tag.c.repository_id)
    .where(repository.c.name == bindparam("repository"), tag.c.name == bindparam("tag"))
)


def digest_of(tx: sa.Connection, name: Repository, wanted: Tag) -> Digest | None:
    """Where a tag points, None when there is no such tag."""
    found = tx.execute(_DIGEST, {"repository": name, "tag": wanted}).scalar()
    return None if found is None else Digest(found)


def move(tx: sa.Connection, repository_id: int, name: Tag, digest: Digest) -> None:
    """Point a tag at a manifest that the repository has."""
    where = (tag.c.repository_id == repository_id, tag.c.name == name)
    values = {"digest": digest, "moved_ms": names.now_ms()}
    present = tx.execute(sa.select(tag.c.digest).where(*where)).scalar()
    if present is None:
        tx.execute(tag.insert(), {"repository_id": repository_id, "name": name, **values})
        return
    tx.execute(tag.update().where(*where).values(**values))
    if present != digest:
        changes.mark(tx)


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
