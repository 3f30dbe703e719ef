"""A registry with an operator beside it, who reads the history and brings things back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import yaml

pytest.register_assert_rewrite("tests.gc.keeper")

from registry.cli import admin
from registry.oci.errors import HytheError
from registry.server.index.postgres import PostgresIndex
from tests.gc.conftest import StartServer, http, migrated, start, warm
from tests.gc.keeper import Keeper
from tests.support.warm import WarmServer

__all__ = ["http", "migrated", "start", "warm"]
Hythe = Callable[..., Any]


@pytest.fixture
def registry(start: StartServer) -> WarmServer:
    return start(policy={"history_days": 30})


def keeper_of(registry: WarmServer) -> Keeper:
    """The operator of a registry, on whichever index."""
    url = registry.settings.get("index", {}).get("url", "")
    return Keeper(registry.data, partial(PostgresIndex, url, 3) if url else None)


@pytest.fixture
def keeper(registry: WarmServer) -> Keeper:
    return keeper_of(registry)


@pytest.fixture
def hythe(registry: WarmServer, capsys: pytest.CaptureFixture[str]) -> Hythe:
    """Run `hythe admin WORDS --json` beside the registry; what it prints, or the sentence of its error."""

    def run(*words: str, **settings: Any) -> Any:
        config = registry.directory / "admin.yaml"
        config.write_text(yaml.safe_dump({**registry.settings, **settings}))
        capsys.readouterr()
        try:
            assert admin.run(["--config", str(config), *words, "--json"]) == 0
        except HytheError as error:
            return str(error)
        return json.loads(capsys.readouterr().out)

    return run
