"""Three servers that share a database and a store, and nothing else: on a directory, and on the real S3 store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.model.doors", "tests.model.test_races", "tests.model.test_model")

from tests.model.doors import Door
from tests.support import processes, s3
from tests.support.postgres import Postgres
from tests.support.replicas import Replicas
from tests.support.server import Settings

REPLICAS = 3
STORES = ("directory", "s3")
PART_BYTES = 5 << 20  # the smallest that may be set


def storage(kind: str) -> Settings:
    """The section `storage` of replicas on one kind of store."""
    return s3.shared(s3.Ceph).settings(part_size_bytes=PART_BYTES) if kind == "s3" else {"kind": "directory"}


@pytest.fixture(scope="session", params=STORES)
def replicas(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Three that the session shares, for each kind of store; use repositories of your own."""
    settings = {
        "index": {"url": postgres.url(postgres.database()), "pool_size": 6},
        "storage": storage(request.param),
        "logging": {"level": "warning"},
    }
    running = Replicas(tmp_path_factory.mktemp(f"replicas-{request.param}"), settings, count=REPLICAS)
    try:
        running.start()
        yield running
        assert processes.tracebacks(running.log()) == []
        assert "[alert]" not in running.nginx.log()
    finally:
        running.kill()


@contextlib.contextmanager
def doors_of(replicas: Replicas, each: int) -> Iterator[list[Door]]:
    """*each* connections to every replica, past nginx, the replicas taking turns in the list."""
    found = [Door(replica, number) for _ in range(each) for number, replica in enumerate(replicas.each)]
    try:
        yield found
    finally:
        for door in found:
            door.close()
