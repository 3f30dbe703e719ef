"""What the tests of collection share: an empty index to copy, and a registry with an operator beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.server.index.migrate import migrate_sqlite
from tests.gc.keeper import Keeper
from tests.support.warm import Forker, WarmServer, forker

StartServer = Callable[..., WarmServer]


@pytest.fixture(scope="session")
def warm() -> Iterator[Forker]:
    """The process that forks servers."""
    with forker() as running:
        yield running


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with this release's tables and nothing in them; copy it."""
    path = tmp_path_factory.mktemp("index") / "empty.sqlite3"
    migrate_sqlite(path)
    return path


@pytest.fixture
def start(warm: Forker, tmp_path: Path) -> Iterator[StartServer]:
    """Start registries that collect nothing by themselves, unless the settings say so."""
    servers: list[WarmServer] = []

    def run(environment: dict[str, str] | None = None, data: Path | None = None, **settings: Any) -> WarmServer:
        settings.setdefault("gc", {"enabled": False, "grace_seconds": 0})
        # Without a history, what is deleted is garbage at once; tests/history has collection beside it.
        settings["policy"] = {"history_days": 0, **settings.get("policy", {})}
        server = WarmServer(warm, tmp_path / f"server{len(servers)}", settings, environment)
        if data is not None:
            server.data = data
            server.settings["storage"]["directory"] = str(data)
        servers.append(server)
        return server.start()

    yield run
    for server in servers:
        server.kill()


@pytest.fixture
def registry(start: StartServer) -> WarmServer:
    """A registry of the test's own."""
    return start()


@pytest.fixture
def http(registry: WarmServer) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=registry.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def keeper(registry: WarmServer) -> Keeper:
    """Its operator."""
    return Keeper(registry.data)
