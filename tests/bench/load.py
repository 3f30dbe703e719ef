"""A light HTTP/1.1 client: the load shares the machine's cores with the servers that it measures.

What to send is a *flow*: a generator that yields requests and is sent their answers. One thread drives many
keep-alive connections through flows with epoll (`run`). Large downloads are read by one thread for each
connection (`download`), since `recv_into` works outside the GIL.

Every answer is checked: another status than the one that a request expects is a `LoadError`, never a count.
"""

from __future__ import annotations

import gc
import hashlib
import select
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

HOST = "127.0.0.1"
STALL_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
BUFFERS_PER_SEND = 16
BODY_SHOWN_BYTES = 2000

Buffer: TypeAlias = "bytes | memoryview"


class LoadError(Exception):
    """An answer, or the lack of one, that a measurement must not count."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request and the status that it must have; *headers* are whole lines, each with its CRLF."""

    method: str
    target: str
    expect: int
    parts: tuple[Buffer, ...] = ()
    headers: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. `size_bytes` is what came over the wire, the head included."""

    status: int
    head: bytes
    body: bytes
    size_bytes: int

    def header(self, name: str) -> str:
        """The header's value, or an empty string."""
        return _header(self.head, self.head.lower(), name.lower().encode()).decode("latin-1")

    def location(self) -> str:
        """The Location as a request target: path and query."""
        value = self.header("location")
        if not value:
            raise LoadError(f"an answer without a Location:\n{self.shown()}")
        if value.startswith("/"):
            return value
        url = urlsplit(value)
        return f"{url.path}?{url.query}" if url.query else url.path

    def shown(self) -> str:
        """The response as a person wants to see it beside an error."""
        return f"{self.head.decode('latin-1')}\n\n{self.body[:BODY_SHOWN_BYTES].decode(errors='replace')}"


