"""Everything that the index has, page by page, for a walk through all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import blobs, dialects, history, names, tags
from registry.server.index.candidates import BYTES
from registry.server.index.schema import blob, blob_link, candidate, manifest, reference, repository, tag


@dataclass(frozen=True, slots=True)
class Entry:
    """A link, a manifest, or (of repository BYTES) a record of bytes. Nothing uses a loose one at this moment,
    and it is no candidate either. `is_deleted` is for a manifest that somebody deleted, and the history may keep.
    """

    repository_id: int
    digest: Digest
    is_loose: bool
    size_bytes: int = 0
    is_deleted: bool = False


def _waits(repository_id: sa.ColumnElement[int], digest: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    where = (candidate.c.repository_id == repository_id, candidate.c.digest == digest)
    return dialects.one(sa.select(sa.literal(1)).select_from(candidate).where(*where).correlate_except(candidate))


def _used(table: sa.Table, source: sa.Table) -> sa.ColumnElement[bool]:
    where = (table.c.repository_id == source.c.repository_id, table.c.digest == source.c.digest)
    return dialects.one(sa.select(sa.literal(1)).where(*where).correlate(source))


def _after(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.tuple_(table.c.repository_id, table.c.digest) > sa.tuple_(bindparam("of"), bindparam("named"))


_LINKS = (
    sa.select(
        blob_link.c.repository_id,
        blob_link.c.digest,
        sa.not_(sa.or_(_used(reference, blob_link), _waits(blob_link.c.repository_id, blob_link.c.digest))).label(
            "is_loose"
        ),
        sa.literal(0).label("size_bytes"),
    )
    .where(_after(blob_link))
    .order_by(blob_link.c.repository_id, blob_link.c.digest)
    .limit(bindparam("limit"))
)
_MANIFESTS = (
    sa.select(
        manifest.c.repository_id,
        manifest.c.digest,
        sa.not_(
            sa.or_(
                tags.some_to(manifest.c.repository_id, manifest.c.digest),
                history.some_of(manifest.c.repository_id, manifest.c.digest),
                sa.and_(manifest.c.deleted_ms.is_(None), _used(reference, manifest)),
                _waits(manifest.c.repository_id, manifest.c.digest),
            )
        ).label("is_loose"),
        sa.literal(0).label("size_bytes"),
        manifest.c.deleted_ms.is_not(None).label("is_deleted"),
    )
    .where(_after(manifest))
    .order_by(manifest.c.repository_id, manifest.c.digest)
    .limit(bindparam("limit"))
)


def _one_has(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row of another table has the digest."""
    return dialects.one(sa.select(sa.literal(1)).where(table.c.digest == blob.c.digest).correlate(blob))


_HAVE = sa.or_(_one_has(blob_link), _one_has(manifest), _waits(sa.literal(BYTES), blob.c.digest))
_RECORDS = (
    sa.select(
        sa.literal(BYTES).label("repository_id"),
        blob.c.digest,
        sa.not_(_HAVE).label("is_loose"),
        blob.c.size_bytes,
    )
    .where(blob.c.digest > bindparam("named"))
    .order_by(blob.c.digest)
    .limit(bindparam("limit"))
)
_RECORDED = sa.select(blob.c.digest).where(blob.c.digest.in_(bindparam("digests", expanding=True)))
_LINKED = sa.select(blob_link.c.digest).where(blob_link.c.digest > bindparam("after"))
_LINKED_PAGE = _LINKED.distinct().order_by(blob_link.c.digest).limit(bindparam("limit"))
_KEPT = sa.select(manifest.c.digest).where(manifest.c.digest > bindparam("after"))
_KEPT_PAGE = _KEPT.distinct().order_by(manifest.c.digest).limit(bindparam("limit"))
_OF: sa.BindParameter[int] = bindparam("of")


