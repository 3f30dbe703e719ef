"""Which bytes there are, and which repository may read them.

A digest's row in `blob` is its lock: who is about to name the bytes keeps the row to the end of the transaction,
who deletes them holds it alone. Locks are taken in this order everywhere: repository, links by digest, blob,
manifest, tags by name, candidates by key. (SQLite has one writer at a time, and needs none of this.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import changes, dialects, names
from registry.server.index.schema import blob, blob_link, reference, repository

_IN_CHUNK = 500  # well under every database's bound on parameters

_SIZE = (
    sa.select(blob.c.size_bytes)
    .join(blob_link, blob_link.c.digest == blob.c.digest)
    .join(repository, repository.c.id == blob_link.c.repository_id)
    .where(repository.c.name == bindparam("name"), blob_link.c.digest == bindparam("digest"))
)
_HOLDERS = (
    sa.select(repository.c.name)
    .join(blob_link, blob_link.c.repository_id == repository.c.id)
    .where(blob_link.c.digest == bindparam("digest"))
    .limit(bindparam("limit"))
)
_LINK = (blob_link.c.repository_id == bindparam("repository_id"), blob_link.c.digest == bindparam("digest"))
# With the bytes: those that were found wrong have no record any more, and are to be pushed again.
_LINKED = (
    sa.select(blob_link.c.digest)
    .join(blob, blob.c.digest == blob_link.c.digest)
    .where(
        blob_link.c.repository_id == bindparam("repository_id"),
        blob_link.c.digest.in_(bindparam("digests", expanding=True)),
    )
    .order_by(blob_link.c.digest)
)
_LINKED_KEPT = _LINKED.with_for_update(read=True, key_share=True, of=blob_link)
_KEEP_LINK = sa.select(blob_link.c.digest).where(*_LINK).with_for_update(read=True, key_share=True)
_HOLD_LINK = sa.select(blob_link.c.digest).where(*_LINK).with_for_update()
_UNLINK = blob_link.delete().where(*_LINK)
_TELL = (
    blob_link.update()
    .where(blob_link.c.repository_id == bindparam("of"), blob_link.c.digest == bindparam("named"))
    .values(linked_ms=bindparam("moment_ms"))
)
_BYTES = sa.select(blob.c.digest).where(blob.c.digest == bindparam("digest"))
_KEEP_BYTES = _BYTES.with_for_update(read=True, key_share=True)
_HOLD_BYTES = _BYTES.with_for_update()
_FORGET_BYTES = blob.delete().where(blob.c.digest == bindparam("digest"))
_STANDING = (
    sa.select(
        blob.c.size_bytes,
        blob_link.c.linked_ms,
        sa.exists()
        .where(reference.c.repository_id == repository.c.id, reference.c.digest == blob_link.c.digest)
        .label("is_referenced"),
    )
    .join(blob_link, blob_link.c.digest == blob.c.digest)
    .join(repository, repository.c.id == blob_link.c.repository_id)
    .where(repository.c.name == bindparam("name"), blob_link.c.digest == bindparam("digest"))
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A blob that a repository has: its length, whether a manifest there names it, and when it was spoken of."""

    size_bytes: int
    is_referenced: bool
    told_ms: int


def size(tx: sa.Connection, name: Repository, digest: Digest) -> int | None:
    """The length of a blob that this repository may read; None when it may not or there is none."""
    return tx.execute(_SIZE, {"name": name, "digest": digest}).scalar()


def standing(tx: sa.Connection, name: Repository, digest: Digest) -> Standing | None:
    """How a blob stands in a repository; None when that may not read it or there is none."""
    row = tx.execute(_STANDING, {"name": name, "digest": digest}).first()
    return None if row is None else Standing(row.size_bytes, bool(row.is_referenced), row.linked_ms)


def link(tx: sa.Connection, name: Repository, digest: Digest, size_bytes: int) -> None:
    """Let a repository read bytes that the content store has, and tell that it may; safe to repeat."""
    repository_id = names.find_or_add(tx, name)
    keep_bytes(tx, digest, size_bytes)
    moment = names.now_ms()
    tx.execute(
        _insert_or_tell(tx.dialect.name), {"repository_id": repository_id, "digest": digest, "linked_ms": moment}
    )


@functools.cache
def _insert_or_tell(dialect: str) -> sa.Insert:
    make = dialects.upsert(dialect)(blob_link)
    return make.on_conflict_do_update(
        index_elements=["repository_id", "digest"], set_={"linked_ms": make.excluded.linked_ms}
    )


