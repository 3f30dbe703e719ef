"""Deletions from a store that is far away: what a push to it has to know, and what a collection leaves for it.

No transaction can wait for such a store, and nobody can tell when a request that was not answered takes effect.
So the digest is condemned first, in a transaction: until it is acquitted, or the last moment has passed at which
the deletion can happen, nobody names its bytes and nobody else deletes them. An acquittal is counted. A push reads
the count before it publishes, and again under the digest's lock; when it is the same, and the digest is not
condemned, then nothing of that digest was deleted since. There are 256 counts, by the first byte of the digest:
deletions of other bytes rarely make a push look for nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.errors import Unavailable
from registry.server.index import dialects
from registry.server.index.schema import condemned, sweep


class BeingDeleted(Unavailable):
    """The bytes are condemned: a collection is deleting them."""

    def __init__(self) -> None:
        super().__init__("the registry is deleting these very bytes; try again soon")


@dataclass(frozen=True, slots=True)
class State:
    """How many deletions there were near a digest; whether one is going on, or was never finished."""

    count: int
    is_condemned: bool = False
    is_abandoned: bool = False


_COUNT = sa.select(sweep.c.count).where(sweep.c.bucket == bindparam("bucket"))
_STATE = sa.select(
    _COUNT.scalar_subquery().label("deletions"),
    sa.select(condemned.c.until_ms - dialects.clock_ms())
    .where(condemned.c.digest == bindparam("named"))
    .scalar_subquery()
    .label("left_ms"),
)
_CONDEMN = (
    condemned.insert()
    .values(digest=bindparam("named"), until_ms=dialects.clock_ms() + bindparam("for_ms", type_=sa.BigInteger))
    .returning(condemned.c.until_ms)
)
_PARDON = condemned.delete().where(condemned.c.digest == bindparam("named"))
_ACQUIT = _PARDON.where(condemned.c.until_ms == bindparam("mine_ms"))


def count(tx: sa.Connection, digest: Digest) -> int:
    """How many deletions there were of bytes with the same first byte of the digest."""
    return int(tx.execute(_COUNT, {"bucket": _bucket(digest)}).scalar() or 0)


def state(tx: sa.Connection, digest: Digest) -> State:
    """How it stands with a digest whose lock this transaction has."""
    row = tx.execute(_STATE, {"bucket": _bucket(digest), "named": digest}).one()
    return State(row.deletions or 0, (row.left_ms or 0) > 0, row.left_ms is not None and row.left_ms <= 0)


def condemn(tx: sa.Connection, digest: Digest, seconds: float) -> int | None:
    """Keep everybody from naming bytes for *seconds*. The lock of the digest has to be held alone.

    Returns what to acquit them by; None while they are condemned already.
    """
    if state(tx, digest).is_condemned:
        return None
    pardon(tx, digest)
    return int(tx.execute(_CONDEMN, {"named": digest, "for_ms": int(seconds * 1000)}).scalar_one())


def acquit(tx: sa.Connection, digest: Digest, until_ms: int) -> bool:
    """The bytes are gone for good, and others may come; False when that was taken for abandoned already."""
    if not tx.execute(_ACQUIT, {"named": digest, "mine_ms": until_ms}).rowcount:
        return False
    mark(tx, digest)
    return True


def pardon(tx: sa.Connection, digest: Digest) -> None:
    """Clear away what a collection left that did not come to its end; then the store has to be asked."""
    tx.execute(_PARDON, {"named": digest})


def mark(tx: sa.Connection, digest: Digest) -> None:
    """Count a deletion."""
    tx.execute(_mark(tx.dialect.name), {"bucket": _bucket(digest)})


@functools.cache
def _mark(dialect: str) -> sa.Insert:
    return (
        dialects.upsert(dialect)(sweep)
        .values(bucket=bindparam("bucket"), count=1)
        .on_conflict_do_update(index_elements=["bucket"], set_={"count": sweep.c.count + 1})
    )


def _bucket(digest: Digest) -> int:
    return int(digest.encoded[:2], 16)
