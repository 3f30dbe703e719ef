"""What the index knows of a candidate: the facts that decide whether it goes, and nothing that decides it.

Read without locks they are good for a plan; under the locks of `blobs` and `manifests`, for the deed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import dialects, history, tags
from registry.server.index.candidates import BYTES, Candidate
from registry.server.index.schema import blob, blob_link, candidate, manifest, reference, repository

HOLDERS_COUNTED = 100
FAMILY_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest, and what might keep it: a tag, the history, a grace period of its own, and other manifests.

    `is_deleted` is whether somebody deleted it by its digest, so that only its own history keeps it. `parents`
    are the manifests of its repository that list it, `subject` is the one that it refers to, if that is there.
    """

    size_bytes: int = 0
    is_tagged: bool = False
    is_remembered: bool = False
    is_deleted: bool = False
    since_ms: int | None = None
    parents: frozenset[Digest] = frozenset()
    subject: Digest | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """A candidate and all that counts for it.

    `holders` is how many links and manifests of any repository have the digest, counted to HOLDERS_COUNTED.
    `family` is the manifest under the digest, if it is one, with every manifest that might keep it; the search
    for those ends early at one that does.
    """

    candidate: Candidate
    repository: Repository | None = None
    size_bytes: int = 0
    holders: int = 0
    is_linked: bool = False
    is_referenced: bool = False
    family: Mapping[Digest, Node] = field(default_factory=dict)


