"""How a server starts, stops and is stopped: what an operator and a client see of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import MakeServer
from tests.support import processes
from tests.support.ledger import Ledger, fetch
from tests.support.oci import (
    Content,
    blob,
    blob_path,
    finish,
    patch,
    push_blob,
    start_upload,
    uploads_path,
    with_query,
)
from tests.support.server import Server, free_port
from tests.support.warm import Forker, WarmServer
from tests.support.wire import Closed, Wire, many, request

MIB = 1 << 20
REPOSITORY = "team/app"


@contextlib.contextmanager
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        yield http


def terminate(server: Server) -> None:
    """SIGTERM, without waiting."""
    os.kill(server.pid, signal.SIGTERM)


@contextlib.contextmanager
def half_sent(server: Server, content: Content, sent: int) -> Iterator[tuple[str, Wire]]:
    """An upload whose PATCH has sent so many bytes, and its connection; the server has begun to write them."""
    with client(server) as http:
        session = start_upload(http, REPOSITORY)
    with Wire(server.port) as wire:
        target = httpx.URL(session).raw_path.decode()
        wire.send(request("PATCH", target, {"Content-Length": str(len(content.data))}) + content.data[:sent])
        assert processes.wait_until((server.data / "uploads" / session.rpartition("/")[2]).exists)
        yield session, wire


def left_nothing(server: Server) -> bool:
    """Whether every process of a server is gone, that which multiprocessing keeps beside its workers too."""
    return processes.wait_until(lambda: processes.session(server.pid) == [])


def does_not_accept(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("workers", [1, 2])
class TestSigterm:
    def test_an_upload_that_fits_into_the_grace_is_finished(self, make_server: MakeServer, workers: int) -> None:
        server = make_server(server={"workers": workers, "shutdown_grace_seconds": 20})
        content = blob(4 * MIB)
        with half_sent(server, content, 2 * MIB) as (session, wire):
            terminate(server)
            assert processes.wait_until(lambda: does_not_accept(server.port))
            wire.send(content.data[2 * MIB :])
            assert wire.answer().status == 202
        assert server.wait_dead() == 0
        assert left_nothing(server)
        assert processes.tracebacks(server.log()) == []
        server.start()
        with client(server) as http:
            assert http.get(session).headers["Range"] == f"0-{4 * MIB - 1}"
            assert finish(http, session, content.digest).status_code == 201
            assert fetch(http, blob_path(REPOSITORY, content.digest)) == (content.digest, content.data)

    def test_one_that_does_not_fit_is_parked_and_gone_on_with_after_the_restart(
        self, make_server: MakeServer, workers: int
    ) -> None:
        server = make_server(server={"workers": workers, "shutdown_grace_seconds": 1})
        content, sent = blob(6 * MIB), 3 * MIB + 4321
        with half_sent(server, content, sent) as (session, wire):
            time.sleep(0.3)  # so that all of it is there, and the count below can be exact
            terminate(server)
            with contextlib.suppress(Closed):
                answer = wire.answer()
                assert (answer.status, answer.code()) == (503, "UNAVAILABLE")
                assert int(answer.headers["retry-after"]) >= 1
        assert server.wait_dead() == 0
        assert left_nothing(server)
        assert processes.tracebacks(server.log()) == []
        server.start()
        with client(server) as http:
            assert http.get(session).headers["Range"] == f"0-{sent - 1}"
            assert patch(http, session, content.data[sent:], sent).status_code == 202
            assert finish(http, session, content.digest).status_code == 201
            assert fetch(http, blob_path(REPOSITORY, content.digest)) == (content.digest, content.data)

    def test_an_idle_server_stops_at_once_and_leaves_no_process(
        self, make_server: MakeServer, workers: int
    ) -> None:
        server = make_server(server={"workers": workers})
        idle = Wire(server.port)
        assert idle.ask(request("GET", "/v2/")).status == 200
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert left_nothing(server)
        assert processes.tracebacks(server.log()) == []
        idle.close()

    def test_one_that_waits_for_a_client_that_does_nothing_stops_when_the_grace_is_over(
        self, make_server: MakeServer, workers: int
    ) -> None:
        server = make_server(server={"workers": workers, "shutdown_grace_seconds": 1})
        with client(server) as http:
            content = push_blob(http, REPOSITORY, blob(16 * MIB))
        with half_sent(server, blob(4 * MIB), 2 * MIB), Wire(server.port, receive_bytes=65536) as reader:
            reader.send(request("GET", blob_path(REPOSITORY, content.digest)))
            assert reader.head()[0] == 200
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15
        assert left_nothing(server)
        assert processes.tracebacks(server.log()) == []


class TestAnyMoment:
    def test_a_server_that_is_asked_to_stop_while_it_starts_does_so(self, warm: Forker, tmp_path: Path) -> None:
        server = WarmServer(warm, tmp_path / "server")
        choose = random.Random(3)
        try:
            for _ in range(25):
                server.start()  # as soon as the port is open
                time.sleep(choose.uniform(0, 0.05))
                assert server.stop() == 0
            assert processes.tracebacks(server.log()) == []
        finally:
            server.kill()


class TestKilled:
    @pytest.mark.parametrize("busy", [False, True])
    def test_workers_go_when_their_parent_is_killed(self, make_server: MakeServer, busy: bool) -> None:
        server = make_server(server={"workers": 2, "shutdown_grace_seconds": 1})
        with client(server) as http, contextlib.ExitStack() as stack:
            assert processes.wait_until(lambda: len(processes.workers(server.pid)) == 2)
            http.get("/v2/")
            if busy:
                stack.enter_context(half_sent(server, blob(4 * MIB), 2 * MIB))
            workers = processes.workers(server.pid)
            os.kill(server.pid, signal.SIGKILL)
            assert server.wait_dead() == -signal.SIGKILL
            assert processes.wait_until(lambda: not any(map(processes.is_alive, workers)), 10)
            assert left_nothing(server)
            assert does_not_accept(server.port)
        server.start()
        with client(server) as http:
            push_blob(http, REPOSITORY, blob())

    def test_a_blob_that_is_there_survives_a_stop_while_it_is_pushed_again(
        self, warm: Forker, tmp_path: Path
    ) -> None:
        """Pushes of the same bytes are cut off in their last steps: what has the name then must not be touched."""
        server = WarmServer(warm, tmp_path / "server", {"server": {"shutdown_grace_seconds": 1}}).start()
        content, held_back = blob(8 * MIB), 3 * MIB
        try:
            with client(server) as http:
                ledger = Ledger(http)
                ledger.push_whole(REPOSITORY, content)
                for _ in range(3):
                    self._push_again_until_the_grace_is_over(server, content, held_back)
                    assert server.wait_dead() == 0
                    assert processes.tracebacks(server.log()) == []
                    server.start()
                    ledger.check_promises()
        finally:
            server.kill()

    @staticmethod
    def _push_again_until_the_grace_is_over(server: Server, content: Content, held_back: int) -> None:
        with many(server.port, 12) as wires:
            for wire in wires:
                with client(server) as http:
                    url = with_query(
                        httpx.URL(start_upload(http, REPOSITORY)).raw_path.decode(), digest=content.digest
                    )
                wire.send(request("PUT", url, {"Content-Length": str(len(content.data))}))
                wire.send(content.data[:-held_back])
            terminate(server)
            time.sleep(0.95)
            # The requests are cancelled somewhere in the next half second.
            for wire in wires:
                with contextlib.suppress(Closed):
                    wire.send(content.data[-held_back:])
                time.sleep(0.02)


@dataclass(frozen=True)
class Ended:
    """A server that ended by itself: its exit status, and what it wrote."""

    status: int
    text: str


Run = Callable[..., Ended]


@pytest.fixture
def run(warm: Forker, tmp_path: Path) -> Run:
    """Run `hythe serve` with these arguments, and variables, to its end."""

    def serve(*arguments: str, environment: dict[str, str] | None = None) -> Ended:
        log = tmp_path / "ended.log"
        process = warm.start(["serve", *arguments], environment or {}, log, tmp_path / "reached")
        try:
            return Ended(process.wait(30), log.read_text())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            log.unlink()

    return serve


def written(directory: Path, settings: dict[str, Any]) -> str:
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def told(ended: Ended) -> str:
    """The one sentence of a server that does not start."""
    assert ended.status == 1, ended
    [line] = ended.text.strip().splitlines()
    assert line.startswith("hythe: ")
    return line


class TestNotStarting:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_port_that_is_taken(self, server: Server, run: Run, tmp_path: Path, workers: int) -> None:
        config = written(tmp_path, {"storage": {"directory": str(tmp_path / "data")}})
        line = told(run("--config", config, "--port", str(server.port), "--workers", str(workers)))
        assert f"127.0.0.1:{server.port}" in line
        assert "somebody listens there already" in line

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"server": {"prot": 5000}}, "server.prot"),
            ({"sever": {}}, "sever"),
            ({"server": {"port": "many"}}, "server.port"),
            ({"server": {"port": 70000}}, "server.port"),
            ({"server": {"host": "no.such.host.invalid"}}, "server.host"),
            ({"server": {"trusted_proxies": ["10.0.0.0/99"]}}, "server.trusted_proxies"),
            (
                {"server": {"tls_certificate": "/nowhere/cert.pem", "tls_key": "/nowhere/key.pem"}},
                "tls_certificate",
            ),
            ({"server": {"tls_certificate": "/nowhere/cert.pem"}}, "tls_key"),
            ({"index": {"url": "mysql://a/b"}}, "index.url"),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_named(
        self, run: Run, tmp_path: Path, settings: dict[str, Any], named: str
    ) -> None:
        settings.setdefault("storage", {"directory": str(tmp_path / "data")})
        settings.setdefault("server", {}).setdefault("port", 0)
        assert named in told(run("--config", written(tmp_path, settings)))

    def test_a_file_that_is_no_certificate_is_named(self, run: Run, tmp_path: Path) -> None:
        for name in ("certificate", "key"):
            (tmp_path / name).write_text("not a certificate")
        files = {"tls_certificate": str(tmp_path / "certificate"), "tls_key": str(tmp_path / "key")}
        settings = {"server": {**files, "port": free_port()}, "storage": {"directory": str(tmp_path / "data")}}
        assert "tls_certificate" in told(run("--config", written(tmp_path, settings)))

    def test_a_file_that_is_missing_or_no_yaml_is_named(self, run: Run, tmp_path: Path) -> None:
        assert "missing.yaml" in told(run("--config", str(tmp_path / "missing.yaml")))
        (tmp_path / "broken.yaml").write_text("server: [")
        ended = run("--config", str(tmp_path / "broken.yaml"))
        assert ended.status == 1
        assert "broken.yaml" in ended.text
        assert "Traceback" not in ended.text

    def test_a_variable_that_sets_nothing_is_named(self, run: Run) -> None:
        assert "HYTHE_SERVER_PROT" in told(run(environment={"HYTHE_SERVER_PROT": "1"}))

    def test_a_data_directory_that_is_a_file_is_named(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("a file")
        config = written(tmp_path, {"storage": {"directory": str(tmp_path / "data")}})
        assert str(tmp_path / "data") in told(run("--config", config, "--port", str(free_port())))

    def test_a_data_directory_below_a_file_is_named(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("a file")
        config = written(tmp_path, {"storage": {"directory": str(tmp_path / "file" / "data")}})
        assert str(tmp_path / "file") in told(run("--config", config, "--port", str(free_port())))

    def test_a_data_directory_that_cannot_be_written_is_named(self, run: Run, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir()
        with self._nobody_can_write(closed):
            config = written(tmp_path, {"storage": {"directory": str(closed / "data")}})
            assert str(closed) in told(run("--config", config, "--port", str(free_port())))

    @staticmethod
    @contextlib.contextmanager
    def _nobody_can_write(path: Path) -> Iterator[None]:
        if os.geteuid() != 0:
            path.chmod(0o500)
            yield
            path.chmod(0o700)
            return
        # Permissions do not bind root; a read-only file system does.
        options = ["mount", "-t", "tmpfs", "-o", "ro", "hythe-test", str(path)]
        if subprocess.run(options, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            yield
        finally:
            subprocess.run(["umount", str(path)], check=True)

    def test_an_index_of_a_later_release_is_not_touched(self, run: Run, make_server: MakeServer) -> None:
        server = make_server(index={"url": ""})
        assert server.stop() == 0
        path = server.data / "index.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.commit()
        line = told(run("--config", str(server.directory / "config.yaml")))
        assert "9999" in line

    def test_an_index_that_is_no_database_is_named(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "index.sqlite3").write_bytes(b"not a database" * 1000)
        config = written(tmp_path, {"storage": {"directory": str(tmp_path / "data")}, "index": {"url": ""}})
        assert "index.sqlite3" in told(run("--config", config, "--port", str(free_port())))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `cert.pem` and `key.pem` for localhost, signed by themselves."""
    directory = tmp_path_factory.mktemp("certificate")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return directory


