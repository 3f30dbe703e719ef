"""Everything that the index has, page by page, for a walk through all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.server.index import blobs, tags
from registry.server.index.candidates import BYTES
from registry.server.index.schema import blob, blob_link, candidate, manifest, reference, repository


@dataclass(frozen=True, slots=True)
class Entry:
    """A link, a manifest, or (of repository BYTES) a record of bytes. Nothing uses a loose one at this moment,
    and it is no candidate either.
    """

    repository_id: int
    digest: Digest
    is_loose: bool
    size_bytes: int = 0


def _waits(repository_id: sa.ColumnElement[int], digest: sa.ColumnElement[str]) -> sa.Exists:
    return sa.exists().where(candidate.c.repository_id == repository_id, candidate.c.digest == digest)


def _used(table: sa.Table, source: sa.Table) -> sa.Exists:
    return sa.exists().where(table.c.repository_id == source.c.repository_id, table.c.digest == source.c.digest)


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
                _used(reference, manifest),
                _waits(manifest.c.repository_id, manifest.c.digest),
            )
        ).label("is_loose"),
        sa.literal(0).label("size_bytes"),
    )
    .where(_after(manifest))
    .order_by(manifest.c.repository_id, manifest.c.digest)
    .limit(bindparam("limit"))
)


def _one_has(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row of another table has the digest. With EXISTS, PostgreSQL may read all of it for each page."""
    found = sa.select(sa.literal(1)).where(table.c.digest == blob.c.digest).correlate(blob).limit(1)
    return found.scalar_subquery().is_not(None)


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
    """Up to *limit* manifests after one; a loose one has no tag, and no manifest lists it."""
    return _entries(tx, _MANIFESTS, after, limit)


def records(tx: sa.Connection, after: Entry | None, limit: int) -> list[Entry]:
    """Up to *limit* records of bytes after one; a loose one is of bytes that no repository has."""
    return _entries(tx, _RECORDS, after, limit)


def _entries(tx: sa.Connection, statement: sa.Select[Any], after: Entry | None, limit: int) -> list[Entry]:
    place = {"of": -1, "named": ""} if after is None else {"of": after.repository_id, "named": after.digest}
    rows = tx.execute(statement, {**place, "limit": limit})
    return [Entry(row.repository_id, Digest(row.digest), bool(row.is_loose), row.size_bytes) for row in rows]


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
