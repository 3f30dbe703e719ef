"""When somebody last asked for a tag or a digest: written in batches, read by retention."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import dialects, names
from registry.server.index.schema import job, pulled, tag


@dataclass(frozen=True, slots=True)
class TagFacts:
    """A tag with what its retention depends on; `pulled_ms` is of the tag or of its manifest, None for never."""

    name: Tag
    digest: Digest
    moved_ms: int
    pulled_ms: int | None


_by_tag, _by_digest = pulled.alias("by_tag"), pulled.alias("by_digest")
_TAGS = (
    sa.select(
        tag.c.name,
        tag.c.digest,
        tag.c.moved_ms,
        _by_tag.c.at_ms.label("tag_ms"),
        _by_digest.c.at_ms.label("digest_ms"),
    )
    .outerjoin(_by_tag, sa.and_(_by_tag.c.repository_id == tag.c.repository_id, _by_tag.c.name == tag.c.name))
    .outerjoin(
        _by_digest, sa.and_(_by_digest.c.repository_id == tag.c.repository_id, _by_digest.c.name == tag.c.digest)
    )
    .where(tag.c.repository_id == bindparam("of"), tag.c.name > bindparam("after"))
    .order_by(tag.c.name)
    .limit(bindparam("limit"))
)
_SINCE = sa.select(job.c.started_ms).where(job.c.name == "pulls")


@functools.cache
def _record(dialect: str) -> sa.Insert:
    make = dialects.upsert(dialect)(pulled)
    return make.on_conflict_do_update(
        index_elements=["repository_id", "name"], set_={"at_ms": make.excluded.at_ms}
    )


def record(tx: sa.Connection, pulls: Mapping[tuple[Repository, str], int]) -> None:
    """Note the moments (milliseconds since 1970) at which tags and digests of repositories were asked for."""
    ids = {name: names.find(tx, name) for name, _ in pulls}
    rows = [
        {"repository_id": ids[repository], "name": name, "at_ms": at_ms}
        for (repository, name), at_ms in sorted(pulls.items())
        if ids[repository] is not None
    ]
    if rows:
        tx.execute(_record(tx.dialect.name), rows)


def known_since_ms(tx: sa.Connection) -> int:
    """Since when pulls are recorded: what has none since then was not pulled, before that nobody knows."""
    return int(tx.execute(_SINCE).scalar() or 0)


def tags(tx: sa.Connection, repository: Repository, after: str, limit: int) -> list[TagFacts]:
    """Up to *limit* tags after the name *after*, in byte order."""
    key = {"of": names.find(tx, repository), "after": after, "limit": limit}
    found = []
    for row in tx.execute(_TAGS, key):
        moments = [moment for moment in (row.tag_ms, row.digest_ms) if moment is not None]
        found.append(TagFacts(Tag(row.name), Digest(row.digest), row.moved_ms, max(moments, default=None)))
    return found
