"""Index databases: migrated once, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from registry.server.index.engine import sqlite_engine
from registry.server.index.migrate import migrate_sqlite


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with this release's tables and nothing in them; copy it."""
    path = tmp_path_factory.mktemp("index") / "empty.sqlite3"
    migrate_sqlite(path)
    return path


@pytest.fixture
def path(migrated: Path, tmp_path: Path) -> Path:
    """A database of the test's own."""
    return Path(shutil.copy(migrated, tmp_path / "index.sqlite3"))


@pytest.fixture
def tx(path: Path) -> Iterator[sa.Connection]:
    """A transaction over an empty index."""
    engine = sqlite_engine(path)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