def tell(tx: sa.Connection, name: Repository, digest: Digest) -> bool:
    """Note that a client is being told of a blob, so that it stays for a grace period; False when it is gone."""
    repository_id = names.find(tx, name)
    row = {"of": repository_id, "named": digest, "moment_ms": names.now_ms()}
    return bool(tx.execute(_TELL, row).rowcount)


def keep_link(tx: sa.Connection, name: Repository, digest: Digest) -> bool:
    """Keep a repository's link, and with it the bytes, until this transaction ends; False when there is none."""
    key = {"repository_id": names.find(tx, name), "digest": digest}
    return tx.execute(_KEEP_LINK, key).first() is not None


def keep_bytes(tx: sa.Connection, digest: str, size_bytes: int) -> None:
    """Record bytes of this digest, and keep others from deleting them until this transaction ends."""
    row = {"digest": digest, "size_bytes": size_bytes, "stored_ms": names.now_ms()}
    # When somebody is just deleting them, there is a moment with neither room for a row nor the row.
    while not tx.execute(dialects.insert_or_leave(tx, blob), row).rowcount:
        if tx.execute(_KEEP_BYTES, {"digest": digest}).first() is not None:
            break


def keep_place(tx: sa.Connection, digest: str) -> None:
    """Keep others from holding bytes of this digest until this transaction ends, and record nothing."""
    row = {"digest": digest, "size_bytes": 0, "stored_ms": 0}
    while True:
        if tx.execute(_KEEP_BYTES, {"digest": digest}).first() is not None:
            return
        if tx.execute(dialects.insert_or_leave(tx, blob), row).rowcount:
            # Others who want to make this row wait for us, as if it stayed.
            forget_bytes(tx, digest)
            return


def hold_bytes(tx: sa.Connection, digest: str) -> None:
    """Keep everybody else from naming bytes of this digest until this transaction ends."""
    row = {"digest": digest, "size_bytes": 0, "stored_ms": 0}
    while True:
        tx.execute(dialects.insert_or_leave(tx, blob), row)
        if tx.execute(_HOLD_BYTES, {"digest": digest}).first() is not None:
            break


def forget_bytes(tx: sa.Connection, digest: str) -> None:
    """Drop the record of bytes that are held and gone."""
    tx.execute(_FORGET_BYTES, {"digest": digest})


def correct_size(tx: sa.Connection, digest: str, size_bytes: int) -> None:
    """Write down how long the bytes of a digest are."""
    tx.execute(blob.update().where(blob.c.digest == digest).values(size_bytes=size_bytes))


def hold_link(tx: sa.Connection, repository_id: int, digest: str) -> bool:
    """Keep everybody else from building upon a link until this transaction ends; False when there is none."""
    return tx.execute(_HOLD_LINK, {"repository_id": repository_id, "digest": digest}).first() is not None


def drop_link(tx: sa.Connection, repository_id: int, digest: str) -> None:
    """Drop a link that is held and that nothing names: no answer that is kept anywhere speaks of it."""
    tx.execute(_UNLINK, {"repository_id": repository_id, "digest": digest})


def unlink(tx: sa.Connection, name: Repository, digest: Digest) -> bool:
    """Take a blob from a repository; False when it was not there. The bytes stay for the others."""
    gone = tx.execute(_UNLINK, {"repository_id": names.find(tx, name), "digest": digest})
    if not gone.rowcount:
        return False
    changes.mark(tx)
    return True


def holders(tx: sa.Connection, digest: Digest, limit: int = 100) -> list[str]:
    """Names of some repositories that have a blob."""
    return list(tx.execute(_HOLDERS, {"digest": digest, "limit": limit}).scalars())


def absent(tx: sa.Connection, repository_id: int, digests: Sequence[Digest], keep: bool = False) -> list[Digest]:
    """Those of *digests* that a repository has no blob of; with *keep*, the others stay until the end."""
    statement = _LINKED_KEPT if keep else _LINKED
    present: set[str] = set()
    for chunk in chunks(sorted(set(digests))):
        present.update(tx.execute(statement, {"repository_id": repository_id, "digests": chunk}).scalars())
    return [digest for digest in digests if digest not in present]


def chunks(digests: Iterable[Digest]) -> Iterator[list[Digest]]:
    """*digests* in lists that one statement can take as parameters."""
    iterator = iter(digests)
    while chunk := list(islice(iterator, _IN_CHUNK)):
        yield chunk
