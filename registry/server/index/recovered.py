"""What a rebuilding asks of the index about the repository that it puts things into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, names, tags
from registry.server.index.schema import blob_link, manifest, reference, repository, tag

_IN: sa.BindParameter[str] = bindparam("digests", expanding=True)
_HELD = sa.union(
    sa.select(blob_link.c.digest).where(blob_link.c.digest.in_(_IN)),
    sa.select(manifest.c.digest).where(manifest.c.digest.in_(_IN)),
)
_OF: sa.BindParameter[int] = bindparam("of")
_child = manifest.alias("child")


def _here(table: sa.FromClause) -> sa.Exists:
    where = (table.c.repository_id == reference.c.repository_id, table.c.digest == reference.c.digest)
    return sa.exists().where(*where)


_WANTED = sa.and_(reference.c.repository_id == _OF, sa.not_(_here(blob_link)), sa.not_(_here(_child)))
_MISSING = (
    sa.select(reference.c.digest)
    .where(_WANTED, reference.c.digest > bindparam("after"))
    .distinct()
    .order_by(reference.c.digest)
    .limit(bindparam("limit"))
)
_INCOMPLETE = (
    sa.select(manifest.c.digest)
    .join(reference, reference.c.manifest_id == manifest.c.id)
    .where(_WANTED)
    .distinct()
    .order_by(manifest.c.digest)
    .limit(bindparam("limit"))
)
_listed = sa.exists().where(
    reference.c.repository_id == manifest.c.repository_id, reference.c.digest == manifest.c.digest
)
_subject_here = sa.exists().where(
    _child.c.repository_id == manifest.c.repository_id, _child.c.digest == manifest.c.subject
)
_TOPS = (
    sa.select(manifest.c.digest)
    .where(
        manifest.c.repository_id == _OF,
        manifest.c.digest > bindparam("after"),
        sa.not_(sa.or_(_listed, _subject_here, tags.some_to(manifest.c.repository_id, manifest.c.digest))),
    )
    .order_by(manifest.c.digest)
    .limit(bindparam("limit"))
)
_OTHERS = sa.select(repository.c.name).where(repository.c.name != bindparam("name")).limit(1)


def held(tx: sa.Connection, digests: Sequence[Digest]) -> set[str]:
    """Those of *digests* that some repository has, as a blob or as a manifest."""
    found: set[str] = set()
    for chunk in blobs.chunks(digests):
        found.update(tx.execute(_HELD, {"digests": chunk}).scalars())
    return found


def others(tx: sa.Connection, name: Repository) -> bool:
    """Whether there is another repository."""
    return tx.execute(_OTHERS, {"name": name}).first() is not None


def missing(tx: sa.Connection, name: Repository, after: str, limit: int) -> list[Digest]:
    """Up to *limit* digests after one that manifests of a repository name and it does not have."""
    key = {"of": names.find(tx, name), "after": after, "limit": limit}
    return list(map(Digest, tx.execute(_MISSING, key).scalars()))


def incomplete(tx: sa.Connection, name: Repository, limit: int) -> list[Digest]:
    """Up to *limit* manifests of a repository that name what it does not have."""
    key = {"of": names.find(tx, name), "limit": limit}
    return list(map(Digest, tx.execute(_INCOMPLETE, key).scalars()))


def tops(tx: sa.Connection, name: Repository, after: str, limit: int) -> list[Digest]:
    """Up to *limit* manifests after one that no tag, manifest or subject of the repository leads to."""
    key = {"of": names.find(tx, name), "after": after, "limit": limit}
    return list(map(Digest, tx.execute(_TOPS, key).scalars()))


def name(tx: sa.Connection, repository_name: Repository, wanted: Mapping[Digest, Tag]) -> int:
    """Tag manifests, where a tag of that name is not there already; returns how many tags there are now."""
    repository_id = names.find_or_add(tx, repository_name)
    there = sa.select(tag.c.name).where(tag.c.repository_id == repository_id, tag.c.name.in_(wanted.values()))
    taken = set(tx.execute(there).scalars())
    new = {each: digest for digest, each in wanted.items() if each not in taken}
    for each in sorted(new):
        tags.move(tx, repository_id, each, new[each])
    return len(new)
