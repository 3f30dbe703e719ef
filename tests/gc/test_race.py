"""Pushes, mounts, deletions, pulls, and a collection without any grace, all at once, over several workers.

On each kind of index and store, first alone, then with all that looks after the data beside it: a history and
those who restore from it, quotas, a scrub without a pause, and an import. `HYTHE_RACE_SECONDS` makes them longer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.server.index import schema
from registry.server.index.engine import Index
from registry.server.index.postgres import PostgresIndex
from tests.gc.keeper import Keeper, store_of
from tests.gc.mover import Mover
from tests.gc.racing import BINARY, CHAOS, CLIENTS, Client, Pool
from tests.support import s3
from tests.support.oci import blob, uploads_path, with_query
from tests.support.postgres import Postgres
from tests.support.server import Server

# Taken out, as servers refuse variables with this prefix that are no settings.
SECONDS = float(os.environ.pop("HYTHE_RACE_SECONDS", "2"))
ENOUGH = 40  # actions, however slow the machine is
PATIENCE_SECONDS = 60
PART_BYTES = 5 << 20
PLACES = [(index, store) for index in ("sqlite", "postgres") for store in ("directory", "s3")]

# Every few pushes: were it all the time, no push would get through.
GC = {"grace_seconds": 0, "interval_seconds": 0.3, "deletions_per_second": 0, "untagged": "delete"}
# What is deleted can be restored for a moment only, so that its collection is in the race.
ALONE = {"history_days": 1e-6}
TOGETHER = {"history_days": 30, "quotas": {"race/*": "1GiB", CHAOS: 1_300_000}}
SCRUB = {"enabled": "always", "interval_seconds": 0.3, "bytes_per_second": 0, "every_days": 1e-6}
Start = Callable[..., tuple[Server, Keeper]]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start a registry of two workers, with an operator beside it."""
    servers: list[Server] = []

    def run(index: str, store: str, **more: Any) -> tuple[Server, Keeper]:
        directory = tmp_path / "server"
        chosen: dict[str, Any] = {"server": {"workers": 2}, "gc": GC, "index": {"url": ""}, **more}
        chosen["storage"] = {"kind": "directory"}
        open_index: Callable[[], Index] | None = None
        if index == "postgres":
            postgres: Postgres = request.getfixturevalue("postgres")
            url = postgres.url(postgres.database())
            chosen["index"] = {"url": url}
            open_index = lambda: PostgresIndex(url, 3)  # noqa: E731
        if store == "s3":
            moto: s3.Moto = request.getfixturevalue("moto")
            chosen["storage"] = moto.settings(part_size_bytes=PART_BYTES)
        servers.append(server := Server(directory, chosen))
        open_store = store_of(chosen["storage"], server.data, PART_BYTES) if store == "s3" else None
        return server.start(), Keeper(server.data, open_index, open_store)

    yield run
    for server in servers:
        server.kill()


@pytest.mark.parametrize(("index", "store"), PLACES)
def test_in_a_race_nothing_needed_is_lost_and_nothing_else_is_left(start: Start, index: str, store: str) -> None:
    server, keeper = start(index, store, policy=ALONE)
    pool, over = pool_for(store), threading.Event()
    clients = [Client(number, server.url, pool, over) for number in range(CLIENTS)]
    let_run(over, clients)
    for client in clients:
        client.finish(server.url)
    wind_up(server, keeper, clients)


@pytest.mark.parametrize(("index", "store"), PLACES)
def test_nor_with_history_quotas_scrub_and_an_import_beside_it(start: Start, index: str, store: str) -> None:
    server, keeper = start(index, store, policy=TOGETHER, scrub=SCRUB)
    pool, over = pool_for(store), threading.Event()
    clients = [Client(number, server.url, pool, over, keeper.restore) for number in range(CLIENTS)]
    mover = Mover(server, pool, over)
    let_run(over, clients, mover)
    for client in clients:
        client.finish(server.url)
    mover.take_over()
    mover.finish(server.url)
    large = pool.layers[-1]
    beyond = with_query(uploads_path(CHAOS), digest=large.digest)
    refused = httpx.post(server.url + beyond, content=large.data, headers=BINARY, trust_env=False)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, "DENIED")
    wind_up(server, keeper, clients, {content.digest for content in mover.image})
    assert mover.done
    assert sum(client.restored for client in clients)
    said = [event["event"] for event in server.events()]
    assert "scrub.done" in said
    assert "scrub.found" not in said, "the scrub took something for wrong that was only new or gone"
    assert keeper.rows(schema.damage) == []
    assert not (keeper.directory / "quarantine").exists()


def pool_for(store: str) -> Pool:
    """What is pushed: to a bucket also a blob that is a link to joined parts."""
    pool = Pool()
    if store == "s3":
        pool.layers.insert(0, blob(PART_BYTES + 1000))
    return pool


def let_run(over: threading.Event, clients: list[Client], *others: Mover) -> None:
    """Let them run for a while, and see that none failed."""
    everybody = [*clients, *others]
    for each in everybody:
        each.start()
    began = time.monotonic()
    while all(each.is_alive() for each in everybody) and time.monotonic() - began < SECONDS + PATIENCE_SECONDS:
        over.wait(0.1)
        is_enough = sum(client.done for client in clients) >= ENOUGH and all(each.done for each in others)
        if time.monotonic() - began > SECONDS and is_enough:
            break
    over.set()
    for each in everybody:
        each.join(PATIENCE_SECONDS)
        if each.error is not None:
            raise each.error


def wind_up(
    server: Server, keeper: Keeper, clients: list[Client], others: frozenset[str] | set[str] = frozenset()
) -> None:
    """See that all that is needed is there, and nothing else once the collection is done."""
    assert server.stop() == 0
    assert '"traceback"' not in server.log()
    collected = [event for event in server.events() if event["event"] == "collect.done"]
    assert "unlink" in {event["action"] for event in collected}
    assert keeper.rows(schema.condemned) == [], "a stop in order leaves nothing that cannot be pushed"
    # The repository that everybody changes may have manifests whose blobs were deleted by hand.
    keeper.execute("DELETE FROM tag WHERE repository_id = (SELECT id FROM repository WHERE name = 'race/chaos')")
    keeper.execute("DELETE FROM tag_history")
    keeper.collect(delete_untagged=True)
    keeper.check_clean()
    expected = {content.digest for client in clients for found in client.tags.values() for content in found}
    assert keeper.needed() >= expected | others
    assert sum(client.done for client in clients) >= ENOUGH
    print(f"{sum(client.done for client in clients)} actions, {len(collected)} collected, ", end="")
    print(f"{sum(client.refused for client in clients)} pushes refused and repeated, ", end="")
    print(
        f"{sum(client.restored for client in clients)} restored, {sum(client.full for client in clients)} too much"
    )
