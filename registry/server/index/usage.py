"""How many bytes lie in a part of the registry, each digest counted once there.

Counted slice by slice of the digests, as what a digest counts depends on no other one: no statement takes long,
however large the part is. What was deleted and can be restored still lies there, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import ALGORITHMS, Digest
from registry.server.index.schema import blob, blob_link, manifest, repository

Slice = tuple[str, str]

_BEYOND = "g"  # after every digit of a digest
# Names from one to another: a repository alone, or all under a namespace.
_SCOPE = (repository.c.name >= bindparam("first"), repository.c.name < bindparam("beyond"))


def scope(pattern: str) -> dict[str, str]:
    """The names that `team/web`, `team/*` or `*` covers, as the bounds that the statements here take."""
    if pattern == "*":
        return {"first": "", "beyond": "\x7f"}
    if pattern.endswith("/*"):
        return {"first": pattern[:-1], "beyond": pattern[:-2] + "0"}  # which comes after "/"
    return {"first": pattern, "beyond": pattern + "\x01"}


def slices(count: int) -> Iterator[Slice]:
    """All digests in so many slices of each algorithm: 1, 16 or 256."""
    digits = len(f"{count:x}") - 1
    for algorithm in ALGORITHMS:
        bounds = [f"{algorithm}:{number:0{digits}x}" if digits else f"{algorithm}:" for number in range(count)]
        yield from zip(bounds, [*bounds[1:], f"{algorithm}:{_BEYOND}"], strict=True)


def _in_slice(table: sa.Table) -> sa.Select[tuple[int, str]]:
    return (
        sa.select(repository.c.id, table.c.digest)
        .join(table, table.c.repository_id == repository.c.id)
        .where(*_SCOPE, table.c.digest >= bindparam("low"), table.c.digest < bindparam("high"))
    )


def _digests(table: sa.Table) -> sa.Select[tuple[str]]:
    return _in_slice(table).with_only_columns(table.c.digest)


_held = sa.union(_digests(blob_link), _digests(manifest)).subquery("held")
_SUM = sa.select(
    sa.func.count(), sa.cast(sa.func.coalesce(sa.func.sum(blob.c.size_bytes), 0), sa.BigInteger)
).select_from(_held.join(blob, blob.c.digest == _held.c.digest))
_each = sa.union(_in_slice(blob_link), _in_slice(manifest)).subquery("held")
_SUMS = (
    sa.select(repository.c.name, sa.cast(sa.func.sum(blob.c.size_bytes), sa.BigInteger))
    .select_from(_each.join(blob, blob.c.digest == _each.c.digest))
    .join(repository, repository.c.id == _each.c.id)
    .group_by(repository.c.name)
)


def _one_of(table: sa.Table) -> sa.Exists:
    return sa.exists().where(
        table.c.digest == bindparam("named"), table.c.repository_id == repository.c.id, *_SCOPE
    )


_HAS = sa.select(sa.or_(_one_of(blob_link), _one_of(manifest)))


def total(tx: sa.Connection, pattern: str, part: Slice) -> tuple[int, int]:
    """How many digests of a slice the repositories of a pattern have, and their bytes."""
    count, size_bytes = tx.execute(_SUM, {**scope(pattern), "low": part[0], "high": part[1]}).one()
    return int(count), int(size_bytes)


def by_repository(tx: sa.Connection, pattern: str, part: Slice) -> dict[str, int]:
    """The bytes of a slice in each repository of a pattern, what several of them share counted in each."""
    rows = tx.execute(_SUMS, {**scope(pattern), "low": part[0], "high": part[1]})
    return {name: int(size_bytes) for name, size_bytes in rows}


def has(tx: sa.Connection, pattern: str, digest: Digest) -> bool:
    """Whether a repository of a pattern has a digest already."""
    return bool(tx.execute(_HAS, {**scope(pattern), "named": digest}).scalar_one())
