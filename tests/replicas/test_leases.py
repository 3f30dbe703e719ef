"""Work that one replica does for all: when it dies in the middle, another one finishes it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.conftest import MakeServer
from tests.support import processes
from tests.support.ledger import walk
from tests.support.oci import blob, push_blob, push_image
from tests.support.postgres import Postgres


@pytest.mark.parametrize("failpoint", ["gc.deleting", "gc.taken-away"])
def test_a_collection_whose_replica_was_killed_is_finished_by_another_when_the_lease_is_over(
    make_server: MakeServer, postgres: Postgres, tmp_path: Path, repository: str, failpoint: str
) -> None:
    database = postgres.database()
    settings = {
        "index": {"url": postgres.url(database)},
        "storage": {"kind": "directory", "directory": str(tmp_path / "shared")},
        "gc": {"interval_seconds": 0.2, "grace_seconds": 0},
    }
    serving = make_server(**{**settings, "gc": {"enabled": False}})
    with httpx.Client(base_url=serving.url, timeout=30, trust_env=False) as http:
        kept = push_image(http, repository, "latest")
        for _ in range(3):
            push_blob(http, repository, blob(1000))
        dying = make_server({"HYTHE_FAILPOINT": failpoint}, **settings)
        assert dying.wait_dead() == -9
        [[holder]] = postgres.execute(database, "SELECT holder FROM lease")
        other = make_server(**settings)
        assert stored(tmp_path) > len(kept.document["layers"]) + 2
        assert postgres.execute(database, "SELECT holder FROM lease") == [(holder,)], "it was not over yet"
        postgres.execute(database, "UPDATE lease SET expires_ms = 0")
        assert processes.wait_until(lambda: stored(tmp_path) == len(kept.document["layers"]) + 2, 20)
        assert walk(http) > 0
    assert processes.tracebacks(other.log()) == []


def stored(directory: Path) -> int:
    """How many blobs and manifests are in the shared directory."""
    return sum(path.is_file() for path in (directory / "shared" / "blobs").rglob("*"))
