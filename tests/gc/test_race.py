"""Pushes, mounts, deletions, pulls, and a collection without any grace, all at once, over several workers.

Everybody pushes the same few blobs, so that their bytes are deleted and published again all the time. Each client
has a repository that nobody else changes, and knows what has to be in it; one repository belongs to nobody.
`HYTHE_RACE_SECONDS` makes it go on for longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.server.index import schema
from registry.server.index.engine import Index
from registry.server.index.postgres import PostgresIndex
from tests.gc.keeper import Keeper
from tests.support.oci import (
    Content,
    blob,
    blob_path,
    config,
    image,
    index,
    manifest_path,
    uploads_path,
    with_query,
)
from tests.support.postgres import shared
from tests.support.server import Server

# Taken out, as servers refuse variables with this prefix that are no settings.
SECONDS = float(os.environ.pop("HYTHE_RACE_SECONDS", "4"))
CLIENTS = 4
ENOUGH = 40  # actions, however slow the machine is
PATIENCE_SECONDS = 60
TRIES = 20
CHAOS = "race/chaos"
BINARY = {"Content-Type": "application/octet-stream"}


@dataclass
class Pool:
    """What everybody pushes: small ones, and such as make files of their uploads."""

    configs: list[Content] = field(default_factory=lambda: [config() for _ in range(3)])
    layers: list[Content] = field(
        default_factory=lambda: [blob(size) for size in (0, 100, 1000, 70_000, 100_000, 1_200_000, 2_500_000)]
    )

    def image(self, choose: random.Random) -> tuple[Content, list[Content]]:
        """An image, perhaps one that was there before, and its blobs."""
        made, layers = choose.choice(self.configs), choose.sample(self.layers, choose.randint(1, 3))
        return image(made, layers, annotations={"which": str(choose.randint(1, 4))}), [made, *layers]


class Client(threading.Thread):
    """One client until *over*; `tags` are those that have to be there, each with all the content below it."""

    def __init__(self, number: int, url: str, pool: Pool, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.repository = f"race/client{number}"
        self.tags: dict[str, list[Content]] = {}
        self.error: BaseException | None = None
        self.done = 0
        self.refused = 0
        self._choose = random.Random(number)
        self._pool = pool
        self._over = over
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def run(self) -> None:
        actions: list[Callable[[], None]] = [
            *[self.push_image] * 4,
            *[self.pull] * 4,
            *[self.push_index] * 2,
            self.delete_tag,
            self.delete_manifest,
            self.stir,
        ]
        try:
            while not self._over.is_set():
                self._choose.choice(actions)()
                self.done += 1
        except BaseException as error:
            self.error = error
        finally:
            self._http.close()

    def _ask(self, method: str, url: str, *statuses: int, **options: Any) -> httpx.Response:
        response = self._http.request(method, url, **options)
        assert response.status_code in statuses, f"{method} {url}: {response.status_code} {response.text}"
        return response

    # --- pushing

    def push_image(self) -> None:
        manifest, blobs = self._pool.image(self._choose)
        tag = self._choose.choice(["one", "two", "three"])
        self.tags.pop(tag, None)  # until it is acknowledged, either may be seen
        if self._push(self.repository, manifest, blobs, tag):
            self.tags[tag] = [manifest, *blobs]

    def push_index(self) -> None:
        self.tags.pop("multi", None)
        children = [self._pool.image(self._choose) for _ in range(2)]
        top = index([manifest.descriptor() for manifest, _ in children])
        for _ in range(TRIES):
            if not all(self._push(self.repository, manifest, blobs, None) for manifest, blobs in children):
                return
            if self._put_manifest(self.repository, top, "multi"):
                self.tags["multi"] = [top, *(each for child, blobs in children for each in (child, *blobs))]
                return

    def _push(self, repository: str, manifest: Content, blobs: Sequence[Content], tag: str | None) -> bool:
        """As docker does: look, push what is not there, then the manifest; again when something went meanwhile."""
        for _ in range(TRIES):
            for content in blobs:
                self._provide(repository, content)
            if self._put_manifest(repository, manifest, tag):
                return True
        return False

    def _put_manifest(self, repository: str, manifest: Content, tag: str | None) -> bool:
        response = self._ask(
            "PUT",
            manifest_path(repository, tag or manifest.digest),
            *(201, 404),
            content=manifest.data,
            headers={"Content-Type": manifest.media_type},
        )
        if response.status_code == 404:
            self.refused += 1
            assert response.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        return response.status_code == 201

    def _provide(self, repository: str, content: Content) -> None:
        way = self._choose.random()
        uploads = uploads_path(repository)
        if way < 0.3 and self._ask("HEAD", blob_path(repository, content.digest), 200, 404).status_code == 200:
            return
        if way < 0.5:
            source = f"race/client{self._choose.randrange(CLIENTS)}"
            query = {"mount": content.digest, "from": source}
            response = self._ask("POST", with_query(uploads, **query), 201, 202)
            if response.status_code == 201:
                return
            self._close(response.headers["Location"], content)
        elif way < 0.8:
            query = {"digest": content.digest}
            self._ask("POST", with_query(uploads, **query), 201, content=content.data, headers=BINARY)
        else:
            self._close(self._ask("POST", uploads, 202).headers["Location"], content)

    def _close(self, location: str, content: Content) -> None:
        if self._choose.random() < 0.5:
            location = self._ask("PATCH", location, 202, content=content.data, headers=BINARY).headers["Location"]
            self._ask("PUT", with_query(location, digest=content.digest), 201)
        else:
            self._ask(
                "PUT", with_query(location, digest=content.digest), 201, content=content.data, headers=BINARY
            )

    # --- the rest

    def pull(self) -> None:
        if self.tags:
            tag = self._choose.choice(sorted(self.tags))
            self.check(tag)

    def check(self, tag: str) -> None:
        """What was acknowledged is there, every byte of it."""
        top, *below = self.tags[tag]
        assert self._ask("GET", manifest_path(self.repository, tag), 200).content == top.data
        for content in below:
            path = manifest_path if content.media_type.endswith("manifest.v1+json") else blob_path
            response = self._ask("GET", path(self.repository, content.digest), 200)
            assert response.content == content.data, f"{content.digest} has other bytes"

    def delete_tag(self) -> None:
        tag = self._choose.choice(["one", "two", "three", "multi"])
        self.tags.pop(tag, None)
        self._ask("DELETE", manifest_path(self.repository, tag), 202, 404)

    def delete_manifest(self) -> None:
        if self.tags:
            gone = self.tags[self._choose.choice(sorted(self.tags))][0]
            self.tags = {tag: found for tag, found in self.tags.items() if gone not in found}
            self._ask("DELETE", manifest_path(self.repository, gone.digest), 202, 404)

    def stir(self) -> None:
        """In the repository that everybody changes nothing is known, but nobody may be told a fault."""
        manifest, blobs = self._pool.image(self._choose)
        tag = self._choose.choice(["one", "two"])
        for content in blobs:
            self._provide(CHAOS, content)
        self._put_manifest(CHAOS, manifest, self._choose.choice([tag, None]))
        self._ask("DELETE", blob_path(CHAOS, self._choose.choice(blobs).digest), 202, 404)
        self._ask("DELETE", manifest_path(CHAOS, self._choose.choice([tag, manifest.digest])), 202, 404)

    def finish(self, url: str) -> None:
        """Look at everything once more."""
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as self._http:
            for tag in self.tags:
                self.check(tag)


def race(server: Server, keeper: Keeper, seconds: float) -> None:
    """Let them run, then see that all that is needed is there, and nothing else once the collection is done."""
    pool, over = Pool(), threading.Event()
    clients = [Client(number, server.url, pool, over) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    began = time.monotonic()
    while all(client.is_alive() for client in clients) and time.monotonic() - began < seconds + PATIENCE_SECONDS:
        over.wait(0.1)
        if time.monotonic() - began > seconds and sum(client.done for client in clients) >= ENOUGH:
            break
    over.set()
    for client in clients:
        client.join(60)
        if client.error is not None:
            raise client.error
    for client in clients:
        client.finish(server.url)
    assert server.stop() == 0
    assert '"traceback"' not in server.log()
    collected = [event for event in server.events() if event["event"] == "collect.done"]
    assert {event["action"] for event in collected} >= {"unlink", "delete"}
    # The repository that everybody changes may have manifests whose blobs were deleted by hand.
    keeper.execute("DELETE FROM tag WHERE repository_id = (SELECT id FROM repository WHERE name = 'race/chaos')")
    keeper.execute("DELETE FROM tag_history")
    keeper.collect(delete_untagged=True)
    keeper.check_clean()
    expected = {content.digest for client in clients for found in client.tags.values() for content in found}
    assert keeper.needed() >= expected
    assert sum(client.done for client in clients) >= ENOUGH
    print(f"{sum(client.done for client in clients)} actions, {len(collected)} collected, ", end="")
    print(f"{sum(client.refused for client in clients)} pushes refused and repeated")


def settings(**more: Any) -> dict[str, Any]:
    # Every few pushes: were it all the time, no push would get through.
    gc = {"grace_seconds": 0, "interval_seconds": 0.3, "deletions_per_second": 0, "untagged": "delete"}
    # What is deleted can be restored for a moment only, so that its collection is in the race.
    return {"server": {"workers": 2}, "gc": gc, "policy": {"history_days": 1e-6}, **more}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    servers: list[Server] = []

    def start(**more: Any) -> Server:
        servers.append(Server(tmp_path / "server", settings(**more)))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()


def test_in_a_race_nothing_needed_is_lost_and_nothing_else_is_left(run: Callable[..., Server]) -> None:
    server = run()
    race(server, Keeper(server.data), SECONDS)


def test_in_a_race_on_postgresql_nothing_needed_is_lost_and_nothing_else_is_left(
    run: Callable[..., Server],
) -> None:
    url = shared().url(shared().database())

    def open_index() -> Index:
        return PostgresIndex(url, 3)

    server = run(index={"url": url})
    keeper = Keeper(server.data, open_index)
    race(server, keeper, SECONDS)
    assert keeper.rows(schema.repository)
