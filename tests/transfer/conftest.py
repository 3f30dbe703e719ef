"""Places that the files of this directory share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.transfer.bearer import Credentials
from registry.transfer.credentials import CredentialFile
from registry.transfer.download import USUAL_RANGING, Ranging
from registry.transfer.host import Patience
from registry.transfer.hosts import Registries
from registry.transfer.http import Http, Limits
from registry.transfer.reach import Reach
from tests.bench import servers
from tests.support import peers
from tests.support.accounts import Registry, registry_with_accounts
from tests.support.server import Server

MakeWay = Callable[..., Reach]
# As often as usual, but not as slowly.
QUICK = Patience(attempts=4, first_seconds=0.01, most_seconds=0.02)


@pytest.fixture
def make_way(tmp_path: Path) -> MakeWay:
    """A way to registries with credentials by host: `make_way({"127.0.0.1:5000": ("ann", "secret")})`."""

    def make(
        logins: dict[str, tuple[str, str]] | None = None,
        registries: Registries | None = None,
        ranging: Ranging = USUAL_RANGING,
        patience: Patience = QUICK,
        idle_seconds: float = 10.0,
        http: Http | None = None,
    ) -> Reach:
        file = CredentialFile(tmp_path / "docker" / "config.json", {"PATH": ""})
        for host, (name, password) in (logins or {}).items():
            file.store(host, Credentials(name, password))
        http = http or Http(replace(Limits(), idle_seconds=idle_seconds), {})
        return Reach(registries or Registries(), file, http, patience, ranging)

    return make


@pytest.fixture(scope="session")
def debian_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry, which has neither referrers nor single posts."""
    if shutil.which("docker-registry") is None:
        peers.unavailable("docker-registry is not installed")
    with servers.docker_registry(tmp_path_factory.mktemp("debian") / "registry") as running:
        yield f"127.0.0.1:{running.port}"


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Our server with accounts."""
    server = Server(tmp_path_factory.mktemp("guarded"), {"accounts": {"anonymous_pull": ["public/*"]}})
    with registry_with_accounts(server) as running:
        yield running
        assert not peers.faults(server)
