"""Servers with settings of their own that several files of this directory share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support import replicas

PAGE_SIZE = 3


@contextmanager
def serving(factory: pytest.TempPathFactory, name: str, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a server of its own, which ends with the context."""
    running = replicas.serving(factory.mktemp(name), settings)
    try:
        running.start()
        with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
            yield client
    finally:
        running.kill()


@pytest.fixture(scope="session")
def paged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose pages hold three elements at most."""
    with serving(tmp_path_factory, "paged", limits={"page_size": PAGE_SIZE}) as client:
        yield client
