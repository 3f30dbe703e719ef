"""What the tests of scrub, backup and rebuild share: quick registries, and `hythe admin` beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from registry.cli import admin
from registry.oci.errors import HytheError
from tests.support import s3
from tests.support.postgres import Postgres
from tests.support.warm import Forker, WarmServer, forker

StartServer = Callable[..., WarmServer]
# Runs `hythe admin WORDS` with a server's settings: status, standard output and standard error.
Admin = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def warm() -> Iterator[Forker]:
    """The process that forks servers."""
    with forker() as running:
        yield running


@pytest.fixture
def start(warm: Forker, tmp_path: Path) -> Iterator[StartServer]:
    """Start registries that collect and scrub nothing by themselves, unless the settings say so."""
    servers: list[WarmServer] = []

    def run(go: bool = True, **settings: Any) -> WarmServer:
        quiet = {"gc": {"enabled": False}, "scrub": {"enabled": "never"}}
        server = WarmServer(warm, tmp_path / f"server{len(servers)}", {**quiet, **settings})
        servers.append(server)
        return server.start() if go else server

    yield run
    for server in servers:
        server.kill()


@pytest.fixture(params=["directory and SQLite", "bucket and PostgreSQL"])
def registry(request: pytest.FixtureRequest, start: StartServer) -> WarmServer:
    """A registry of the test's own, on each kind of store and index."""
    if request.param == "directory and SQLite":
        return start()
    postgres: Postgres = request.getfixturevalue("postgres")
    moto: s3.Moto = request.getfixturevalue("moto")
    storage = moto.settings(part_size_bytes=5 << 20)
    return start(index={"url": postgres.url(postgres.database())}, storage=storage)


@pytest.fixture
def near(start: StartServer) -> WarmServer:
    """A registry on a directory and SQLite."""
    return start()


def client(server: WarmServer) -> httpx.Client:
    """A client of a registry."""
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False)


@pytest.fixture
def hythe(capsys: pytest.CaptureFixture[str]) -> Admin:
    """Run `hythe admin`, in this process."""

    def run(server: WarmServer, *words: str, **settings: Any) -> tuple[int, str, str]:
        config = server.directory / "admin.yaml"
        config.write_text(yaml.safe_dump({**server.settings, **settings}))
        capsys.readouterr()
        try:
            status = admin.run(["--config", str(config), *words])
        except HytheError as error:  # what registry.cli.main prints
            return 1, capsys.readouterr().out, f"hythe: {error}"
        return status, *capsys.readouterr()

    return run
