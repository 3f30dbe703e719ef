"""Servers with several workers, one for the whole session for each number of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.model.doors")

from tests.model.doors import Door, doors
from tests.support import processes
from tests.support.server import Server


def _serving(factory: pytest.TempPathFactory, workers: int) -> Iterator[Server]:
    settings = {"server": {"workers": workers}, "logging": {"level": "warning"}}
    running = Server(factory.mktemp(f"workers{workers}"), settings)
    try:
        yield running.start()
        assert processes.tracebacks(running.log()) == []
    finally:
        running.kill()


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers."""
    yield from _serving(tmp_path_factory, 2)


@pytest.fixture(scope="session")
def three_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three workers."""
    yield from _serving(tmp_path_factory, 3)


@pytest.fixture(scope="session")
def two_by_two(two_workers: Server) -> Iterator[list[Door]]:
    """Two connections to each of two workers, the workers taking turns."""
    with doors(two_workers, each=2) as found:
        yield found