Flow: TypeAlias = Generator[Request, Answer, None]


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run did.

    `answered` requests within the first `window_seconds`; `finished` flows by `seconds`, when the last one
    ended. No flow starts after the window, and all that started are finished.
    """

    answered: int
    window_seconds: float
    finished: int
    seconds: float

    def flows_per_second(self, requests_per_flow: int) -> float:
        """The rate within the window, a flow in progress counted by its answered share.

        Without that share a slow server would pay more than a fast one for what it had not quite finished.
        """
        return self.answered / requests_per_flow / self.window_seconds


def single(request: Request, keep: list[Answer] | None = None) -> Flow:
    """A flow of one request; its answer is appended to *keep*."""
    answer = yield request
    if keep is not None:
        keep.append(answer)


def ask(port: int, requests: Iterable[Request], connections: int = 1) -> list[Answer]:
    """The answers to *requests*, in their order when there is one connection."""
    answers: list[Answer] = []
    run(port, (single(request, answers) for request in requests), connections)
    return answers


def run(port: int, flows: Iterable[Flow], connections: int, seconds: float | None = None) -> Tally:
    """Drive *flows* over keep-alive *connections*, each with one flow at a time.

    Stops starting flows after *seconds* (None: when there are no more). Raises LoadError with the response
    when an answer is not what its request expects, and when a server closes, breaks or stalls.
    """
    race = _Race(port, iter(flows), seconds)
    try:
        with _quiet_collector():
            return race.run(connections)
    except OSError as error:
        raise LoadError(f"a connection to port {port} broke: {error}") from error
    finally:
        race.close()


def download(port: int, request: Request, size_bytes: int, connections: int, seconds: float) -> float:
    """Bytes a second that *connections* receive when each repeats *request* for *seconds*.

    Each answer must say, and have, *size_bytes*. What arrives after *seconds* is drained and not counted.
    """
    sockets = [_connect(port) for _ in range(connections)]
    counted = [0] * connections
    errors: list[Exception] = []
    message = _head(request, port)
    deadline = time.perf_counter() + seconds

    def repeat(index: int) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        try:
            while time.perf_counter() < deadline and not errors:
                for count in _body(sockets[index], message, request, size_bytes, buffer):
                    if time.perf_counter() < deadline:
                        counted[index] += count
        except (OSError, LoadError) as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(connections)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for each in sockets:
            each.close()
    if errors:
        raise LoadError(f"{request.method} {request.target}: {errors[0]}") from errors[0]
    return sum(counted) / seconds


def download_digest(port: int, request: Request, size_bytes: int) -> str:
    """The digest of what *request* answers, which must have *size_bytes*."""
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with _connect(port) as sock:
        for count in _body(sock, _head(request, port), request, size_bytes, buffer):
            hasher.update(buffer[:count])
    return f"sha256:{hasher.hexdigest()}"


class _Connection:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("closing", "flow", "incoming", "port", "request", "socket", "unsent")

    def __init__(self, port: int) -> None:
        self.port = port
        self.flow: Flow
        self.request: Request
        self.unsent: list[Buffer] = []
        self.incoming = b""
        self.closing = False
        self.open()

    def open(self) -> None:
        self.socket = _connect(self.port)
        self.socket.setblocking(False)
        self.closing = False

    def send(self, request: Request) -> bool:
        """Begin to send; True when all of it went."""
        self.request = request
        self.unsent = [_head(request, self.port), *request.parts]
        return self.flush()

    def flush(self) -> bool:
        """Send what the socket takes now; True when nothing is left."""
        unsent = self.unsent
        while unsent:
            offered = unsent[:BUFFERS_PER_SEND]
            try:
                sent = self.socket.sendmsg(offered)
            except BlockingIOError:
                return False
            short = sent < sum(map(len, offered))
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.pop(0))
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]
            if short:
                return False
        return True

    def receive(self) -> Answer | None:
        """Read once; the answer if it is whole now. Raises LoadError unless it is the expected one."""
        request = self.request
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return None
        if not data:
            raise LoadError(f"{request.method} {request.target}: closed after {self.incoming!r}")
        self.incoming = self.incoming + data if self.incoming else data
        answer = _parse(self.incoming, bodiless=request.method == "HEAD")
        if answer is None:
            return None
        self.incoming = b""
        self.closing = b"\r\nconnection: close" in answer.head.lower()
        _check(request, answer)
        if self.unsent:
            raise LoadError(f"{request.method} {request.target}: answered before it was sent\n{answer.shown()}")
        return answer


class _Race:
    """The state of one `run`."""

    def __init__(self, port: int, flows: Iterator[Flow], seconds: float | None) -> None:
        self.port = port
        self.flows = flows
        self.seconds = seconds
        self.poll = select.epoll()
        self.live: dict[int, _Connection] = {}
        self.over = False
        self.answered = 0
        self.finished = 0
        self.answered_in_window = 0

    def close(self) -> None:
        for connection in self.live.values():
            connection.socket.close()
        self.poll.close()

    def run(self, connections: int) -> Tally:
        for _ in range(connections):
            self.register(_Connection(self.port))
        begun = time.perf_counter()
        deadline = begun + self.seconds if self.seconds is not None else float("inf")
        for connection in list(self.live.values()):
            self.start(connection)
        while self.live:
            events = self.wait()
            if not self.over and time.perf_counter() >= deadline:
                self.over = True
                self.answered_in_window = self.answered
            for descriptor, event in events:
                self.turn(self.live[descriptor], event)
        seconds = time.perf_counter() - begun
        if self.over:
            return Tally(self.answered_in_window, deadline - begun, self.finished, seconds)
        return Tally(self.answered, seconds, self.finished, seconds)

    def wait(self) -> list[tuple[int, int]]:
        """The descriptors that are ready, and for what."""
        events = self.poll.poll(STALL_SECONDS)
        if not events:
            request = next(iter(self.live.values())).request
            raise LoadError(f"{request.method} {request.target}: no progress in {STALL_SECONDS} s")
        return events

    def register(self, connection: _Connection) -> None:
        self.live[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)

    def retire(self, connection: _Connection) -> None:
        del self.live[connection.socket.fileno()]
        self.poll.unregister(connection.socket)
        connection.socket.close()

    def start(self, connection: _Connection) -> None:
        """Give the connection its next flow, or close it when there is none."""
        flow = None if self.over else next(self.flows, None)
        if flow is None:
            self.retire(connection)
            return
        connection.flow = flow
        self.send(connection, next(flow))

    def send(self, connection: _Connection, request: Request) -> None:
        if not connection.send(request):
            self.poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def turn(self, connection: _Connection, event: int) -> None:
        """Do what the socket is ready for."""
        try:
            self.advance(connection, event)
        except OSError as error:
            request = connection.request
            raise LoadError(f"{request.method} {request.target}: {error}") from error

    def advance(self, connection: _Connection, event: int) -> None:
        if event == select.EPOLLOUT:
            if connection.flush():
                self.poll.modify(connection.socket, select.EPOLLIN)
            return
        answer = connection.receive()  # first: it may say why the server takes no more
        if answer is None:
            return
        self.answered += 1
        if connection.closing:
            self.retire(connection)
            connection.open()
            self.register(connection)
        try:
            request = connection.flow.send(answer)
        except StopIteration:
            self.finished += 1
            self.start(connection)
        else:
            self.send(connection, request)


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No cyclic collection while the clock runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection((HOST, port), timeout=STALL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _head(request: Request, port: int) -> bytes:
    length = sum(map(len, request.parts))
    counted = "" if request.method in ("GET", "HEAD") else f"Content-Length: {length}\r\n"
    return (
        f"{request.method} {request.target} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{request.headers}{counted}\r\n"
    ).encode("latin-1")


def _check(request: Request, answer: Answer) -> None:
    if answer.status != request.expect:
        raise LoadError(
            f"{request.method} {request.target}: expected {request.expect}, got {answer.status}\n{answer.shown()}"
        )


def _status(head: bytes) -> int:
    if not head.startswith(b"HTTP/1.1 "):
        raise LoadError(f"not an HTTP/1.1 answer: {head[:BODY_SHOWN_BYTES]!r}")
    return int(head[9:12])


def _header(head: bytes, lowered: bytes, name: bytes) -> bytes:
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _parse(data: bytes, bodiless: bool) -> Answer | None:
    """The answer that *data* is, or None while some of it is missing."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end]
    status = _status(head)
    lowered = head.lower()
    start = end + 4
    if bodiless or status in (204, 304):
        body: bytes | None = b""
        stop = start
    elif length := _header(head, lowered, b"content-length"):
        stop = start + int(length)
        body = data[start:stop] if len(data) >= stop else None
    elif _header(head, lowered, b"transfer-encoding").lower() == b"chunked":
        body, stop = _unchunk(data, start)
    else:
        raise LoadError(f"an answer that does not say its length:\n{head.decode('latin-1')}")
    if body is None:
        return None
    if len(data) != stop:
        raise LoadError(f"{len(data) - stop} bytes after the answer:\n{data[:BODY_SHOWN_BYTES]!r}")
    return Answer(status, head, body, len(data))


