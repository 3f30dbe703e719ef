"""Fixtures that every test may use: servers, and HTTP clients for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.register_assert_rewrite(
    "tests.gc.keeper", "tests.support.ledger", "tests.support.oci", "tests.support.wire"
)

from tests.support import postgres as postgres_support
from tests.support import s3
from tests.support.postgres import Postgres
from tests.support.replicas import serving
from tests.support.server import Server

# Servers and clients are started thousands of times; they compile their modules once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MakeServer = Callable[..., Server]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with default settings that the whole session shares; use a repository name of your own."""
    running = serving(tmp_path_factory.mktemp("server")).start()
    yield running
    running.kill()


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """The PostgreSQL server that the session shares; ask it for a database, and leave the others alone."""
    return postgres_support.shared()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Start servers with settings of the test's own: `make_server(server={"workers": 2})`."""
    servers: list[Server] = []

    def make(environment: dict[str, str] | None = None, start: bool = True, **settings: Any) -> Server:
        made = serving(tmp_path / f"server{len(servers)}", settings, environment)
        servers.append(made)
        return made.start() if start else made

    yield make
    for running in servers:
        running.kill()


@pytest.fixture(scope="session")
def ceph() -> s3.Ceph:
    """A real S3 store that the whole session shares; use a prefix of your own."""
    return s3.shared(s3.Ceph)


@pytest.fixture(scope="session")
def moto() -> s3.Moto:
    """A stand-in for an S3 store; use a prefix of your own."""
    return s3.shared(s3.Moto)


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """An HTTP client for the shared server; follows no redirects and reads no proxy settings."""
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name that belongs to this test alone."""
    words = "".join(c if c.isascii() and c.isalnum() else "-" for c in request.node.name.lower())
    parts = [part for part in words.split("-") if part]
    return "test/" + "-".join(parts)[:120].rstrip("-") + f"/r{abs(hash(request.node.nodeid)) % 10**8}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side: those of a file stay together, and so do all that share a costly peer."""
    if "TEST_REPLICAS" in os.environ:
        items[:] = [item for item in items if item.get_closest_marker("direct") is None]
    for item in items:
        parts = item.path.relative_to(Path(__file__).parent).parts
        shared = "s3" if parts[-1] == "test_s3.py" else parts[0]
        if parts[:2] == ("client", "runtime"):
            shared = "peers"  # one machine's cgroups, bridges and firewall
        group = shared if shared in ("peers", "postgres", "replicas", "s3") else "/".join(parts)
        item.add_marker(pytest.mark.xdist_group(group))
