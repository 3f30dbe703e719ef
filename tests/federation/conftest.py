"""A provider, registries that know it, and browsers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.federation.browser import Browser
from tests.federation.provider import CLIENT_ID, CLIENT_SECRET, Provider
from tests.support import peers
from tests.support.accounts import Registry, elsewhere, registry_with_accounts
from tests.support.server import Server

MakeRegistry = Callable[..., Registry]
Browsers = Callable[[Registry], Browser]


def client_of(provider: Provider, **more: Any) -> dict[str, Any]:
    """The settings of a registry that the provider knows."""
    known = {"issuer": provider.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "title": "Corp"}
    return {**known, **more}


def server_at(directory: Path, server: dict[str, Any] | None = None, **accounts: Any) -> Server:
    """A server that knows its own address."""
    made = Server(directory, {"accounts": accounts, "server": server or {}})
    made.settings["server"].setdefault("public_url", made.url)
    return made


@pytest.fixture(scope="session")
def shared_provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.stop()


@pytest.fixture
def provider(shared_provider: Provider) -> Provider:
    """A provider that behaves well; where a registry is shared, keep its keys and take a subject of your own."""
    shared_provider.control(reset=True)
    return shared_provider


@pytest.fixture
def rotating() -> Iterator[Provider]:
    """A provider of the test's own, whose keys it may change."""
    made = Provider()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def corporate(shared_provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry of two workers that the session shares, in which people sign in with the provider."""
    oidc = client_of(
        shared_provider,
        groups={"devs": "platform:member", "leads": "platform:maintainer", "docs": "docs:member"},
        admin_group="admins",
    )
    proxied = {"trusted_proxies": ["127.0.0.1"], "workers": 2}
    with registry_with_accounts(server_at(tmp_path_factory.mktemp("corporate"), proxied, oidc=oidc)) as running:
        yield running
        assert not peers.faults(running.server)


@pytest.fixture
def make_registry(tmp_path: Path) -> Iterator[MakeRegistry]:
    """Start registries with settings of the test's own: `make_registry(ci=[…])`, of `accounts`."""
    with ExitStack() as running:
        made: list[Registry] = []

        def make(server: dict[str, Any] | None = None, **accounts: Any) -> Registry:
            place = tmp_path / f"registry{len(made)}"
            made.append(running.enter_context(registry_with_accounts(server_at(place, server, **accounts))))
            return made[-1]

        yield make
        for registry in made:
            # What a test's provider refuses to say is no fault of the registry's.
            assert not [line for line in peers.faults(registry.server) if "cannot be asked now" not in line]


@pytest.fixture
def browsers() -> Iterator[Browsers]:
    """Browsers: `browsers(registry)`, each as if from a machine of its own."""
    made: list[Browser] = []

    def make(registry: Registry) -> Browser:
        made.append(Browser(registry.server.url))
        made[-1].http.headers.update(elsewhere())
        return made[-1]

    yield make
    for browser in made:
        browser.close()


@pytest.fixture
def who(request: pytest.FixtureRequest) -> str:
    """A name and a subject that belong to this test alone."""
    return f"p{abs(hash(request.node.nodeid)) % 10**10}"
