"""Claims: which uploads are about to become bytes of a digest in a distant store, so that nobody deletes those.

An upload's parts are used up when they become a blob, and its row comes later: a deletion in between could be made
good by nobody but the client. So who sets about publishing takes a claim first, under the digest's lock, and no
deletion begins while there is one. It ends with the upload; when that was given up, the bytes are a candidate.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.server.index import blobs, candidates, dialects, sweeps
from registry.server.index.schema import claim, upload

# For so long after its first closing request an upload may be one that somebody is still joining.
YOUNG_SECONDS = 900.0

_AGE = sa.select(dialects.clock_ms() - claim.c.since_ms).where(
    claim.c.digest == bindparam("digest"), claim.c.holder == bindparam("holder")
)
_YOUNGEST = sa.select(dialects.clock_ms() - sa.func.max(claim.c.since_ms)).where(
    claim.c.digest == bindparam("digest")
)
_KEY: dict[str, sa.BindParameter[str]] = {"digest": bindparam("digest"), "holder": bindparam("holder")}
_RELEASE = claim.delete().where(claim.c.holder == bindparam("by")).returning(claim.c.digest)
_STALE = (
    sa.select(claim.c.holder)
    .where(
        claim.c.since_ms < dialects.clock_ms() - bindparam("age_ms", type_=sa.BigInteger),
        ~sa.exists().where(upload.c.id == claim.c.holder),
    )
    .limit(bindparam("limit"))
)


def take(tx: sa.Connection, digest: Digest, holder: str) -> bool:
    """Keep everybody from deleting bytes of *digest*, there or not, until *holder* is released; safe to repeat.

    Whether the claim is young. Raises BeingDeleted while a deletion is under way.
    """
    lock(tx, digest)
    row = {"digest": digest, "holder": holder}
    if tx.execute(dialects.insert_or_leave(tx, claim).values(since_ms=dialects.clock_ms(), **_KEY), row).rowcount:
        return True
    return _is_young(tx.execute(_AGE, row).scalar())


def _is_young(age_ms: int | None) -> bool:
    return age_ms is not None and age_ms < YOUNG_SECONDS * 1000


def lock(tx: sa.Connection, digest: Digest) -> None:
    """Keep others from condemning a digest until this transaction ends. Raises BeingDeleted."""
    blobs.keep_place(tx, digest)
    if sweeps.state(tx, digest).is_condemned:
        raise sweeps.BeingDeleted


def release(tx: sa.Connection, holder: str, made: Digest | None = None) -> None:
    """End the claims of an upload; what it did not become, as something names *made*, may be garbage."""
    given_up = [each for each in tx.execute(_RELEASE, {"by": holder}).scalars() if each != made]
    candidates.add(tx, candidates.BYTES, given_up, "upload given up")


def expire(tx: sa.Connection, age_seconds: float, limit: int) -> int:
    """End claims that are so old, of what is no upload in the index; returns how many there were."""
    stale = list(tx.execute(_STALE, {"age_ms": int(age_seconds * 1000), "limit": limit}).scalars())
    for holder in sorted(set(stale)):
        release(tx, holder)
    return len(stale)


def is_claimed(tx: sa.Connection, digest: Digest, young: bool = False) -> bool:
    """Whether an upload is about to become this digest; with *young*, one that may be at it at this moment."""
    age_ms = tx.execute(_YOUNGEST, {"digest": digest}).scalar()
    return age_ms is not None and (not young or _is_young(age_ms))
