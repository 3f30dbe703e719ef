"""Replicas, the database, the store and the network die under load: nothing that was acknowledged is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.replicas.conftest import PART_BYTES, REPLICAS
from tests.replicas.patient import Patient
from tests.support import processes, s3
from tests.support.ledger import walk
from tests.support.oci import blob_path, manifest_path
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.replicas import Replicas

POOL = 4
CLIENTS = 3
MEMORY_MAX_BYTES = 300_000_000
SIZES = [(3_000, 70_000), (200_000, 1_000), (PART_BYTES + 70_000, 300_000)]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """Three servers behind nginx, with a proxy on each way: to them, to the database, to the store."""

    replicas: Replicas
    postgres: Postgres
    database: str
    store: s3.Ceph
    prefix: str
    front: Proxy
    to_database: Proxy
    to_store: Proxy

    def client(self) -> httpx.Client:
        """A client that comes over the front proxy."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.front.port}", timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def site(ceph: s3.Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    postgres = Postgres().start()
    database, prefix = postgres.database(), s3.new_prefix()
    to_database, to_store = Proxy(postgres.port), Proxy(ceph.port)
    endpoint = f"http://127.0.0.1:{to_store.port}"
    settings = {
        "index": {"url": postgres.url(database, to_database.port), "pool_size": POOL},
        "storage": ceph.settings(
            prefix, endpoint=endpoint, part_size_bytes=PART_BYTES, attempts=2, read_timeout_seconds=3.0
        ),
        "logging": {"level": "warning"},
    }
    replicas = Replicas(tmp_path_factory.mktemp("site"), settings, count=REPLICAS)
    front = Proxy(replicas.port)
    try:
        replicas.start()
        yield Site(replicas, postgres, database, ceph, prefix, front, to_database, to_store)
        assert processes.tracebacks(replicas.log()) == []
    finally:
        replicas.kill()
        for proxy in (front, to_database, to_store):
            proxy.close()
        postgres.remove()
        if not s3.is_listening(ceph.port):
            ceph.start_gateway()


def push_while(
    site: Site, repository: str, trouble: Callable[[], None], may_fall_back: bool = False
) -> list[Patient]:
    """Push and pull from several threads while *trouble* lasts, and until each has pushed some more after it."""
    stopping = threading.Event()
    with site.client() as http:
        clients = [
            Patient(number, repository, http, SIZES[number], stopping, may_fall_back) for number in range(CLIENTS)
        ]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()

        def have_pushed(counts: list[int]) -> bool:
            return all(
                len(client.pushed) >= count or client.faults for client, count in zip(clients, counts, strict=True)
            )

        try:
            assert processes.wait_until(lambda: have_pushed([1] * CLIENTS), 60)
            trouble()
            after = [len(client.pushed) + 1 for client in clients]
            assert processes.wait_until(lambda: have_pushed(after), 60)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
    return clients


def check(site: Site, clients: list[Patient], files: list[int], open_before: int) -> None:
    """All that was acknowledged is on every replica; nothing is half there, and nothing is held any more."""
    answers = sum((client.answers for client in clients), Counter[int | str]())
    assert [fault for client in clients for fault in client.faults] == [], answers
    for replica in site.replicas.each:
        assert replica.process is not None
        assert replica.process.poll() is None, replica.log()
        with httpx.Client(base_url=replica.url, timeout=30, trust_env=False) as http:
            assert processes.wait_until(lambda http=http: http.get("/readyz").status_code == 200)
            for client in clients:
                for made in client.pushed:
                    found = http.get(manifest_path(client.repository, made.tag))
                    assert found.content == made.manifest.data, made.tag
                    found = http.get(blob_path(client.repository, made.layer.digest))
                    assert found.content == made.layer.data, made.tag
            assert walk(http) > 0
    _check_nothing_is_held(site, clients, files, open_before, answers)


def _check_nothing_is_held(
    site: Site, clients: list[Patient], files: list[int], open_before: int, answers: Counter[int | str]
) -> None:
    assert site.postgres.connections(site.database) <= REPLICAS * (POOL + 1)
    for replica, before in zip(site.replicas.each, files, strict=True):
        assert processes.wait_until(lambda r=replica, b=before: processes.open_files(r.pid) <= b + 20, 20)
        assert processes.memory_bytes(replica.pid) < MEMORY_MAX_BYTES
    # An upload whose beginning was not answered, or that is not known any more, is all that may be left open.
    lost = sum(count for kind, count in answers.items() if isinstance(kind, str) or kind in (502, 503, 504))
    assert open_uploads(site) - open_before <= lost
    assert sum(client.forgotten for client in clients) == 0 or clients[0].may_fall_back


def open_uploads(site: Site) -> int:
    [[count]] = site.postgres.execute(site.database, "SELECT count(*) FROM upload WHERE finished_digest IS NULL")
    return int(count)


def under(
    site: Site, repository: str, trouble: Callable[[], None], may_fall_back: bool = False
) -> Counter[int | str]:
    """Run and check; returns what the clients were answered."""
    before = open_uploads(site)
    with site.client() as http:
        assert processes.wait_until(lambda: http.get("/readyz").status_code == 200)
    files = [processes.open_files(replica.pid) for replica in site.replicas.each]
    clients = push_while(site, repository, trouble, may_fall_back)
    check(site, clients, files, before)
    return sum((client.answers for client in clients), Counter[int | str]())


class TestUnderLoad:
    def test_replicas_killed_one_after_another_cost_no_push(self, site: Site, repository: str) -> None:
        def trouble() -> None:
            for replica in site.replicas.each:
                replica.kill()
                time.sleep(0.5)
                replica.start()

        under(site, repository, trouble)

    def test_a_database_that_is_stopped_and_started_costs_no_push(self, site: Site, repository: str) -> None:
        def trouble() -> None:
            for _ in range(2):
                site.postgres.stop()
                time.sleep(0.7)
                site.postgres.start()
                time.sleep(0.5)

        assert under(site, repository, trouble)[503] > 0

    def test_a_database_that_crashes_costs_no_push(self, site: Site, repository: str) -> None:
        def trouble() -> None:
            site.postgres.crash()
            time.sleep(0.3)
            site.postgres.start()

        assert under(site, repository, trouble, may_fall_back=True)[503] > 0

    def test_a_store_that_is_killed_and_started_costs_no_push(self, site: Site, repository: str) -> None:
        def trouble() -> None:
            site.store.kill_gateway()
            time.sleep(0.7)
            site.store.start_gateway()

        assert under(site, repository, trouble)[503] > 0

    def test_connections_that_are_cut_again_and_again_cost_no_push(self, site: Site, repository: str) -> None:
        """Those of clients, of the servers to their database, and of the servers to their store."""

        def trouble() -> None:
            for way in (site.front, site.to_database, site.to_store) * 15:
                way.cut()
                time.sleep(0.07)

        under(site, repository, trouble)

    def test_connections_that_freeze_for_a_while_cost_no_push(self, site: Site, repository: str) -> None:
        def trouble() -> None:
            for way in (site.front, site.to_database, site.to_store):
                way.freeze()
                time.sleep(2)
                way.thaw()
                time.sleep(0.3)

        under(site, repository, trouble)

    def test_a_store_that_answers_too_late_costs_no_push(self, site: Site, repository: str) -> None:
        def trouble() -> None:
            site.to_store.freeze(requests=False, answers=True)
            time.sleep(8)  # longer than both attempts of a server: it gives up, and what it asked for was done
            site.to_store.thaw()

        assert under(site, repository, trouble)[503] > 0
