"""Bringing manifests back that somebody deleted: with all below them, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import blobs, candidates, names
from registry.server.index.manifests import Stored
from registry.server.index.schema import manifest, reference

TREE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Branch:
    """A manifest of a tree: what it is, and whether it is deleted at the moment."""

    id: int
    stored: Stored
    is_deleted: bool


_COLUMNS = (manifest.c.id, manifest.c.digest, manifest.c.media_type, manifest.c.payload, manifest.c.deleted_ms)
_ONE = sa.select(*_COLUMNS).where(
    manifest.c.repository_id == bindparam("of"), manifest.c.digest == bindparam("named")
)
_BELOW = (
    sa.select(*_COLUMNS)
    .join(
        reference,
        sa.and_(reference.c.repository_id == manifest.c.repository_id, reference.c.digest == manifest.c.digest),
    )
    .where(reference.c.manifest_id == bindparam("above"))
)
_HOLD = (
    sa.select(manifest.c.id)
    .where(
        manifest.c.repository_id == bindparam("of"),
        manifest.c.digest.in_(bindparam("digests", expanding=True)),
    )
    .order_by(manifest.c.digest)
    .with_for_update()
)
_SHOW = (
    manifest.update()
    .where(manifest.c.id.in_(bindparam("ids", expanding=True)), manifest.c.deleted_ms.is_not(None))
    .values(deleted_ms=None)
)


def tree(tx: sa.Connection, name: Repository, digest: str) -> dict[Digest, Branch]:
    """A manifest, deleted or not, and all manifests that it lists, at any depth; empty when there is none.

    The search ends at TREE_MAX of them.
    """
    found: dict[Digest, Branch] = {}
    waiting = [_branch(row) for row in tx.execute(_ONE, {"of": names.find(tx, name), "named": digest})]
    while waiting and len(found) < TREE_MAX:
        each = waiting.pop()
        if each.stored.digest not in found:
            found[each.stored.digest] = each
            waiting += [_branch(row) for row in tx.execute(_BELOW, {"above": each.id})]
    return found


def _branch(row: Any) -> Branch:
    stored = Stored(Digest(row.digest), row.media_type, bytes(row.payload))
    return Branch(row.id, stored, row.deleted_ms is not None)


def hold_all(tx: sa.Connection, name: Repository, digests: Iterable[Digest]) -> bool:
    """Keep everybody else from changing manifests until this transaction ends; False when one of them is gone."""
    repository_id, wanted, held = names.find(tx, name), sorted(set(digests)), 0
    for chunk in blobs.chunks(wanted):
        held += len(tx.execute(_HOLD, {"of": repository_id, "digests": chunk}).all())
    return held == len(wanted)


def show(tx: sa.Connection, name: Repository, branches: Iterable[Branch]) -> None:
    """Serve manifests again that are held."""
    repository_id, shown = names.find(tx, name), list(branches)
    if repository_id is None or not shown:
        return
    ids = [each.id for each in shown]
    for start in range(0, len(ids), 500):
        tx.execute(_SHOW, {"ids": ids[start : start + 500]})
    candidates.add(tx, repository_id, [each.stored.digest for each in shown], "restored")
