"""Memory stays bounded and the server answers, however much is pushed and pulled at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import flood, processes, s3
from tests.support.server import Server, Settings
from tests.support.wire import Wire, request

MB = 1_000_000
MEMORY_MAX_BYTES = 300 * MB
PROBE_EVERY_SECONDS = 0.05
ANSWER_P99_SECONDS = 0.25  # on a machine that does nothing else
CALIBRATION_SECONDS = 0.3
SAMPLE_BYTES = 200 * MB
WRITING_SECONDS = 60
MORE_THAN_S3_TAKES_AT_ONCE = 5400 * MB

pytestmark = [pytest.mark.slow, pytest.mark.alone]


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with so many workers on a store; its data are deleted at the end, as they are gigabytes."""
    servers: list[Server] = []

    def run(workers: int, storage: Settings | None = None) -> Server:
        settings = {"server": {"workers": workers}, "logging": {"level": "warning"}, "storage": storage or {}}
        servers.append(Server(tmp_path / "server", settings))
        return servers[-1].start()

    yield run
    for server in servers:
        server.remove()


class Watch:
    """What a bystander sees: a server's memory, how fast it answers, and how busy the machine is otherwise."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.answers: list[float] = []
        self.memory: list[int] = []
        self.busy = 1.0

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        before = busyness()
        over = threading.Event()
        probing = threading.Thread(target=self._probe, args=(over,), daemon=True)
        probing.start()
        try:
            with processes.peak_memory(self._server.pid) as self.memory:
                yield
        finally:
            over.set()
            probing.join()
        self.busy = max(before, busyness())

    def _probe(self, over: threading.Event) -> None:
        with Wire(self._server.port) as wire:
            while not over.wait(PROBE_EVERY_SECONDS):
                asked = time.perf_counter()
                assert wire.ask(request("GET", "/healthz")).status == 200
                self.answers.append(time.perf_counter() - asked)

    def check_memory(self) -> None:
        assert max(self.memory) < MEMORY_MAX_BYTES, f"{max(self.memory) / MB:.0f} MB"

    def check_answers(self) -> None:
        allowed = ANSWER_P99_SECONDS * self.busy
        assert self.p99_seconds() < allowed, (
            f"{self.p99_seconds():.3f} s of {len(self.answers)}, allowed {allowed:.3f}"
        )

    def __str__(self) -> str:
        return (
            f"at most {max(self.memory) / MB:.0f} MB of memory; /healthz in {self.p99_seconds() * 1000:.0f} ms "
            f"(p99), on a machine that was {self.busy:.1f} times slower than idle"
        )

    def p99_seconds(self) -> float:
        return sorted(self.answers)[int(len(self.answers) * 0.99)]


def busyness() -> float:
    """How much longer than on an idle machine a computation takes now, because of what others do."""
    wall, computed = time.perf_counter(), time.thread_time()
    while time.thread_time() - computed < CALIBRATION_SECONDS:
        hashlib.sha256(bytes(100_000)).digest()
    return max(1.0, (time.perf_counter() - wall) / CALIBRATION_SECONDS)


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> float:
    """1 where the disk writes all that these tests push in a minute, less where it needs longer."""
    path = tmp_path_factory.mktemp("disk") / "file"
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(SAMPLE_BYTES // MB):
            file.write(bytes(MB))
        file.flush()
        os.fsync(file.fileno())
    rate = SAMPLE_BYTES / (time.perf_counter() - began)
    path.unlink()
    return min(1.0, rate * WRITING_SECONDS / (64 * 100 * MB + 5000 * MB))


def pushed_and_pulled(server: Server, count: int, size_bytes: int) -> list[Watch]:
    """Push so many blobs at once, then pull them; returns what was seen meanwhile."""
    watches = []
    for verb in ("push", "pull"):
        watches.append(Watch(server))
        with watches[-1].looking():
            done = flood.run(server.port, verb, count, size_bytes, "salt")
        assert len(set(done.digests)) == count
        rate = count * size_bytes / done.seconds / MB
        print(f"{verb} {count} x {size_bytes // MB} MB: {rate:.0f} MB/s; {watches[-1]}")
    assert processes.tracebacks(server.log()) == []
    return watches


def test_64_pushes_and_64_pulls_of_100_megabytes_at_once_stay_below_300_megabytes_and_others_are_answered(
    start: Start, scale: float
) -> None:
    for watch in pushed_and_pulled(start(1), 64, int(100 * MB * scale)):
        watch.check_memory()
        watch.check_answers()


def test_five_gigabytes_in_one_blob_take_no_more_memory_and_others_are_answered(
    start: Start, scale: float
) -> None:
    for watch in pushed_and_pulled(start(1), 1, int(5000 * MB * scale)):
        watch.check_memory()
        watch.check_answers()


def test_six_gigabytes_into_an_s3_store_take_no_more_memory_and_others_are_answered(
    start: Start, ceph: s3.Ceph, scale: float
) -> None:
    """On a slow disk a little less, but more than S3 takes, or copies, in one request."""
    size_bytes = max(MORE_THAN_S3_TAKES_AT_ONCE, int(6000 * MB * scale))
    server = start(1, ceph.settings())
    watch = Watch(server)
    with watch.looking():
        done = flood.run(server.port, "push", 1, size_bytes, "s3")
    print(f"push to S3: {size_bytes / done.seconds / MB:.0f} MB/s; {watch}")
    watch.check_memory()
    watch.check_answers()
    with Wire(server.port) as wire:
        head = wire.ask(request("HEAD", f"/v2/{flood.REPOSITORY}/blobs/{done.digests[0]}"), "HEAD")
    assert int(head.headers["content-length"]) == size_bytes
    assert processes.tracebacks(server.log()) == []


def test_several_workers_together_stay_below_that_too(start: Start) -> None:
    for watch in pushed_and_pulled(start(2), 64, 10 * MB):
        watch.check_memory()