def _first(statement: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
    """The first of a repository, found by its key, so that a page costs the same in a large one."""
    mine = statement.where(table.c.repository_id == _OF).order_by(table.c.digest).limit(bindparam("limit"))
    return sa.select(mine.subquery().c.digest)


_HELD = sa.union(_first(_LINKED, blob_link), _first(_KEPT, manifest)).subquery()
_HELD_PAGE = (
    sa.select(_HELD.c.digest, blob.c.size_bytes)
    .outerjoin(blob, blob.c.digest == _HELD.c.digest)
    .order_by(_HELD.c.digest)
    .limit(bindparam("limit"))
)
_RECORD = sa.select(blob.c.size_bytes).where(blob.c.digest == bindparam("digest"))
_PAYLOADS = (
    sa.select(repository.c.name, manifest.c.payload)
    .join(repository, repository.c.id == manifest.c.repository_id)
    .where(manifest.c.digest == bindparam("digest"))
)
_NAMING = (
    sa.select(manifest.c.digest)
    .join(reference, reference.c.manifest_id == manifest.c.id)
    .where(reference.c.repository_id == _OF, reference.c.digest == bindparam("digest"))
)
_TAGS = (
    sa.select(tag.c.name)
    .where(tag.c.repository_id == _OF, tag.c.digest == bindparam("digest"))
    .order_by(tag.c.name)
)
_AFFECTED_MAX = 10_000
_MANIFEST_HOLDERS = (
    sa.select(repository.c.name)
    .join(manifest, manifest.c.repository_id == repository.c.id)
    .where(manifest.c.digest == bindparam("digest"))
    .limit(100)
)


def links(tx: sa.Connection, after: Entry | None, limit: int) -> list[Entry]:
    """Up to *limit* links after one; a loose one is named by no manifest of its repository."""
    return _entries(tx, _LINKS, after, limit)


def manifests(tx: sa.Connection, after: Entry | None, limit: int) -> list[Entry]:
    """Up to *limit* manifests after one; a loose one has no tag nor history, and no manifest lists it."""
    return _entries(tx, _MANIFESTS, after, limit)


def records(tx: sa.Connection, after: Entry | None, limit: int) -> list[Entry]:
    """Up to *limit* records of bytes after one; a loose one is of bytes that no repository has."""
    return _entries(tx, _RECORDS, after, limit)


@dataclass(frozen=True, slots=True)
class Record:
    """A digest and the length that its bytes should have; None when the index has no record of bytes."""

    digest: Digest
    size_bytes: int | None


def lost(tx: sa.Connection, after: str, limit: int) -> tuple[list[Record], str]:
    """Digests that repositories have and of whose bytes there is no record, and where the next page begins.

    Up to *limit* links and manifests after a digest are looked at; the page is the last one when that is "".
    """
    key = {"after": after, "limit": limit}
    pages = [list(tx.execute(statement, key).scalars()) for statement in (_LINKED_PAGE, _KEPT_PAGE)]
    ends = [page[-1] for page in pages if len(page) == limit]
    end = min(ends, default="")
    seen = sorted({Digest(each) for page in pages for each in page if not end or each <= end})
    known = recorded(tx, seen)
    return [Record(each, None) for each in seen if each not in known], end


def held(tx: sa.Connection, name: Repository, after: str, limit: int) -> list[Record]:
    """Up to *limit* of what a repository has, blobs and manifests, after a digest."""
    rows = tx.execute(_HELD_PAGE, {"of": names.find(tx, name), "after": after, "limit": limit})
    return [Record(Digest(row.digest), row.size_bytes) for row in rows]


def record(tx: sa.Connection, digest: Digest) -> Record:
    """What is recorded of a digest's bytes."""
    return Record(digest, tx.execute(_RECORD, {"digest": digest}).scalar())


def payloads(tx: sa.Connection, digest: Digest) -> list[tuple[str, bytes]]:
    """A manifest's bytes as each repository that has it would serve them."""
    return [(row.name, bytes(row.payload)) for row in tx.execute(_PAYLOADS, {"digest": digest})]


def affected_tags(tx: sa.Connection, name: Repository, digest: Digest) -> list[str]:
    """The tags of a repository under which a digest cannot be pulled any more: those that lead to it."""
    of = names.find(tx, name)
    found: set[str] = set()
    seen: set[str] = set()
    waiting: list[str] = [digest]
    while waiting and len(seen) < _AFFECTED_MAX:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            key = {"of": of, "digest": each}
            found.update(tx.execute(_TAGS, key).scalars())
            waiting += tx.execute(_NAMING, key).scalars()
    return sorted(found)


def _entries(tx: sa.Connection, statement: sa.Select[Any], after: Entry | None, limit: int) -> list[Entry]:
    place = {"of": -1, "named": ""} if after is None else {"of": after.repository_id, "named": after.digest}
    rows = tx.execute(statement, {**place, "limit": limit})
    return [
        Entry(
            row.repository_id,
            Digest(row.digest),
            bool(row.is_loose),
            row.size_bytes,
            bool(getattr(row, "is_deleted", False)),
        )
        for row in rows
    ]


def recorded(tx: sa.Connection, digests: Sequence[Digest]) -> set[str]:
    """Those of *digests* of whose bytes there is a record."""
    found: set[str] = set()
    for chunk in blobs.chunks(digests):
        found.update(tx.execute(_RECORDED, {"digests": chunk}).scalars())
    return found


def holders(tx: sa.Connection, digest: Digest) -> list[str]:
    """Names of some repositories that have a digest, as a blob or as a manifest."""
    names = {*blobs.holders(tx, digest), *tx.execute(_MANIFEST_HOLDERS, {"digest": digest}).scalars()}
    return sorted(names)