def _here(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    here = (table.c.repository_id == candidate.c.repository_id, table.c.digest == candidate.c.digest)
    return dialects.one(sa.select(sa.literal(1)).where(*here, *where).correlate(candidate))


_FACTS = (
    sa.select(
        candidate.c.repository_id,
        candidate.c.digest,
        candidate.c.since_ms,
        candidate.c.reason,
        repository.c.name,
        blob.c.size_bytes,
        _here(blob_link).label("is_linked"),
        _here(reference).label("is_referenced"),
        _here(manifest).label("is_manifest"),
        _here(manifest, manifest.c.deleted_ms.is_not(None)).label("is_deleted"),
    )
    .select_from(candidate)
    .outerjoin(repository, repository.c.id == candidate.c.repository_id)
    .outerjoin(blob, blob.c.digest == candidate.c.digest)
)
_ORDER = (candidate.c.since_ms, candidate.c.repository_id, candidate.c.digest)
DUE = (
    _FACTS.where(
        candidate.c.since_ms <= bindparam("limit_ms"),
        sa.tuple_(*_ORDER) > sa.tuple_(bindparam("after_ms"), bindparam("after_of"), bindparam("after_named")),
    )
    .order_by(*_ORDER)
    .limit(bindparam("limit"))
)
OF = _FACTS.where(candidate.c.repository_id == bindparam("of"), candidate.c.digest == bindparam("named"))


def _some(table: sa.Table) -> sa.ScalarSelect[int]:
    rows = sa.select(sa.literal(1)).where(table.c.digest == bindparam("named")).limit(HOLDERS_COUNTED)
    return sa.select(sa.func.count()).select_from(rows.subquery()).scalar_subquery()


HOLDERS = sa.select(_some(blob_link) + _some(manifest))

_IN_FAMILY = (manifest.c.repository_id == bindparam("of"), manifest.c.digest == bindparam("named"))
NODE = (
    sa.select(
        manifest.c.subject,
        blob.c.size_bytes,
        candidate.c.since_ms,
        manifest.c.deleted_ms,
        tags.some_to(manifest.c.repository_id, manifest.c.digest).label("is_tagged"),
        history.some_of(manifest.c.repository_id, manifest.c.digest).label("is_remembered"),
    )
    .select_from(manifest)
    .outerjoin(blob, blob.c.digest == manifest.c.digest)
    .outerjoin(
        candidate,
        sa.and_(candidate.c.repository_id == manifest.c.repository_id, candidate.c.digest == manifest.c.digest),
    )
    .where(*_IN_FAMILY)
)
PARENTS = (
    sa.select(manifest.c.digest)
    .join(reference, reference.c.manifest_id == manifest.c.id)
    .where(reference.c.repository_id == bindparam("of"), reference.c.digest == bindparam("named"))
)


def due(tx: sa.Connection, limit_ms: int, after: Candidate | None, limit: int, with_families: bool) -> list[Facts]:
    """The facts of up to *limit* candidates of *limit_ms* or before, those that wait longest first.

    *after* is the last one of the page before.
    """
    place = (after.since_ms, after.repository_id, after.digest) if after else (-1, -1, "")
    names = ("after_ms", "after_of", "after_named")
    rows = tx.execute(DUE, {"limit_ms": limit_ms, "limit": limit, **dict(zip(names, place, strict=True))}).all()
    return [_facts(tx, row, with_families) for row in rows]


def of(tx: sa.Connection, repository_id: int, digest: str, with_families: bool) -> Facts | None:
    """The facts of one candidate; None when it is none any more."""
    row = tx.execute(OF, {"of": repository_id, "named": digest}).first()
    return None if row is None else _facts(tx, row, with_families)


def _facts(tx: sa.Connection, row: Any, with_families: bool) -> Facts:
    digest = Digest(row.digest)
    might_go = not row.is_referenced or row.repository_id == BYTES
    return Facts(
        candidate=Candidate(row.repository_id, digest, row.since_ms, row.reason),
        repository=None if row.name is None else Repository(row.name),
        size_bytes=row.size_bytes or 0,
        holders=holders(tx, digest) if might_go else HOLDERS_COUNTED,
        is_linked=bool(row.is_linked),
        is_referenced=bool(row.is_referenced),
        family=(
            family(tx, row.repository_id, digest) if row.is_manifest and (with_families or row.is_deleted) else {}
        ),
    )


def holders(tx: sa.Connection, digest: str) -> int:
    """How many links and manifests of any repository have a digest, counted to HOLDERS_COUNTED."""
    return min(HOLDERS_COUNTED, int(tx.execute(HOLDERS, {"named": digest}).scalar_one()))


def family(tx: sa.Connection, repository_id: int, digest: Digest) -> dict[Digest, Node]:
    """A manifest with all that might keep it: those that list it, its subject, and so on from these.

    A manifest that does not exist is not among them. What is left out, because one was found that keeps it or
    there are too many, stands with the parents that name it: who is not sure that something is dead leaves it
    alone. One that was deleted is alone: nothing but its own history keeps it.
    """
    found: dict[Digest, Node] = {}
    waiting = [digest]
    while waiting and len(found) < FAMILY_MAX:
        name = waiting.pop()
        if name in found:
            continue
        node = _node(tx, repository_id, name)
        if node is None:
            continue
        found[name] = node
        if keeps(node) or found[digest].is_deleted:
            break
        node = found[name] = replace(node, parents=_parents(tx, repository_id, name))
        waiting += [*node.parents, *([node.subject] if node.subject else [])]
    return found


def keeps(node: Node) -> bool:
    """Whether a manifest is a root: it stays, and all that it lists and that refers to it."""
    return node.is_tagged or node.is_remembered


def _node(tx: sa.Connection, repository_id: int, digest: Digest) -> Node | None:
    key = {"of": repository_id, "named": digest}
    row = tx.execute(NODE, key).first()
    if row is None:
        return None
    return Node(
        size_bytes=row.size_bytes or 0,
        is_tagged=bool(row.is_tagged),
        is_remembered=bool(row.is_remembered),
        is_deleted=row.deleted_ms is not None,
        since_ms=row.since_ms,
        subject=Digest(row.subject) if row.subject and _is_here(tx, repository_id, row.subject) else None,
    )


def _parents(tx: sa.Connection, repository_id: int, digest: Digest) -> frozenset[Digest]:
    return frozenset(map(Digest, tx.execute(PARENTS, {"of": repository_id, "named": digest}).scalars()))


def _is_here(tx: sa.Connection, repository_id: int, digest: str) -> bool:
    return tx.execute(NODE, {"of": repository_id, "named": digest}).first() is not None
