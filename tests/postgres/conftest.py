"""Indexes of both kinds, and servers that share a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.server.index.engine import EmbeddedIndex, Index
from registry.server.index.migrate import migrate_sqlite
from registry.server.index.postgres import PostgresIndex
from tests.support.postgres import Postgres

# Opens the index of the test once more, as another process would.
OpenIndex = Callable[[], Index]


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The address of a database of the test's own, with this release's tables."""
    return postgres.url(postgres.database())


@pytest.fixture(params=["sqlite", "postgres"])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenIndex]:
    """For what holds of every index."""
    opened: list[Index] = []
    if request.param == "sqlite":
        path = tmp_path / "index.sqlite3"
        migrate_sqlite(path)
    else:
        url = request.getfixturevalue("database")

    def open_it() -> Index:
        made = EmbeddedIndex(path) if request.param == "sqlite" else PostgresIndex(url, 8)
        opened.append(made)
        return made

    yield open_it
    for index in opened:
        index.close()
