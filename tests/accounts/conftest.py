"""Registries with accounts that the files of this directory share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import peers
from tests.support.accounts import Registry, registry_with_accounts
from tests.support.server import Server

MakeRegistry = Callable[..., Registry]

# The test is a proxy, and so can come from any address it likes.
FROM_ANYWHERE = {"trusted_proxies": ["127.0.0.1"]}


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that the session shares: take accounts and repositories of your own. All may pull `public/*`."""
    server = Server(
        tmp_path_factory.mktemp("accounts"),
        {"server": FROM_ANYWHERE, "accounts": {"anonymous_pull": ["public/*"]}},
    )
    with registry_with_accounts(server) as running:
        yield running
        assert not peers.faults(server)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One with two workers that the session shares: take accounts and repositories of your own."""
    server = Server(tmp_path_factory.mktemp("pair"), {"server": {"workers": 2, **FROM_ANYWHERE}})
    with registry_with_accounts(server) as running:
        yield running
        assert not peers.faults(server)


@pytest.fixture
def make_registry(tmp_path: Path) -> Iterator[MakeRegistry]:
    """Start registries with settings of the test's own: `make_registry(accounts={…})`."""
    with ExitStack() as running:
        made: list[Registry] = []

        def make(**settings: Any) -> Registry:
            server = Server(tmp_path / f"registry{len(made)}", settings)
            made.append(running.enter_context(registry_with_accounts(server)))
            return made[-1]

        yield make
        for registry in made:
            assert not peers.faults(registry.server)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for accounts, teams and namespaces that belongs to this test alone."""
    return f"t{abs(hash(request.node.nodeid)) % 10**10}"
