"""The database goes away under load: 503 as long as it is away, no acknowledged push is lost, nobody restarts."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from tests.support import processes
from tests.support.ledger import fetch, walk
from tests.support.oci import (
    EMPTY,
    Content,
    blob,
    blob_path,
    image,
    location,
    manifest_path,
    octets,
    uploads_path,
    with_query,
)
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.server import Server

POOL = 4
PUSHERS = 4
REPOSITORY = "team/app"


@pytest.fixture(scope="module")
def fragile() -> Iterator[Postgres]:
    """A database server that may be stopped."""
    running = Postgres().start()
    yield running
    running.remove()


@dataclass(frozen=True)
class Site:
    """Two servers, and the proxy over which they reach their database."""

    postgres: Postgres
    name: str
    proxy: Proxy
    servers: tuple[Server, Server]

    def connections(self) -> int:
        """How many connections to the database the servers have."""
        return self.postgres.connections(self.name)


@pytest.fixture
def site(fragile: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    name = fragile.database()
    proxy = Proxy(fragile.port)
    settings = {
        "index": {"url": fragile.url(name, proxy.port), "pool_size": POOL},
        "storage": {"directory": str(tmp_path_factory.mktemp("shared"))},
    }
    servers = [Server(tmp_path_factory.mktemp("replica"), settings).start() for _ in range(2)]
    yield Site(fragile, name, proxy, (servers[0], servers[1]))
    for server in servers:
        server.kill()
    proxy.close()


def client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False)


class _Anew(Exception):
    """The upload is not known any more, or stands elsewhere: begin again."""


@dataclass
class Pusher:
    """Pushes images, one after the other, through both servers, as a client that obeys Retry-After would."""

    number: int
    clients: tuple[httpx.Client, httpx.Client]
    stopping: threading.Event
    pushed: list[tuple[Content, Content, str]] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        try:
            self._until_acknowledged(lambda: self._blob(EMPTY))
            while not self.stopping.is_set():
                layer = blob(150_000)
                content = image(EMPTY, [layer])
                tag = f"p{self.number}-{len(self.pushed)}"
                self._until_acknowledged(lambda layer=layer: self._blob(layer))  # type: ignore[misc]
                headers = {"Content-Type": content.media_type}
                path = manifest_path(REPOSITORY, tag)
                self.ask("PUT", path, 201, content=content.data, headers=headers)
                self.pushed.append((layer, content, tag))
                self._read_back()
        except Exception as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    def _until_acknowledged(self, push: Callable[[], None]) -> None:
        for _ in range(50):
            try:
                return push()
            except _Anew:
                continue
        raise AssertionError("an upload had to be begun 50 times")

    def _blob(self, content: Content) -> None:
        session = location(self.ask("POST", uploads_path(REPOSITORY), 202))
        half = len(content.data) // 2
        sent = self.ask("PATCH", session, 202, content=content.data[:half], headers=octets(0, half))
        url = with_query(location(sent), digest=content.digest)
        rest = content.data[half:]
        self.ask("PUT", url, 201, content=rest, headers=octets(half, len(rest)))

    def _read_back(self) -> None:
        _, content, tag = self.pushed[len(self.pushed) // 2]
        answer = self.ask("GET", manifest_path(REPOSITORY, tag), 200)
        assert answer.content == content.data, f"{tag} has other bytes"

    def ask(self, method: str, url: str, expect: int, **options: object) -> httpx.Response:
        """Ask until the answer is not 503."""
        deadline = time.monotonic() + 60
        for turn in itertools.count():
            http = self.clients[turn % 2]
            answer = http.request(method, httpx.URL(url).raw_path.decode(), **options)  # type: ignore[arg-type]
            self.answers[answer.status_code] += 1
            if answer.status_code == expect:
                return answer
            if answer.status_code != 503:
                break
            assert answer.headers.get("Retry-After") == "2", answer.headers
            assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
            assert time.monotonic() < deadline, f"{method} {url}: 503 for a minute"
            time.sleep(0.05)  # sooner than it was told to: the test shall be short
        if "/blobs/uploads/" in url and answer.status_code in (404, 409, 416):
            raise _Anew
        raise AssertionError(f"{method} {url}: {answer.status_code} {answer.text}")


def push_while(site: Site, trouble: Callable[[], None]) -> list[Pusher]:
    """Push from several threads while *trouble* lasts, and until each of them has pushed some more after it."""
    stopping = threading.Event()
    one, other = client(site.servers[0]), client(site.servers[1])
    pushers = [Pusher(number, (one, other) if number % 2 else (other, one), stopping) for number in range(PUSHERS)]
    threads = [threading.Thread(target=pusher.run) for pusher in pushers]
    for thread in threads:
        thread.start()
    try:
        _wait_until(lambda: all(pusher.pushed or pusher.faults for pusher in pushers))
        trouble()
        before = [len(pusher.pushed) for pusher in pushers]
        _wait_until(
            lambda: all(
                len(pusher.pushed) > count + 1 or pusher.faults
                for pusher, count in zip(pushers, before, strict=True)
            )
        )
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        one.close()
        other.close()
    return pushers


def _wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check(site: Site, pushers: list[Pusher]) -> None:
    """Nothing failed but with 503, all that was acknowledged is on both servers, and nothing is half there."""
    assert [fault for pusher in pushers for fault in pusher.faults] == []
    for server in site.servers:
        assert server.process is not None
        assert server.process.poll() is None, server.log()
        with client(server) as http:
            for pusher in pushers:
                for layer, content, tag in pusher.pushed:
                    assert fetch(http, manifest_path(REPOSITORY, tag)) == (content.digest, content.data)
                    assert fetch(http, blob_path(REPOSITORY, layer.digest)) == (layer.digest, layer.data)
            walk(http)
            assert http.get("/readyz").json()["status"] == "ok"
    assert site.connections() <= 2 * (POOL + 1)


class TestUnderLoad:
    def test_connections_that_are_cut_again_and_again_cost_no_push(self, site: Site) -> None:
        def trouble() -> None:
            for _ in range(30):
                site.proxy.cut()
                time.sleep(0.07)

        check(site, push_while(site, trouble))

    def test_backends_that_are_ended_by_an_operator_cost_no_push(self, site: Site) -> None:
        def trouble() -> None:
            for _ in range(20):
                site.postgres.cut_off(site.name)
                time.sleep(0.07)

        check(site, push_while(site, trouble))

    def test_a_database_that_is_restarted_costs_no_push(self, site: Site) -> None:
        def trouble() -> None:
            for _ in range(2):
                site.postgres.stop()
                time.sleep(0.5)
                site.postgres.start()
                time.sleep(0.5)

        check(site, push_while(site, trouble))

    def test_a_database_that_crashes_costs_no_push(self, site: Site) -> None:
        def trouble() -> None:
            for _ in range(2):
                site.postgres.crash()
                time.sleep(0.3)
                site.postgres.start()
                time.sleep(0.5)

        check(site, push_while(site, trouble))


class TestAway:
    def test_what_needs_the_database_is_told_503_at_once_and_all_works_when_it_is_back(self, site: Site) -> None:
        with client(site.servers[0]) as http:
            layer = blob(300_000)
            session = location(http.post(uploads_path(REPOSITORY)))
            half = 200_000
            parked = http.patch(session, content=layer.data[:half], headers=octets(0, half))
            assert parked.status_code == 202
            files = processes.open_files(site.servers[0].pid)
            site.proxy.refuse()
            url = with_query(location(parked), digest=layer.digest)
            rest = layer.data[half:]
            asks = [
                ("GET", manifest_path(REPOSITORY, "latest"), {}),
                ("GET", blob_path(REPOSITORY, layer.digest), {}),
                ("GET", "/v2/_catalog", {}),
                ("POST", uploads_path(REPOSITORY), {}),
                ("GET", session, {}),
                ("PATCH", session, {"content": rest, "headers": octets(half, len(rest))}),
                ("PUT", url, {"content": rest, "headers": octets(half, len(rest))}),
                ("DELETE", manifest_path(REPOSITORY, "latest"), {}),
                ("GET", "/readyz", {}),
            ]
            for method, path, options in asks * 3:
                began = time.monotonic()
                answer = http.request(method, path, **options)  # type: ignore[arg-type]
                assert answer.status_code == 503, f"{method} {path}: {answer.text}"
                assert path == "/readyz" or answer.headers["Retry-After"] == "2"
                assert time.monotonic() - began < 2
            assert http.get("/healthz").status_code == 200
            assert http.get("/v2/").status_code == 200
            site.proxy.accept()
            _wait_until(lambda: http.get("/readyz").status_code == 200)
            # The upload is where it was.
            assert http.get(session).headers["Range"] == f"0-{half - 1}"
            assert http.put(url, content=rest, headers=octets(half, len(rest))).status_code == 201
            assert fetch(http, blob_path(REPOSITORY, layer.digest)) == (layer.digest, layer.data)
            assert processes.open_files(site.servers[0].pid) <= files + POOL + 4

    def test_a_server_that_stops_while_the_database_is_away_stops(self, site: Site) -> None:
        with client(site.servers[0]) as http:
            assert http.get("/readyz").status_code == 200
            site.proxy.refuse()
            assert http.get("/v2/_catalog").status_code == 503
            assert site.servers[0].stop() == 0

    def test_a_server_that_stops_leaves_no_connection(self, site: Site) -> None:
        for server in site.servers:
            with client(server) as http:
                assert http.get("/readyz").status_code == 200
        assert site.connections() > 0
        assert [server.stop() for server in site.servers] == [0, 0]
        _wait_until(lambda: site.connections() == 0)
