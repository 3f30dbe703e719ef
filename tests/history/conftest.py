"""What the tests of the history share with those of collection."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.gc.keeper")

from tests.gc.conftest import http, keeper, migrated, start, warm

__all__ = ["http", "keeper", "migrated", "start", "warm"]
