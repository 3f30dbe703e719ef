"""How often bytes were deleted: so that a push to a distant store knows when it has to look again.

A push reads the count before it publishes and again under the digest's lock. As long as it is the same, nothing
of that digest was deleted in between. There are 256 counts, by the first byte of the digest, so that deletions of
other bytes rarely make a push look for nothing.
"""

from __future__ import annotations

import functools

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.server.index import dialects
from registry.server.index.schema import sweep

_COUNT = sa.select(sweep.c.count).where(sweep.c.bucket == bindparam("bucket"))


def count(tx: sa.Connection, digest: Digest) -> int:
    """How many deletions there were of bytes with the same first byte of the digest."""
    return int(tx.execute(_COUNT, {"bucket": _bucket(digest)}).scalar() or 0)


def mark(tx: sa.Connection, digest: Digest) -> None:
    """Count one, in the transaction that holds the digest while its bytes are deleted."""
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
