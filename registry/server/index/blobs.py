"""Which bytes there are, and which repository may read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import changes, dialects, names
from registry.server.index.schema import blob, blob_link, repository

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
_LINKED = sa.select(blob_link.c.digest).where(
    blob_link.c.repository_id == bindparam("repository_id"),
    blob_link.c.digest.in_(bindparam("digests", expanding=True)),
)


def size(tx: sa.Connection, name: Repository, digest: Digest) -> int | None:
    """The length of a blob that this repository may read; None when it may not or there is none."""
    return tx.execute(_SIZE, {"name": name, "digest": digest}).scalar()


def link(tx: sa.Connection, name: Repository, digest: Digest, size_bytes: int) -> None:
    """Let a repository read bytes that the content store has; safe to repeat."""
    moment = names.now_ms()
    _add(tx, blob, digest=digest, size_bytes=size_bytes, stored_ms=moment)
    _add(tx, blob_link, repository_id=names.find_or_add(tx, name), digest=digest, linked_ms=moment)


def unlink(tx: sa.Connection, name: Repository, digest: Digest) -> bool:
    """Take a blob from a repository; False when it was not there. The bytes stay for the others."""
    repository_id = names.find(tx, name)
    gone = tx.execute(
        blob_link.delete().where(blob_link.c.repository_id == repository_id, blob_link.c.digest == digest)
    )
    if not gone.rowcount:
        return False
    changes.mark(tx)
    return True


def holders(tx: sa.Connection, digest: Digest, limit: int = 100) -> list[str]:
    """Names of some repositories that have a blob."""
    return list(tx.execute(_HOLDERS, {"digest": digest, "limit": limit}).scalars())


def absent(tx: sa.Connection, repository_id: int, digests: Sequence[Digest]) -> list[Digest]:
    """Those of *digests* that a repository has no blob of."""
    present: set[str] = set()
    for chunk in chunks(set(digests)):
        present.update(tx.execute(_LINKED, {"repository_id": repository_id, "digests": chunk}).scalars())
    return [digest for digest in digests if digest not in present]


def chunks(digests: Iterable[Digest]) -> Iterator[list[Digest]]:
    """*digests* in lists that one statement can take as parameters."""
    iterator = iter(digests)
    while chunk := list(islice(iterator, _IN_CHUNK)):
        yield chunk


def _add(tx: sa.Connection, table: sa.Table, **values: object) -> None:
    """Insert a row unless its key is there already."""
    tx.execute(dialects.insert_or_leave(tx, table), values)
