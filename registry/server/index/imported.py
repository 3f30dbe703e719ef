"""Where tags of another registry pointed when they were taken over from there last."""

from __future__ import annotations

import functools

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import dialects
from registry.server.index.schema import imported_tag, repository

_OF = (imported_tag.c.source == bindparam("of_source"), imported_tag.c.repository_id == repository.c.id)
_ALL = (
    sa.select(imported_tag.c.name, imported_tag.c.digest)
    .join(repository, sa.and_(*_OF))
    .where(repository.c.name == bindparam("repository"))
)
_REPOSITORIES = (
    sa.select(repository.c.name).join(imported_tag, sa.and_(*_OF)).distinct().order_by(repository.c.name)
)
_KEY = (
    imported_tag.c.source == bindparam("of_source"),
    imported_tag.c.repository_id == bindparam("of"),
    imported_tag.c.name == bindparam("tag"),
)
_GET = sa.select(imported_tag.c.digest).where(*_KEY)
_FORGET = imported_tag.delete().where(*_KEY)


def repositories(tx: sa.Connection, source: str) -> list[str]:
    """The repositories into which tags of *source* were taken over."""
    return list(tx.execute(_REPOSITORIES, {"of_source": source}).scalars())


def of_repository(tx: sa.Connection, source: str, name: Repository) -> dict[Tag, Digest]:
    """The tags of one repository that came from *source*, and where they pointed there."""
    rows = tx.execute(_ALL, {"of_source": source, "repository": name})
    return {Tag(row.name): Digest(row.digest) for row in rows}


def get(tx: sa.Connection, source: str, repository_id: int, tag: Tag) -> Digest | None:
    """Where a tag pointed when it was taken over last; None when it never was."""
    found = tx.execute(_GET, {"of_source": source, "of": repository_id, "tag": tag}).scalar()
    return None if found is None else Digest(found)


def remember(tx: sa.Connection, source: str, repository_id: int, tag: Tag, digest: Digest) -> None:
    """Note where a tag points there now."""
    row = {"source": source, "repository_id": repository_id, "name": tag, "digest": digest}
    tx.execute(_upsert(tx.dialect.name), row)


@functools.cache
def _upsert(dialect: str) -> sa.Insert:
    make = dialects.upsert(dialect)(imported_tag)
    return make.on_conflict_do_update(
        index_elements=["source", "repository_id", "name"], set_={"digest": make.excluded.digest}
    )


def forget(tx: sa.Connection, source: str, repository_id: int, tag: Tag) -> None:
    """Forget a tag that is not there any more; safe to repeat."""
    tx.execute(_FORGET, {"of_source": source, "of": repository_id, "tag": tag})
