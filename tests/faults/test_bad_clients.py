"""Clients that break off, lie, dawdle, stop reading or send rubbish: they harm themselves, nobody else."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import MakeServer
from tests.support import processes
from tests.support.ledger import fetch
from tests.support.oci import (
    OCI_IMAGE,
    OCI_INDEX,
    Content,
    append,
    blob,
    blob_path,
    config,
    digest_of,
    encode,
    failure,
    finish,
    image,
    manifest_path,
    patch,
    push_blob,
    push_manifest,
    start_upload,
    uploads_path,
    with_query,
)
from tests.support.server import Server
from tests.support.wire import Closed, Wire, chunked, many, request

MIB = 1 << 20
LARGE = 3 * MIB
HEAD_SECONDS = 1.5
IDLE_SECONDS = 1.5
KEEP_ALIVE_SECONDS = 2.0
SLACK_SECONDS = 6.0
UPLOADS_OPEN = 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that only these tests use; its log must have no traceback at the end."""
    running = Server(tmp_path_factory.mktemp("registry"), {"limits": {"manifest_references": 1000}}).start()
    try:
        yield running
        assert processes.tracebacks(running.log()) == []
        assert running.stop() == 0
    finally:
        running.kill()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits a second or two for its clients, and no longer."""
    settings = {
        "server": {
            "header_timeout_seconds": HEAD_SECONDS,
            "body_idle_seconds": IDLE_SECONDS,
            "keep_alive_seconds": KEEP_ALIVE_SECONDS,
        }
    }
    running = Server(tmp_path_factory.mktemp("impatient"), settings).start()
    try:
        yield running
        assert processes.tracebacks(running.log()) == []
        assert running.stop() == 0
    finally:
        running.kill()


@pytest.fixture
def http(registry: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=registry.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def patient(impatient: Server) -> Iterator[httpx.Client]:
    """A good client of the impatient server."""
    with httpx.Client(base_url=impatient.url, timeout=30, trust_env=False) as client:
        yield client


def target(session: str) -> str:
    """A location as the target of a request line."""
    return httpx.URL(session).raw_path.decode()


def held(server: Server) -> Path:
    """Where a server has a file for each upload that is being written to."""
    return server.data / ("holds" if server.settings["storage"].get("kind") == "s3" else "uploads")


def standing(http: httpx.Client, session: str) -> int:
    """How many bytes an upload has: `0-0` means none here, as no test leaves one byte."""
    response = http.get(session)
    assert response.status_code == 204, response.text
    last = int(response.headers["Range"].removeprefix("0-"))
    return last + 1 if last else 0


def settled(http: httpx.Client, session: str, at_least: int = 0) -> int:
    """As `standing`, once the server has noticed that the client before is gone."""
    processes.wait_until(lambda: standing(http, session) >= at_least, 5)
    return standing(http, session)


def resume(http: httpx.Client, repository: str, session: str, content: Content) -> None:
    """Go on where the upload stands, finish it, and see that the blob is right."""
    while (start := standing(http, session)) < len(content.data):
        answer = patch(http, session, content.data[start:], start)
        # The server may only now notice that the client before is gone, and keep what came from it.
        assert answer.status_code in (202, 409, 416), answer.text
    assert finish(http, session, content.digest).status_code == 201
    assert fetch(http, blob_path(repository, content.digest)) == (content.digest, content.data)


LEAVING: dict[str, Callable[[Wire], None]] = {
    "closes": Wire.close,
    "is-cut-off": Wire.reset,
    "half-closes": Wire.end_of_sending,
}
leaving = pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)


class TestStoppingInTheMiddle:
    @leaving
    @pytest.mark.parametrize("coding", ["length", "chunked"])
    def test_what_came_of_a_stream_is_kept_and_gone_on_with(
        self, registry: Server, http: httpx.Client, repository: str, leave: Callable[[Wire], None], coding: str
    ) -> None:
        content, sent = blob(LARGE), 2 * MIB + 12_345
        session = start_upload(http, repository)
        with Wire(registry.port) as wire:
            if coding == "length":
                wire.send(request("PATCH", target(session), {"Content-Length": str(LARGE)}))
                wire.send(content.data[:sent])
            else:
                wire.send(request("PATCH", target(session), {"Transfer-Encoding": "chunked"}))
                wire.send(b"%x\r\n" % LARGE + content.data[:sent])
            leave(wire)
        reset = leave is Wire.reset  # then the network may lose what was on its way
        assert settled(http, session, at_least=1 if reset else sent) <= sent
        assert reset or standing(http, session) == sent
        assert http.head(blob_path(repository, content.digest)).status_code == 404
        resume(http, repository, session, content)

    @leaving
    def test_an_announced_chunk_that_stops_is_kept_as_far_as_it_came(
        self, registry: Server, http: httpx.Client, repository: str, leave: Callable[[Wire], None]
    ) -> None:
        content = blob(LARGE)
        session = append(http, start_upload(http, repository), content.data[:MIB], 0)
        with Wire(registry.port) as wire:
            fields = {"Content-Range": f"{MIB}-{LARGE - 1}", "Content-Length": str(LARGE - MIB)}
            wire.send(request("PATCH", target(session), fields) + content.data[MIB : 2 * MIB])
            leave(wire)
        assert MIB <= settled(http, session, at_least=2 * MIB if leave is not Wire.reset else 0) <= 2 * MIB
        resume(http, repository, session, content)

    @leaving
    @pytest.mark.parametrize("before", [0, 1000, MIB])
    def test_a_closing_request_that_stops_leaves_the_upload_where_it_was(
        self, registry: Server, http: httpx.Client, repository: str, leave: Callable[[Wire], None], before: int
    ) -> None:
        content = blob(LARGE)
        session = start_upload(http, repository)
        if before:
            session = append(http, session, content.data[:before], 0)
        with Wire(registry.port) as wire:
            url = with_query(target(session), digest=content.digest)
            wire.send(
                request("PUT", url, {"Content-Length": str(LARGE - before)}) + content.data[before : 2 * MIB]
            )
            leave(wire)
        # The upload's lock tells when the server has noticed: until then, another request is told to wait.
        answer = finish(http, session, content.digest, content.data[before:], before or None)
        assert answer.status_code == 201, answer.text
        assert fetch(http, blob_path(repository, content.digest)) == (content.digest, content.data)

    @leaving
    @pytest.mark.parametrize("size", [50_000, LARGE])
    def test_a_whole_blob_that_stops_leaves_nothing(
        self, registry: Server, http: httpx.Client, repository: str, leave: Callable[[Wire], None], size: int
    ) -> None:
        before = set(os.listdir(held(registry)))
        content = blob(size)
        url = with_query(uploads_path(repository), digest=content.digest)
        with Wire(registry.port) as wire:
            wire.send(request("POST", url, {"Content-Length": str(size)}) + content.data[:-1])
            leave(wire)
        assert http.head(blob_path(repository, content.digest)).status_code == 404
        assert processes.wait_until(lambda: set(os.listdir(held(registry))) <= before)
        assert http.post(url, content=content.data).status_code == 201
        assert fetch(http, blob_path(repository, content.digest)) == (content.digest, content.data)

    @leaving
    def test_a_manifest_that_stops_is_not_there(
        self, registry: Server, http: httpx.Client, repository: str, leave: Callable[[Wire], None]
    ) -> None:
        manifest = image(push_blob(http, repository, config()), [])
        with Wire(registry.port) as wire:
            fields = {"Content-Type": OCI_IMAGE, "Content-Length": str(len(manifest.data))}
            wire.send(request("PUT", manifest_path(repository, "latest"), fields) + manifest.data[:-1])
            leave(wire)
        assert http.head(manifest_path(repository, "latest")).status_code == 404
        push_manifest(http, repository, manifest, "latest")

    def test_a_client_that_half_closes_after_a_whole_request_gets_a_whole_answer_or_none(
        self, registry: Server
    ) -> None:
        for _ in range(20):
            with Wire(registry.port) as wire:
                wire.send(request("GET", "/v2/"))
                wire.end_of_sending()
                try:
                    assert wire.answer().document() == {}
                except Closed:
                    continue


class TestLies:
    @pytest.mark.parametrize("size", [1000, LARGE])
    @pytest.mark.parametrize("error", [-1, 1])
    @pytest.mark.parametrize("coding", ["length", "chunked"])
    def test_a_chunk_that_is_not_as_long_as_its_range_is_refused_and_not_kept(
        self, registry: Server, http: httpx.Client, repository: str, size: int, error: int, coding: str
    ) -> None:
        content = blob(size)
        session = start_upload(http, repository)
        fields = {"Content-Range": f"0-{size - 1 + error}"}
        with Wire(registry.port) as wire:
            if coding == "length":
                answer = wire.ask(request("PATCH", target(session), fields, content.data))
            else:
                fields["Transfer-Encoding"] = "chunked"
                answer = wire.ask(request("PATCH", target(session), fields) + chunked(content.data))
        assert (answer.status, answer.code()) == (400, "SIZE_INVALID")
        assert standing(http, session) == 0
        resume(http, repository, session, content)

    def test_more_bytes_than_announced_are_no_part_of_the_body(
        self, registry: Server, http: httpx.Client, repository: str
    ) -> None:
        content = blob(1000)
        session = start_upload(http, repository)
        with Wire(registry.port) as wire:
            wire.send(request("PATCH", target(session), {"Content-Length": "1000"}) + content.data)
            assert wire.answer().status == 202
            wire.send(b"\0more")
            assert wire.answer().status == 400
            assert wire.is_closed(5)
        assert standing(http, session) == 1000
        resume(http, repository, session, content)

    @pytest.mark.parametrize("fields", ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 6"])
    def test_two_lengths_are_refused(
        self, registry: Server, http: httpx.Client, repository: str, fields: str
    ) -> None:
        session = target(start_upload(http, repository))
        with Wire(registry.port) as wire:
            answer = wire.ask(f"PATCH {session} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nhello!".encode())
            assert answer.status == 400
            assert wire.is_closed(5)
        assert standing(http, session) == 0

    @pytest.mark.parametrize(
        "fields",
        [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \x0bchunked",
        ],
    )
    def test_a_body_whose_end_two_servers_may_see_at_different_places_is_refused(
        self, registry: Server, http: httpx.Client, repository: str, fields: str
    ) -> None:
        session = target(start_upload(http, repository))
        smuggled = f"DELETE {session} HTTP/1.1\r\nHost: a\r\n\r\n"
        body = f"0\r\n\r\n{smuggled}"
        with Wire(registry.port) as wire:
            answer = wire.ask(f"PATCH {session} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}".encode("latin-1"))
            assert answer.status == 400
            assert wire.is_closed(5)
        assert standing(http, session) == 0, "the request inside the body was obeyed"

    @pytest.mark.parametrize("size", [1000, MIB + 1])
    def test_a_wrong_digest_is_refused_on_every_path_and_the_upload_lives_on(
        self, http: httpx.Client, repository: str, size: int
    ) -> None:
        content, wrong = blob(size), digest_of(b"something else")
        refused = http.post(with_query(uploads_path(repository), digest=wrong), content=content.data)
        assert failure(refused) == (400, "DIGEST_INVALID")
        session = start_upload(http, repository)
        assert failure(finish(http, session, wrong, content.data)) == (400, "DIGEST_INVALID")
        assert standing(http, session) == 0
        append(http, session, content.data)
        assert failure(finish(http, session, wrong)) == (400, "DIGEST_INVALID")
        assert failure(finish(http, session, wrong, b"and more")) == (400, "DIGEST_INVALID")
        assert standing(http, session) == size
        for digest in (wrong, content.digest):
            assert http.head(blob_path(repository, digest)).status_code == 404
        resume(http, repository, session, content)

    def test_trailers_change_nothing(self, registry: Server, http: httpx.Client, repository: str) -> None:
        manifest = image(push_blob(http, repository, config()), [])
        fields = {"Content-Type": OCI_IMAGE, "Transfer-Encoding": "chunked"}
        trailers = b"Content-Type: text/plain\r\nAuthorization: Basic eDp5\r\n"
        body = chunked(manifest.data, trailers=trailers)
        with Wire(registry.port) as wire:
            answer = wire.ask(request("PUT", manifest_path(repository, "latest"), fields) + body)
            assert answer.status == 201
            assert wire.ask(request("GET", "/v2/")).status == 200


class TestDawdling:
    @pytest.mark.parametrize(
        ("method", "kept"),
        [("PATCH", True), ("PUT", False), ("POST", False)],
    )
    def test_a_body_that_stands_still_is_given_up(
        self, impatient: Server, patient: httpx.Client, repository: str, method: str, kept: bool
    ) -> None:
        content, sent = blob(LARGE), 2 * MIB
        session = start_upload(patient, repository)
        url = target(session) if method != "POST" else uploads_path(repository)
        if method != "PATCH":
            url = with_query(url, digest=content.digest)
        with Wire(impatient.port) as wire:
            wire.send(request(method, url, {"Content-Length": str(LARGE)}) + content.data[:sent])
            began = time.monotonic()
            assert wire.answer().status == 408
            assert wire.is_closed(SLACK_SECONDS)
            assert IDLE_SECONDS / 2 < time.monotonic() - began < IDLE_SECONDS + SLACK_SECONDS
        assert standing(patient, session) == (sent if kept else 0)
        assert patient.head(blob_path(repository, content.digest)).status_code == 404
        resume(patient, repository, session, content)

    def test_a_body_that_is_slow_and_steady_may_take_its_time(
        self, impatient: Server, patient: httpx.Client, repository: str
    ) -> None:
        content = blob(120)
        session = start_upload(patient, repository)
        with Wire(impatient.port) as wire:
            wire.send(request("PATCH", target(session), {"Content-Length": "120"}))
            for start in range(0, 120, 10):
                wire.send(content.data[start : start + 10])
                time.sleep(IDLE_SECONDS / 6)
            assert wire.answer().status == 202
        resume(patient, repository, session, content)

    @pytest.mark.parametrize("beginning", [b"", b"G", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-", b"\r\n\r\n"])
    def test_a_head_that_does_not_end_is_given_up(self, impatient: Server, beginning: bytes) -> None:
        with Wire(impatient.port) as wire:
            wire.send(beginning)
            assert wire.is_closed(HEAD_SECONDS + SLACK_SECONDS)

    def test_a_head_that_comes_byte_by_byte_gets_no_more_time_for_that(self, impatient: Server) -> None:
        pieces = round((HEAD_SECONDS + SLACK_SECONDS) / 0.1)
        with Wire(impatient.port) as wire:
            wire.send(b"GET /v2/ HTTP/1.1\r\nX-Long: ")
            assert wire.flood([b"a"] * pieces, pause_seconds=0.1) < pieces

    def test_several_workers_wait_no_longer_for_a_head(self, make_server: MakeServer) -> None:
        server = make_server(server={"workers": 2, "header_timeout_seconds": HEAD_SECONDS})
        with Wire(server.port) as wire:
            wire.send(b"GET /v2/ HTTP/1.1\r\nX-")
            # Two seconds for the workers to start.
            assert wire.is_closed(2 + HEAD_SECONDS + SLACK_SECONDS)

    @pytest.mark.parametrize("after", [b"", b"\r\n", b"\r\n" * 500])
    def test_a_connection_that_is_kept_alive_for_nothing_is_closed(self, impatient: Server, after: bytes) -> None:
        with Wire(impatient.port) as wire:
            assert wire.ask(request("GET", "/v2/")).status == 200
            wire.send(after)
            assert wire.is_closed(KEEP_ALIVE_SECONDS + SLACK_SECONDS)

    def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(self, impatient: Server) -> None:
        with Wire(impatient.port) as wire:
            answer = wire.ask(
                request("PATCH", "/v2/a/b/blobs/uploads/no", {"Content-Length": "9999999"}) + b"some"
            )
            assert answer.status == 404
            wire.send(b"more")
            assert wire.is_closed(KEEP_ALIVE_SECONDS + SLACK_SECONDS)


class TestHeads:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /v2/ HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(80)) + b"\r\n",
            b"GET /v2/ HTTP/1.1\r\nX-Long: " + b"a" * 80_000 + b"\r\n\r\n",
            b"GET /v2/" + b"a" * 80_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /v2/?" + b"a=b&" * 20_000 + b" HTTP/1.1\r\n\r\n",
        ],
        ids=["many-fields", "long-field", "long-path", "long-query"],
    )
    def test_a_huge_head_that_comes_in_parts_is_refused(self, registry: Server, head: bytes) -> None:
        with Wire(registry.port) as wire:
            pieces = (head[start : start + 4000] for start in range(0, len(head), 4000))
            wire.flood(pieces, pause_seconds=0.002)
            with contextlib.suppress(Closed):  # a reset may overtake the answer
                assert wire.answer().status == 431
            assert wire.is_closed(5)

    def test_a_head_just_below_the_limit_is_read(self, registry: Server) -> None:
        head = request("GET", "/v2/", {f"X-{number}": "a" * 1000 for number in range(60)})
        with Wire(registry.port) as wire:
            for start in range(0, len(head), 4000):
                wire.send(head[start : start + 4000])
            assert wire.answer().status == 200

    @pytest.mark.parametrize(
        ("beginning", "more"),
        [
            (b"GET /v2/ HTTP/1.1\r\n", b"X-Some: thing\r\n"),
            (b"GET /v2/ HTTP/1.1\r\nX-Long: ", b"a"),
            (b"GET /v2/", b"a"),
            (
                b"PATCH /v2/a/blobs/uploads/SESSION HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
                b"X-Some: thing\r\n",
            ),
            (
                b"PATCH /v2/a/blobs/uploads/SESSION HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: ",
                b"a",
            ),
            (b"PATCH /v2/a/blobs/uploads/SESSION HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a"),
        ],
        ids=["fields", "field", "path", "trailers", "trailer", "chunk-extension"],
    )
    def test_what_never_ends_is_cut_off_before_it_costs_memory(
        self, registry: Server, http: httpx.Client, beginning: bytes, more: bytes
    ) -> None:
        session = start_upload(http, "a").rpartition("/")[2]
        flood = more * (MIB // len(more))
        with processes.peak_memory(registry.pid) as memory, Wire(registry.port) as wire:
            wire.send(beginning.replace(b"SESSION", session.encode()))
            assert wire.flood([flood] * 100) < 50 * MIB
        assert max(memory) - memory[0] < 32 * MIB
        assert http.get("/v2/").status_code == 200


@pytest.fixture(scope="module")
def heavy(impatient: Server) -> Content:
    """A blob much larger than what sockets hold, in the repository `heavy`."""
    content = blob(48 * MIB)
    with httpx.Client(base_url=impatient.url, timeout=60, trust_env=False) as client:
        response = client.post(with_query(uploads_path("heavy"), digest=content.digest), content=content.data)
        assert response.status_code == 201
    return content


class TestReaders:
    @staticmethod
    def _reader(server: Server, content: Content) -> Wire:
        wire = Wire(server.port, receive_bytes=65536)
        wire.send(request("GET", blob_path("heavy", content.digest)))
        return wire

    def test_readers_that_stop_are_dropped_and_hold_little_memory(
        self, impatient: Server, patient: httpx.Client, heavy: Content
    ) -> None:
        assert patient.get("/v2/").status_code == 200
        before = processes.open_files(impatient.pid)
        with processes.peak_memory(impatient.pid) as memory, contextlib.ExitStack() as stack:
            readers = [stack.enter_context(self._reader(impatient, heavy)) for _ in range(30)]
            assert {reader.head()[0] for reader in readers} == {200}
            assert processes.open_files(impatient.pid) >= before + 30
            assert fetch(patient, blob_path("heavy", heavy.digest)) == (heavy.digest, heavy.data)
            # Not one byte is read, so only the server can end this: a connection and a file each.
            assert processes.wait_until(
                lambda: processes.open_files(impatient.pid) <= before + 1, IDLE_SECONDS * 2 + SLACK_SECONDS
            )
        assert max(memory) - memory[0] < 64 * MIB

    def test_large_and_small_answers_follow_each_other_on_one_connection(
        self, impatient: Server, heavy: Content
    ) -> None:
        """Asked for all at once, read slowly: what one answer leaves waiting is not overtaken by the next."""
        path, data = blob_path("heavy", heavy.digest), heavy.data
        spans = [(0, 3 * MIB), (5, 99), (MIB, 40 * MIB), (7, 7 + 600_000), (0, len(data))]
        with Wire(impatient.port, receive_bytes=65536) as reader:
            for start, end in spans:
                reader.send(request("GET", path, {"Range": f"bytes={start}-{end - 1}"}))
            time.sleep(IDLE_SECONDS / 4)  # the first one fills what the system holds
            for start, end in spans:
                assert reader.answer().body == data[start:end]

    def test_a_reader_that_is_slow_and_steady_gets_all(self, impatient: Server, heavy: Content) -> None:
        with Wire(impatient.port, receive_bytes=65536) as reader:
            reader.send(request("GET", blob_path("heavy", heavy.digest)))
            assert reader.head()[0] == 200
            came = b""
            began = time.monotonic()
            while time.monotonic() - began < 3 * IDLE_SECONDS:
                came += reader.take(20_000)
                time.sleep(0.05)
            assert came + reader.take(len(heavy.data) - len(came)) == heavy.data

    def test_answers_that_nobody_reads_hold_little_memory(
        self, impatient: Server, patient: httpx.Client, repository: str
    ) -> None:
        """Small ones, asked for again and again on one connection, and never taken."""
        made = push_blob(patient, repository, config())
        push_manifest(patient, repository, image(made, [], annotations={"a": "a" * 500_000}), "latest")
        before = processes.open_files(impatient.pid)
        with (
            processes.peak_memory(impatient.pid) as memory,
            many(impatient.port, 10, receive_bytes=65536) as readers,
        ):
            for reader in readers:
                reader.send(request("GET", manifest_path(repository, "latest")) * 200)
            assert processes.wait_until(
                lambda: processes.open_files(impatient.pid) <= before + 1, KEEP_ALIVE_SECONDS + 2 * SLACK_SECONDS
            )
        assert max(memory) - memory[0] < 64 * MIB

    def test_readers_that_leave_in_the_middle_leave_nothing_open(
        self, impatient: Server, patient: httpx.Client, heavy: Content
    ) -> None:
        assert patient.get("/v2/").status_code == 200
        before = processes.open_files(impatient.pid)
        for leave in (Wire.close, Wire.reset) * 10:
            with Wire(impatient.port) as reader:
                reader.send(request("GET", blob_path("heavy", heavy.digest)))
                reader.take(100_000)
                leave(reader)
        assert processes.wait_until(lambda: processes.open_files(impatient.pid) <= before + 1)


class TestPipelining:
    def test_requests_that_come_at_once_are_answered_in_order(
        self, registry: Server, http: httpx.Client, repository: str
    ) -> None:
        content = push_blob(http, repository, blob(3000))
        kinds = [
            (request("GET", "/v2/"), "GET", 200, b"{}"),
            (request("GET", blob_path(repository, content.digest)), "GET", 200, content.data),
            (request("HEAD", blob_path(repository, content.digest)), "HEAD", 200, b""),
            (request("GET", blob_path(repository, digest_of(b""))), "GET", 404, None),
            (request("PATCH", f"{uploads_path(repository)}none", {}, b"body"), "PATCH", 404, None),
        ]
        asked = [kinds[number % len(kinds)] for number in range(200)]
        with Wire(registry.port) as wire:
            threading.Thread(target=wire.send, args=(b"".join(each[0] for each in asked),), daemon=True).start()
            for _, method, status, body in asked:
                answer = wire.answer(method)
                assert answer.status == status
                assert body is None or answer.body == body

    def test_pushes_that_come_at_once_are_all_kept(
        self, registry: Server, http: httpx.Client, repository: str
    ) -> None:
        contents = [blob(size) for size in (0, 10, 100_000, 2 * MIB, 5)]
        with Wire(registry.port) as wire:
            for content in contents:
                url = with_query(uploads_path(repository), digest=content.digest)
                wire.send(request("POST", url, {}, content.data))
            assert [wire.answer().status for _ in contents] == [201] * len(contents)
        for content in contents:
            assert fetch(http, blob_path(repository, content.digest)) == (content.digest, content.data)

    def test_half_a_head_behind_a_long_answer_does_not_spoil_it(self, impatient: Server, heavy: Content) -> None:
        with Wire(impatient.port, receive_bytes=65536) as wire:
            wire.send(request("GET", blob_path("heavy", heavy.digest)) + b"GET /v2/ HTTP/1.1\r\nHo")
            assert wire.head()[0] == 200
            came = b""
            began = time.monotonic()
            while time.monotonic() - began < 2 * HEAD_SECONDS:
                came += wire.take(20_000)
                time.sleep(0.05)
            assert came + wire.take(len(heavy.data) - len(came)) == heavy.data

    @pytest.mark.parametrize(
        "rubbish", [b"\0\0\0\0", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000]
    )
    def test_rubbish_behind_a_request_does_not_get_into_its_answer(
        self, impatient: Server, heavy: Content, rubbish: bytes
    ) -> None:
        with Wire(impatient.port) as wire:
            wire.send(request("GET", blob_path("heavy", heavy.digest)))
            status, _ = wire.head()
            wire.send(rubbish)
            assert status == 200
            came = wire.rest()[: len(heavy.data)]
        assert came == heavy.data[: len(came)]


class TestOldAndStrangeProtocols:
    def test_http_1_0_is_spoken(self, registry: Server, http: httpx.Client, repository: str) -> None:
        content = blob(200_000)
        with Wire(registry.port) as wire:
            url = with_query(uploads_path(repository), digest=content.digest)
            answer = wire.ask(request("POST", url, {}, content.data, version="1.0"))
            assert answer.status == 201
            assert wire.is_closed(5)
        with Wire(registry.port) as wire:
            wire.send(f"GET {blob_path(repository, content.digest)} HTTP/1.0\r\n\r\n".encode())
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, content.data)
            assert wire.is_closed(5)

    @pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
    def test_an_upgrade_to_what_is_not_spoken_is_ignored(self, registry: Server, protocol: str) -> None:
        fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABk"}
        with Wire(registry.port) as wire:
            for _ in range(3):
                assert wire.ask(request("GET", "/v2/", fields)).status == 200
                assert wire.ask(request("POST", "/v2/a/blobs/uploads/", fields, b"")).status == 202
                assert wire.ask(request("GET", "/v2/")).status == 200

    @pytest.mark.parametrize("coding", ["length", "chunked"])
    def test_an_upgrade_with_a_body_is_refused_and_the_body_is_not_taken_for_requests(
        self, registry: Server, http: httpx.Client, repository: str, coding: str
    ) -> None:
        """The parser does not read such bodies: what comes next must not be read as the next request."""
        session = start_upload(http, repository)
        smuggled = request("DELETE", target(session))
        fields = {"Connection": "Upgrade", "Upgrade": "h2c"}
        with Wire(registry.port) as wire:
            if coding == "length":
                wire.send(request("PATCH", target(session), {**fields, "Content-Length": str(len(smuggled))}))
            else:
                wire.send(request("PATCH", target(session), {**fields, "Transfer-Encoding": "chunked"}))
            time.sleep(0.1)  # so that the body comes in a packet of its own
            wire.flood([smuggled] * 2, pause_seconds=0.05)
            with contextlib.suppress(Closed):
                assert wire.answer().status == 400
            assert wire.is_closed(5)
        assert standing(http, session) == 0

    @pytest.mark.parametrize(
        "rubbish",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v2/\r\n\r\n",
            b"GET /v2/ HTTP/9.9\r\n\r\n",
            b"GET /v2/ HTTP/1.1\nHost: a\n\n\n",
            b"GET  /v2/  HTTP/1.1\r\n\r\n",
            b"get /v2/ http/1.1\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\n Host: a\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n",
            b"GET /v2/\0 HTTP/1.1\r\n\r\n",
            b"GET /v2/\xff\xfe HTTP/1.1\r\n\r\n",
            b"GET http://[::1 HTTP/1.1\r\n\r\n",
            b"CONNECT registry:443 HTTP/1.1\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /v2/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nHost: a\r\n\r\nmore",
            b"GET /v2/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
            b"\r\n" * 40_000,
            b"\0" * 100_000,
        ],
    )
    def test_what_is_no_request_is_refused_or_closed_and_hurts_nobody(
        self, impatient: Server, patient: httpx.Client, rubbish: bytes
    ) -> None:
        with Wire(impatient.port) as wire, contextlib.suppress(Closed, OSError):
            wire.send(rubbish)
            wire.end_of_sending()
            assert wire.answer().status < 500
        assert patient.get("/v2/").status_code == 200

    def test_random_bytes_are_refused_or_closed_and_hurt_nobody(
        self, impatient: Server, patient: httpx.Client
    ) -> None:
        choose = random.Random(7)
        for _ in range(300):
            with Wire(impatient.port) as wire, contextlib.suppress(Closed, OSError):
                wire.send(choose.randbytes(choose.randint(1, 2000)))
                wire.end_of_sending()
                assert wire.answer().status < 500
        assert patient.get("/v2/").status_code == 200


class TestTwoAtOnce:
    @pytest.mark.parametrize("size", [1000, 200_000, LARGE])
    def test_of_two_that_write_to_one_upload_one_wins_and_bytes_are_never_mixed(
        self, registry: Server, repository: str, size: int
    ) -> None:
        with httpx.Client(base_url=registry.url, timeout=30) as one, httpx.Client(base_url=registry.url) as two:
            for _ in range(5):
                contents = [blob(size), blob(size)]
                session = start_upload(one, repository)
                together = threading.Barrier(2)

                def write(http: httpx.Client, content: Content, session=session, together=together) -> int:
                    together.wait()
                    return patch(http, session, content.data, 0).status_code

                with ThreadPoolExecutor(2) as pool:
                    statuses = list(pool.map(write, (one, two), contents))
                assert sorted(statuses) in ([202, 409], [202, 416]), statuses
                assert standing(one, session) == size
                winner, loser = contents if statuses[0] == 202 else reversed(contents)
                assert failure(finish(one, session, loser.digest)) == (400, "DIGEST_INVALID")
                resume(one, repository, session, winner)

    def test_two_streams_without_a_range_follow_each_other_or_one_is_refused(
        self, registry: Server, repository: str
    ) -> None:
        with httpx.Client(base_url=registry.url, timeout=30) as one, httpx.Client(base_url=registry.url) as two:
            contents = [blob(LARGE), blob(LARGE)]
            session = start_upload(one, repository)
            with ThreadPoolExecutor(2) as pool:
                statuses = list(
                    pool.map(
                        lambda http, content: patch(http, session, content.data).status_code, (one, two), contents
                    )
                )
            assert set(statuses) <= {202, 409, 416}
            taken = [content.data for content, status in zip(contents, statuses, strict=True) if status == 202]
            assert taken
            orders = [b"".join(order) for order in itertools.permutations(taken)]
            assert standing(one, session) == len(orders[0])
            answers = [finish(one, session, digest_of(data)).status_code for data in orders]
            assert 201 in answers

    def test_a_client_waits_its_turn_no_longer_than_a_few_seconds(
        self, registry: Server, http: httpx.Client, repository: str
    ) -> None:
        content = blob(LARGE)
        session = start_upload(http, repository)
        with Wire(registry.port) as wire:
            wire.send(request("PATCH", target(session), {"Content-Length": str(LARGE)}) + content.data[:MIB])
            processes.wait_until(lambda: (held(registry) / session.rpartition("/")[2]).exists())
            assert failure(patch(http, session, content.data, 0)) == (409, "BLOB_UPLOAD_INVALID")
            wire.send(content.data[MIB:])
            assert wire.answer().status == 202
        resume(http, repository, session, content)

    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_an_upload_that_is_cancelled_under_a_writer_is_gone_for_both(
        self, registry: Server, http: httpx.Client, repository: str, method: str
    ) -> None:
        content = blob(LARGE)
        session = start_upload(http, repository)
        path = held(registry) / session.rpartition("/")[2]
        url = target(session) if method == "PATCH" else with_query(target(session), digest=content.digest)
        with Wire(registry.port) as wire:
            wire.send(request(method, url, {"Content-Length": str(LARGE)}) + content.data[: 2 * MIB])
            assert processes.wait_until(path.exists)
            assert http.delete(session).status_code == 204
            wire.send(content.data[2 * MIB :])
            answer = wire.answer()
        assert (answer.status, answer.code()) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert not path.exists()
        assert http.head(blob_path(repository, content.digest)).status_code == 404

    def test_two_that_finish_one_upload_are_both_told_the_truth(self, registry: Server, repository: str) -> None:
        with httpx.Client(base_url=registry.url, timeout=30) as one, httpx.Client(base_url=registry.url) as two:
            for size in (1000, MIB, LARGE):
                content = blob(size)
                session = append(one, start_upload(one, repository), content.data)
                with ThreadPoolExecutor(2) as pool:
                    answers = list(
                        pool.map(lambda http, at=session, of=content: finish(http, at, of.digest), (one, two))
                    )
                assert 201 in {answer.status_code for answer in answers}
                assert all(
                    answer.status_code == 201 or failure(answer)[0] in (404, 409, 416) for answer in answers
                )
                assert fetch(one, blob_path(repository, content.digest)) == (content.digest, content.data)

    def test_many_that_push_the_same_blob_all_succeed(self, registry: Server, repository: str) -> None:
        content = blob(2 * MIB)
        url = with_query(uploads_path(repository), digest=content.digest)

        def push(_: int) -> int:
            return httpx.post(registry.url + url, content=content.data, timeout=30, trust_env=False).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(push, range(16))) == {201}
        with httpx.Client(base_url=registry.url) as http:
            assert fetch(http, blob_path(repository, content.digest)) == (content.digest, content.data)


class TestOneRequestMuchWork:
    def test_a_deeply_nested_manifest_is_refused(self, http: httpx.Client, repository: str) -> None:
        for data in (b"[" * 4_000_000, b'{"a":' * 500_000 + b"1" + b"}" * 500_000, b'{"annotations":' * 200_000):
            answer = http.put(
                manifest_path(repository, "latest"), content=data, headers={"Content-Type": OCI_IMAGE}
            )
            assert failure(answer) == (400, "MANIFEST_INVALID")
        assert http.get("/v2/").status_code == 200

    @pytest.mark.parametrize("children", [1001, 40_000, 100_000])
    def test_an_index_with_very_many_children_is_refused_at_once(
        self, http: httpx.Client, repository: str, children: int
    ) -> None:
        entries = [{"digest": "sha256:" + f"{number:064x}", "size": 1} for number in range(children)]
        data = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        began = time.monotonic()
        answer = http.put(manifest_path(repository, "latest"), content=data, headers={"Content-Type": OCI_INDEX})
        assert failure(answer) in ((400, "MANIFEST_INVALID"), (413, "SIZE_INVALID"))
        assert time.monotonic() - began < 5

    def test_missing_children_are_named_but_not_all(self, http: httpx.Client, repository: str) -> None:
        entries = [{"digest": "sha256:" + f"{number:064x}", "size": 1} for number in range(1000)]
        data = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        answer = http.put(manifest_path(repository, "latest"), content=data, headers={"Content-Type": OCI_INDEX})
        assert failure(answer) == (404, "MANIFEST_BLOB_UNKNOWN")
        assert len(answer.content) < 100_000

    def test_ten_thousand_ranges_cost_one_answer(self, http: httpx.Client, repository: str) -> None:
        content = push_blob(http, repository, blob(50_000))
        headers = [
            ",".join(f"{start}-{start}" for start in range(0, 20_000, 2)),
            ",".join(["0-"] * 5000),
            ",".join(["-1"] * 7000),
            "," * 15_000,
        ]
        for header in headers:
            began = time.monotonic()
            answer = http.get(blob_path(repository, content.digest), headers={"Range": f"bytes={header}"})
            assert answer.status_code in (200, 206, 416)
            assert len(answer.content) < 3 * len(content.data)
            assert time.monotonic() - began < 5

    def test_a_thousand_ranges_are_answered_each(self, http: httpx.Client, repository: str) -> None:
        content = push_blob(http, repository, blob(50_000))
        wanted = ",".join(f"{start}-{start}" for start in range(0, 2000, 2))
        answer = http.get(blob_path(repository, content.digest), headers={"Range": f"bytes={wanted}"})
        assert answer.status_code == 206
        boundary = answer.headers["Content-Type"].partition("boundary=")[2].encode()
        parts = answer.content.split(b"--" + boundary)[1:-1]
        assert [part.partition(b"\r\n\r\n")[2][:1] for part in parts] == [
            content.data[start : start + 1] for start in range(0, 2000, 2)
        ]

    def test_more_open_uploads_than_allowed_are_asked_to_come_back(
        self, make_server: MakeServer, repository: str
    ) -> None:
        server = make_server(limits={"uploads_open": UPLOADS_OPEN})
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: http.post(uploads_path(repository)), range(3 * UPLOADS_OPEN)))
            opened = [answer for answer in answers if answer.status_code == 202]
            assert len(opened) == UPLOADS_OPEN
            for answer in answers:
                if answer.status_code != 202:
                    assert failure(answer) == (429, "TOOMANYREQUESTS")
                    assert int(answer.headers["Retry-After"]) >= 1
            content = blob(100_000)
            session = append(http, str(opened[0].url.join(opened[0].headers["Location"])), content.data)
            server.restart()
            assert failure(http.post(uploads_path(repository))) == (429, "TOOMANYREQUESTS")
            resume(http, repository, session, content)
            start_upload(http, repository)

    def test_pushes_that_stand_still_hold_little_memory(self, registry: Server, http: httpx.Client) -> None:
        """Each has sent nearly a whole blob of the size that is taken into memory: held, they were 320 MiB."""
        data = bytes(1_000_000)
        before = processes.memory_bytes(registry.pid)
        with processes.peak_memory(registry.pid) as memory, many(registry.port, 250) as wires:
            for wire in wires:
                url = with_query(uploads_path("a"), digest=digest_of(b""))
                wire.send(request("POST", url, {"Content-Length": str(len(data) + 1)}))
                wire.send(data)
            assert http.get("/v2/").status_code == 200
        assert max(memory) - before < 192 * MIB
        assert http.get("/v2/").status_code == 200


class TestManyConnections:
    def test_a_server_takes_as_many_connections_as_the_system_lets_it(self, make_server: MakeServer) -> None:
        """Its own limit on open files is raised: shells and services start with one of 1024 or less."""
        server = make_server(start=False)
        (server.directory / "config.yaml").write_text(yaml.safe_dump(server.settings))
        command = f"ulimit -Sn 200; exec {sys.executable} -m registry serve --config config.yaml"
        with server.log_path.open("ab") as log:
            server.process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=server.directory,
                env={**os.environ, "PYTHONPATH": os.getcwd()},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        server.wait_until_ready(30)
        with (
            many(server.port, 400),
            httpx.Client(base_url=server.url, timeout=10, trust_env=False) as http,
        ):
            content = push_blob(http, "team/app", blob(100_000))
            assert fetch(http, blob_path("team/app", content.digest)) == (content.digest, content.data)
        assert processes.tracebacks(server.log()) == []


def test_a_log_line_is_one_line_whatever_a_client_writes(registry: Server, http: httpx.Client) -> None:
    http.get('/v2/a%0a%0d"event":%20"forged"/manifests/latest', headers={"User-Agent": 'x"}'})
    http.get("/v2/%00%ff%e2%80%a8/tags/list")
    lines = registry.log().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines if line.startswith("{"))
    assert not [line for line in lines if line.startswith('"event": "forged"')]
