"""Tens of thousands of requests that no client should send: each is refused politely, and nothing is harmed.

The requests are made from a seed, so that a failure can be had again: it shows the bytes that were sent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.support import processes
from tests.support.generated import Maker
from tests.support.ledger import Ledger
from tests.support.oci import (
    CODES,
    blob,
    config,
    digest_of,
    encode,
    image,
    index,
)
from tests.support.server import Server
from tests.support.wire import Answer, Closed, Wire

SEED = 20261120
REQUESTS = 20_000
BATCH = 2_000
MIB = 1 << 20
SLOWEST_SECONDS = 10.0
# Codes of ours where the specification has none.
OWN_CODES = frozenset({"UNAVAILABLE", "STORAGE_FULL", "UNKNOWN"})
NOT_HTTP = b"Invalid HTTP request received."


class Talker:
    """Sends requests, one after another, on a connection that is made anew when the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._wire: Wire | None = None
        self.connections = 0

    def ask(self, method: str, data: bytes, agreed: bool) -> Answer | None:
        """The answer, None when the server closed the connection instead."""
        if self._wire is None:
            self._wire = Wire(self._port, timeout=SLOWEST_SECONDS)
            self.connections += 1
        try:
            self._wire.send(data)
            if not agreed:
                self._wire.end_of_sending()
            answer = self._wire.answer(method)
        except Closed:
            self.close()
            return None
        if not agreed or not answer.keeps_alive:
            self.close()
        return answer

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def check(answer: Answer, target: bytes) -> None:
    """Hold an answer to what every answer must be."""
    assert 200 <= answer.status < 500, answer
    if answer.status < 400 or not answer.body or answer.body == NOT_HTTP or not target.startswith(b"/v2/"):
        return
    assert answer.headers["content-type"] == "application/json", answer
    document = answer.document()
    assert set(document) == {"errors"}, answer
    assert document["errors"], answer
    for error in document["errors"]:
        assert set(error) <= {"code", "message", "detail"}, answer
        assert error["code"] in CODES, answer
        assert isinstance(error["message"], str), answer
    assert len(answer.body) < 200_000, answer


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("registry"), {"server": {"body_idle_seconds": 5}}).start()
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def kept(registry: Server) -> Iterator[Ledger]:
    """An image in a repository that no generated request names."""
    with httpx.Client(base_url=registry.url, timeout=30, trust_env=False) as http:
        ledger = Ledger(http)
        made, layer = config(), blob(200_000)
        for content in (made, layer):
            ledger.push("kept/app", content)
        ledger.put_manifest("kept/app", image(made, [layer]), "latest")
        yield ledger


def known_digests(registry: Server) -> list[str]:
    """Digests of what is in the repository `fuzz/a`, and of nothing."""
    with httpx.Client(base_url=registry.url, timeout=30, trust_env=False) as http:
        ledger = Ledger(http)
        made, layer = config(), blob(3000)
        for content in (made, layer):
            ledger.push("fuzz/a", content)
        manifest = image(made, [layer])
        ledger.put_manifest("fuzz/a", manifest, "latest")
        ledger.put_manifest("fuzz/a", index([manifest.descriptor()]), "v1")
    return [made.digest, layer.digest, manifest.digest, digest_of(encode({"no": "body"}))]


def ask(talker: Talker, maker: Maker, number: int) -> int:
    """Send one more request, hold its answer to `check`, and return its status; 0 when there was none."""
    method, data, agreed = maker.request()
    try:
        answer = talker.ask(method, data, agreed)
        if answer is None:
            return 0
        check(answer, data.split(b" ", 2)[1])
    except (AssertionError, TimeoutError, ValueError, KeyError) as error:
        raise AssertionError(f"request {number}: {data[:3000]!r}\n{error!r}") from error
    if answer.status == 202 and "docker-upload-uuid" in answer.headers:
        maker.sessions = [*maker.sessions[-20:], answer.headers["docker-upload-uuid"]]
    return answer.status


def test_no_request_is_answered_with_a_fault_and_nothing_is_harmed(registry: Server, kept: Ledger) -> None:
    maker = Maker(SEED, known_digests(registry))
    statuses: Counter[int] = Counter()
    slowest = 0.0
    memory_after: list[int] = []
    with Talker(registry.port) as talker:
        for number in range(REQUESTS):
            began = time.monotonic()
            statuses[ask(talker, maker, number)] += 1
            slowest = max(slowest, time.monotonic() - began)
            if number % BATCH == BATCH - 1:
                memory_after.append(processes.memory_bytes(registry.pid))
                kept.check_promises()
    assert processes.tracebacks(registry.log()) == []
    assert slowest < SLOWEST_SECONDS
    # Each kind of answer was had, or the generator has become dull.
    assert {200, 201, 202, 204, 206, 304, 400, 404, 405, 416} <= set(statuses), statuses
    # What caches take at first is no leak.
    assert memory_after[-1] < 300 * MIB
    assert memory_after[-1] - memory_after[len(memory_after) // 3] < 50 * MIB, memory_after


def test_after_all_that_the_server_is_healthy_and_has_nothing_left_open(registry: Server, kept: Ledger) -> None:
    kept.check_promises()
    kept.push("kept/app", blob(1000))
    kept.check_promises()
    assert kept.http.get("/healthz").status_code == 200
    assert kept.http.get("/readyz").status_code == 200
    assert processes.wait_until(lambda: processes.open_files(registry.pid) < 60)
    assert registry.stop() == 0
    assert processes.tracebacks(registry.log()) == []
