"""Keep-alive connections to a server of several workers, with the knowledge of which worker has which."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from tests.support import processes
from tests.support.oci import digest_of
from tests.support.server import Server

_PATIENCE_SECONDS = 1.0
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What the registry said. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first code of a refusal."""
        return str(self.json["errors"][0]["code"])


Question = tuple[str, str]  # method and path


def _read(stream: IO[bytes], method: str) -> Answer:
    """One answer with a length."""
    status = int(stream.readline().split()[1])
    lines = iter(stream.readline, b"\r\n")
    pairs = (line.decode("latin-1").partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    length = 0 if method == "HEAD" or status in (204, 304) else int(headers["content-length"])
    return Answer(status, headers, stream.read(length))


class Door:
    """One connection, for one thread at a time."""

    def __init__(self, server: Server, worker: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        self.worker = worker
        self._awaited: list[Question] = []

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request. An answer of 500 or above is never right."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, named)
        response = self._connection.getresponse()
        data = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        assert response.status < 500, f"{method} {path}: {response.status} {data[:500]!r}"
        return Answer(response.status, found, data)

    def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Many requests without bodies, one behind the other."""
        self.begin(questions)
        return self.end()

    def begin(self, questions: Sequence[Question]) -> None:
        """As `ask_all`, but do not wait for the answers."""
        if self._connection.sock is None:
            self._connection.connect()
        head = f"{{}} {{}} HTTP/1.1\r\nhost: {self._connection.host}\r\n\r\n"
        self._connection.sock.sendall("".join(head.format(*question) for question in questions).encode())
        self._awaited += questions

    def end(self) -> list[Answer]:
        """The answers to `begin`, in their order."""
        with self._connection.sock.makefile("rb") as stream:
            answers = [_read(stream, method) for method, _ in self._awaited]
        for question, answer in zip(self._awaited, answers, strict=True):
            assert answer.status < 500, f"{question}: {answer}"
        self._awaited = []
        return answers

    def is_open(self) -> bool:
        """Whether somebody answers now; else it is closed and can be tried again."""
        self._connection.timeout = _PATIENCE_SECONDS
        try:
            self.ask("GET", "/v2/")
        except TimeoutError:
            self.close()
            return False
        self._connection.sock.settimeout(_ANSWER_SECONDS)
        return True

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def _alone(worker: int, pids: Sequence[int]) -> Iterator[None]:
    """All other workers stand still, so that this one takes every connection."""
    others = [pid for pid in pids if pid != worker]
    try:
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def _are_open(some: Sequence[Door], worker: int, pids: Sequence[int]) -> bool:
    with _alone(worker, pids):
        return all(door.is_open() for door in some)


@contextlib.contextmanager
def doors(server: Server, each: int) -> Iterator[list[Door]]:
    """*each* connections to every worker of *server*, the workers taking turns in the list."""
    count = server.settings["server"]["workers"]
    assert processes.wait_until(lambda: len(processes.workers(server.pid)) == count, 30)
    pids = processes.workers(server.pid)
    found: list[list[Door]] = []
    try:
        for pid in pids:
            found.append([Door(server, pid) for _ in range(each)])
            # One that is just starting takes none yet; the others must not stand still for long.
            assert processes.wait_until(partial(_are_open, found[-1], pid, pids), 60)
        yield [some[place] for place in range(each) for some in found]
    finally:
        for door in itertools.chain(*found):
            door.close()


@dataclass(frozen=True)
class Blob:
    """Bytes to push, under a digest of one algorithm."""

    data: bytes
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return digest_of(self.data, self.algorithm)


WAYS = ("one request", "two requests", "a stream", "chunks")


def push_blob(ask: Any, repository: str, blob: Blob, way: str) -> Answer:
    """Push a blob; *ask* is called for each request, so that each may go through another door."""
    uploads = f"/v2/{repository}/blobs/uploads/"
    if way == "one request":
        return ask("POST", f"{uploads}?digest={blob.digest}", blob.data)  # type: ignore[no-any-return]
    location = ask("POST", uploads).headers["location"]
    rest = blob.data
    if way == "a stream":
        location = ask("PATCH", location, rest).headers["location"]
        rest = b""
    elif way == "chunks":
        third = len(rest) // 3
        for start in (0, third):
            chunk = blob.data[start : start + third]
            between = f"{start}-{start + len(chunk) - 1}"
            answer = ask("PATCH", location, chunk, Content_Range=between)
            assert answer.status == 202, answer.body
            location = answer.headers["location"]
        rest = blob.data[2 * third :]
    return ask("PUT", f"{location}?digest={blob.digest}", rest)  # type: ignore[no-any-return]
