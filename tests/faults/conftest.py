"""What several files of this directory share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.support.ledger", "tests.support.oci", "tests.support.wire")

from tests.support.warm import Forker, forker  # noqa: E402


@pytest.fixture(scope="session")
def warm() -> Iterator[Forker]:
    """The process that forks servers for tests that start very many."""
    with forker() as running:
        yield running
