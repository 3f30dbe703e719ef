"""Large indexes for tests, made by the database itself: a million rows in seconds, on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from registry.server.index.engine import sqlite_engine

LAYERS = 10
NAME = "team/big"
_YOUNG_MS = 10**14  # a time that no test reaches
_MANIFESTS_FROM = 2**28  # far from the numbers of blobs


def fill(path: Path, rows: int, loose: int, layers: int = LAYERS) -> list[str]:
    """Make the SQLite index in *path* large; see `fill_with`."""
    engine = sqlite_engine(path)
    with engine.connect() as tx:
        tx.exec_driver_sql("BEGIN")
        made = fill_with(tx, rows, loose, layers)
        tx.exec_driver_sql("COMMIT")
        tx.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return made


def fill_with(
    tx: sa.Connection, rows: int, loose: int, layers: int = LAYERS, young: int = 0, past: bool = False
) -> list[str]:
    """Make *rows* blobs, *layers* of them in each manifest with a tag, and *loose* ones that are due.

    *young* blobs are candidates that are not due; with a *past* each manifest has an entry in the history. Returns
    the digests of the loose ones.
    """
    numbers, digest = _WORDS[tx.dialect.name]
    manifests = rows // layers
    blobs, names = numbers.format(rows + loose), numbers.format(manifests)
    named = digest.format(f"(i + {_MANIFESTS_FROM})")
    each = digest.format("i")
    with _no_triggers(tx):
        for statement in (
            f"INSERT INTO repository (id, name, created_ms) VALUES (1, '{NAME}', 0)",
            f"INSERT INTO blob (digest, size_bytes, stored_ms) {blobs} SELECT {each}, 1, 0 FROM n",
            f"INSERT INTO blob_link (repository_id, digest, linked_ms) {blobs} SELECT 1, {each}, 0 FROM n",
            f"INSERT INTO blob (digest, size_bytes, stored_ms) {names} SELECT {named}, 2, 0 FROM n",
            f"INSERT INTO manifest (id, repository_id, digest, media_type, payload, pushed_ms) {names}"
            f" SELECT i, 1, {named}, 'm', {_BYTES[tx.dialect.name]}, 0 FROM n",
            f"INSERT INTO tag (repository_id, name, digest, moved_ms) {names}"
            f" SELECT 1, 't' || i, {named}, 0 FROM n",
            "INSERT INTO tag_history (repository_id, name, digest, from_ms, until_ms, actor, action)"
            f" {numbers.format(manifests if past else 0)}"
            f" SELECT 1, 't' || i, {named}, 0, {_YOUNG_MS}, 'anna', 'moved' FROM n",
            f"INSERT INTO reference (manifest_id, digest, repository_id) {numbers.format(manifests * layers)}"
            f" SELECT i / {layers}, {each}, 1 FROM n",
            f"INSERT INTO candidate (repository_id, digest, since_ms, reason) {numbers.format(young)}"
            f" SELECT 1, {each}, {_YOUNG_MS}, 'pushed' FROM n",
            f"INSERT INTO candidate (repository_id, digest, since_ms, reason) {blobs}"
            f" SELECT 1, {each}, 1, 'pushed' FROM n WHERE i >= {rows}",
        ):
            tx.exec_driver_sql(statement)
    due = "SELECT digest FROM candidate WHERE since_ms = 1 ORDER BY digest"
    return list(tx.exec_driver_sql(due).scalars())


# How to count, and digests that are spread as real ones are: by numbers of 32 bits, and then the number itself.
_WORDS = {
    "sqlite": (
        "WITH RECURSIVE n(i) AS (SELECT 0 WHERE {0} > 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {0})",
        "printf('sha256:%08x%056x', {0} * 2654435761 % 4294967296, {0})",
    ),
    "postgresql": (
        "WITH n(i) AS (SELECT generate_series(0::bigint, {0} - 1))",
        "('sha256:' || lpad(to_hex({0} * 2654435761 %% 4294967296), 8, '0') || lpad(to_hex({0}), 56, '0'))",
    ),
}
_BYTES = {"sqlite": "x'7b7d'", "postgresql": "'{}'::bytea"}


@contextlib.contextmanager
def _no_triggers(tx: sa.Connection) -> Iterator[None]:
    """Rows come in without what triggers make of them."""
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql("SET LOCAL session_replication_role = replica")
        yield
        tx.exec_driver_sql("SET LOCAL session_replication_role = DEFAULT")
        return
    triggers = tx.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
    for name, _ in triggers:
        tx.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    for _, sql in triggers:
        tx.exec_driver_sql(sql)
