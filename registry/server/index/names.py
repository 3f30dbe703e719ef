"""Repositories, and the catalogue of those that hold something."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.reference import Repository
from registry.server.index import dialects
from registry.server.index.schema import manifest, repository

_FIND = sa.select(repository.c.id).where(repository.c.name == bindparam("name"))
_CATALOGUE = (
    sa.select(repository.c.name)
    .where(
        repository.c.name > bindparam("after"),
        sa.exists().where(manifest.c.repository_id == repository.c.id, manifest.c.deleted_ms.is_(None)),
    )
    .order_by(repository.c.name)
    .limit(bindparam("limit"))
)


def now_ms() -> int:
    """The time now, in the index's unit."""
    return time.time_ns() // 1_000_000


def find(tx: sa.Connection, name: Repository) -> int | None:
    """The id of a repository, None when there is none."""
    return tx.execute(_FIND, {"name": name}).scalar()


def find_or_add(tx: sa.Connection, name: Repository) -> int:
    """The id of a repository, which is added when it is missing."""
    while (found := find(tx, name)) is None:
        # When another transaction adds it first, there is no row here and the next look finds that one's.
        add = dialects.insert_or_leave(tx, repository, repository.c.id)
        added = tx.execute(add, {"name": name, "created_ms": now_ms()}).scalar()
        if added is not None:
            return int(added)
    return found


def page(tx: sa.Connection, after: str, limit: int, containing: str = "") -> list[str]:
    """Up to *limit* names of repositories that hold a manifest, in byte order, after the name *after*.

    With *containing*, those alone that have this text in them, whatever characters it is made of.
    """
    if not containing:
        return list(tx.execute(_CATALOGUE, {"after": after, "limit": limit}).scalars())
    search = _CATALOGUE.where(repository.c.name.contains(containing, autoescape=True))
    return list(tx.execute(search, {"after": after, "limit": limit}).scalars())