class TestTls:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_blobs_go_over_tls_both_ways(self, make_server: MakeServer, certificate: Path, workers: int) -> None:
        files = {"tls_certificate": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
        server = make_server(server={**files, "workers": workers})
        trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        with httpx.Client(base_url=server.url, verify=trust, timeout=30, trust_env=False) as http:
            ledger = Ledger(http)
            ledger.push(REPOSITORY, blob(1000))
            ledger.push_whole(REPOSITORY, blob(5 * MIB))
            ledger.check()
        assert server.stop() == 0
        assert processes.tracebacks(server.log()) == []

    def test_who_speaks_plain_http_or_rubbish_to_it_hurts_nobody(
        self, make_server: MakeServer, certificate: Path
    ) -> None:
        files = {"tls_certificate": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
        server = make_server(server={**files, "header_timeout_seconds": 1, "body_idle_seconds": 1})
        for rubbish in (request("GET", "/v2/"), os.urandom(500), b"\x16\x03\x01"):
            with Wire(server.port) as wire:
                wire.send(rubbish)
                wire.end_of_sending()
                assert wire.is_closed(10)
        trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        with httpx.Client(base_url=server.url, verify=trust, timeout=30, trust_env=False) as http:
            content = push_blob(http, REPOSITORY, blob(24 * MIB))
            before = processes.open_files(server.pid)
            with Wire(server.port, tls=trust, receive_bytes=65536) as reader:
                reader.send(request("GET", blob_path(REPOSITORY, content.digest)))
                assert reader.head()[0] == 200
                assert processes.wait_until(lambda: processes.open_files(server.pid) <= before, 10)
            content = blob(100_000)
            url = with_query(uploads_path(REPOSITORY), digest=content.digest)
            with Wire(server.port, tls=trust) as wire:
                wire.send(request("POST", url, {"Content-Length": "100000"}) + content.data[:50_000])
                assert wire.answer().status == 408
        assert processes.tracebacks(server.log()) == []


class TestForwardedFor:
    @pytest.mark.parametrize(
        ("trusted", "forwarded", "seen"),
        [
            ([], "203.0.113.7", "127.0.0.1"),
            (["10.0.0.0/8"], "203.0.113.7", "127.0.0.1"),
            (["127.0.0.1"], "203.0.113.7", "203.0.113.7"),
            (["127.0.0.0/8"], "198.51.100.1, 203.0.113.7", "203.0.113.7"),
            (["127.0.0.0/8", "203.0.113.0/24"], "198.51.100.1, 203.0.113.7", "198.51.100.1"),
            (["127.0.0.1"], "", "127.0.0.1"),
        ],
    )
    def test_the_log_names_the_client_that_a_trusted_proxy_names_and_nobody_else_can(
        self, warm: Forker, tmp_path: Path, trusted: list[str], forwarded: str, seen: str
    ) -> None:
        server = WarmServer(warm, tmp_path / "server", {"server": {"trusted_proxies": trusted}}).start()
        try:
            with client(server) as http:
                assert http.get("/v2/", headers={"X-Forwarded-For": forwarded}).status_code == 200
            assert server.stop() == 0  # a log line may be written after its answer
        finally:
            server.kill()
        [event] = [event for event in server.events() if event["event"] == "request.done"]
        assert event["client"] == seen
