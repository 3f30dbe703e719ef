"""Registries whose bytes lie in a bucket of the real S3 store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import MakeServer
from tests.support import s3
from tests.support.server import Server

MakeRegistry = Callable[..., Server]
PART_BYTES = 5 << 20  # the smallest that may be set


@pytest.fixture
def prefix() -> str:
    """The part of the bucket that belongs to one test."""
    return s3.new_prefix()


@pytest.fixture
def make_registry(make_server: MakeServer, ceph: s3.Ceph, prefix: str) -> MakeRegistry:
    """Start registries on the same part of the bucket: `make_registry(s3={"redirect": "always"})`."""

    def make(s3: dict[str, Any] | None = None, **settings: Any) -> Server:
        storage = ceph.settings(prefix, **{"part_size_bytes": PART_BYTES, "attempts": 2, **(s3 or {})})
        return make_server(storage=storage, **settings)

    return make
