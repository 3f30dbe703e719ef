"""What several files of this directory share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.warm import Forker, forker


@pytest.fixture(scope="session")
def warm() -> Iterator[Forker]:
    """The process that forks servers for tests that start very many."""
    with forker() as running:
        yield running