def _unchunk(data: bytes, start: int) -> tuple[bytes | None, int]:
    """The body of a chunked answer and where it ends; None while some of it is missing."""
    body = b""
    while True:
        line = data.find(b"\r\n", start)
        if line < 0:
            return None, start
        size = int(data[start:line].split(b";")[0], 16)
        start = line + 2
        if len(data) < start + size + 2:
            return None, start
        body += data[start : start + size]
        start += size + 2
        if size == 0:
            return body, start


def _body(
    sock: socket.socket, message: bytes, request: Request, size_bytes: int, buffer: memoryview
) -> Iterator[int]:
    """Send *message* and receive the answer's body into *buffer*, again and again; yields each count."""
    sock.sendall(message)
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            raise LoadError(f"closed after {data!r}")
        data += more
    head, _, first = data.partition(b"\r\n\r\n")
    answer = Answer(_status(head), head, first, len(data))
    _check(request, answer)
    if answer.header("content-length") != str(size_bytes):
        raise LoadError(f"Content-Length is not {size_bytes}:\n{head.decode('latin-1')}")
    buffer[: len(first)] = first
    yield len(first)
    left = size_bytes - len(first)
    while left:
        count = sock.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise LoadError(f"closed {left} bytes before the end")
        left -= count
        yield count
