"""Bytes that were found missing or wrong, until they are right again.

Links and manifests of such a digest stay, and its row in `blob` goes: so every repository says that it has no
such blob, and whoever pushes it again makes that row anew, and with it the blob. A row here is for the operator,
and for the next look.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.server.index import dialects
from registry.server.index.names import now_ms
from registry.server.index.schema import blob, damage

# Somebody could not read these bytes; whether anything is wrong with them is still to be seen.
SUSPECT = "suspect"


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with the bytes of a digest, since when; *is_recorded* when they have been pushed since."""

    digest: Digest
    size_bytes: int
    reason: str
    found_ms: int
    is_recorded: bool


_KEY = damage.c.digest == bindparam("named")
_RECORDED = sa.exists().where(blob.c.digest == damage.c.digest)
_PAGE = (
    sa.select(damage, _RECORDED.label("is_recorded"))
    .where(damage.c.digest > bindparam("after"))
    .order_by(damage.c.digest)
    .limit(bindparam("limit"))
)
_ANY_TO_SEE = sa.select(damage.c.digest).where(_RECORDED).limit(1)
_COUNT = sa.select(sa.func.count()).select_from(damage).where(sa.not_(_RECORDED))
_SIZE = sa.select(damage.c.size_bytes).where(_KEY)
_FORGET = damage.delete().where(_KEY)


@functools.cache
def _upsert(dialect: str) -> sa.Insert:
    make = dialects.upsert(dialect)(damage)
    changed = {name: make.excluded[name] for name in ("size_bytes", "reason", "found_ms")}
    return make.on_conflict_do_update(index_elements=["digest"], set_=changed)


def add(tx: sa.Connection, digest: str, size_bytes: int, reason: str) -> None:
    """Record what is wrong with a digest's bytes."""
    row = {"digest": digest, "size_bytes": size_bytes, "reason": reason, "found_ms": now_ms()}
    tx.execute(_upsert(tx.dialect.name), row)


def suspect(tx: sa.Connection, digest: Digest) -> None:
    """Have a digest looked at soon."""
    row = {"digest": digest, "size_bytes": 0, "reason": SUSPECT, "found_ms": now_ms()}
    tx.execute(dialects.insert_or_leave(tx, damage), row)


def forget(tx: sa.Connection, digest: Digest) -> None:
    """The bytes of a digest are right."""
    tx.execute(_FORGET, {"named": digest})


def size(tx: sa.Connection, digest: Digest) -> int:
    """How long the bytes of a digest were when they were found wrong; 0 when that is not known."""
    return int(tx.execute(_SIZE, {"named": digest}).scalar() or 0)


def page(tx: sa.Connection, after: str, limit: int) -> Sequence[Damage]:
    """Up to *limit* of them after a digest."""
    rows = tx.execute(_PAGE, {"after": after, "limit": limit})
    return [
        Damage(Digest(row.digest), row.size_bytes, row.reason, row.found_ms, bool(row.is_recorded)) for row in rows
    ]


def any_to_see(tx: sa.Connection) -> bool:
    """Whether some are suspect, or were pushed again and are to be seen."""
    return tx.execute(_ANY_TO_SEE).first() is not None


def count(tx: sa.Connection) -> int:
    """Of how many digests there are no good bytes here."""
    return int(tx.execute(_COUNT).scalar_one())
