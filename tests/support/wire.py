"""A raw HTTP/1.1 connection: tests write the bytes themselves, and see each answer as it came."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HEAD_MAX_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_WITHOUT_BODY = (204, 304)


class Closed(Exception):
    """The server closed the connection where an answer, or more of one, was expected."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; names of headers are in lower case, the last of one name counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def keeps_alive(self) -> bool:
        """Whether the server will read another request from this connection."""
        return self.headers.get("connection", "").lower() != "close"

    def document(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    def code(self) -> str:
        """The first code of the specification's error envelope."""
        return str(self.document()["errors"][0]["code"])


def request(
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    version: str = "1.1",
) -> bytes:
    """A request as bytes; with *body* and no header that says otherwise, its length is announced."""
    fields = {"Host": "registry.test", **(headers or {})}
    names = {name.lower() for name in fields}
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + (body or b"")


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """*pieces* in chunked coding, with the end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


class Wire:
    """One connection to a server of this machine; every wait ends with TimeoutError after *timeout* seconds.

    *receive_bytes* makes the window small, for clients that do not read.
    """

    def __init__(
        self,
        port: int,
        timeout: float = 20.0,
        tls: ssl.SSLContext | None = None,
        receive_bytes: int | None = None,
    ) -> None:
        raw = socket.socket()
        raw.settimeout(timeout)
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            raw.connect(("127.0.0.1", port))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = raw if tls is None else tls.wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise
        self._read = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, politely."""
        self.socket.close()

    def reset(self) -> None:
        """Leave as a client whose machine lost the connection: the server gets RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def end_of_sending(self) -> None:
        """Half-close: nothing more will be sent, answers are still read."""
        with contextlib.suppress(OSError):  # the server may have closed all of it
            self.socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of *data*. Raises Closed when the server takes no more."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from None

    def flood(self, pieces: Iterable[bytes], pause_seconds: float = 0.0) -> int:
        """Send *pieces* until the server takes no more; returns how many bytes it took."""
        sent = 0
        for piece in pieces:
            try:
                self.send(piece)
            except Closed:
                break
            sent += len(piece)
            if pause_seconds:
                time.sleep(pause_seconds)
        return sent

    def ask(self, data: bytes, method: str = "GET") -> Answer:
        """Send a whole request and return the answer to it."""
        self.send(data)
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """The next response, informational ones left out; *method* says whether it can have a body."""
        while True:
            status, headers = self.head()
            if status >= 200:
                break
        return Answer(status, headers, self._body(method, status, headers))

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next response."""
        while b"\r\n\r\n" not in self._read:
            if len(self._read) > HEAD_MAX_BYTES:
                raise AssertionError(f"no end of the head: {self._read[:200]!r}")
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        assert version in ("HTTP/1.1", "HTTP/1.0"), first
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon, line
            headers[name.strip().lower()] = value.strip()
        return int(rest[:3]), headers

    def _body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in _WITHOUT_BODY:
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        if "content-length" in headers:
            return self.take(int(headers["content-length"]))
        return self.rest()

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._read:
                self._more()
            size, _, self._read = self._read.partition(b"\r\n")
            piece = self.take(int(size, 16))
            self.take(2)
            if not piece:
                return body
            body += piece

    def take(self, count: int) -> bytes:
        """Exactly *count* bytes."""
        pieces = [self._read[:count]]
        self._read = self._read[count:]
        missing = count - len(pieces[0])
        while missing:
            piece = self._receive(min(missing, _PIECE_BYTES))
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        pieces = [self._read]
        self._read = b""
        with contextlib.suppress(Closed):
            while True:
                pieces.append(self._receive(_PIECE_BYTES))
        return b"".join(pieces)

    def is_closed(self, within: float) -> bool:
        """Whether the server closes within so many seconds; what it still sends is thrown away."""
        self.socket.settimeout(within)
        try:
            self.rest()
        except TimeoutError:
            return False
        return True

    def _more(self) -> None:
        self._read += self._receive(_PIECE_BYTES)

    def _receive(self, count: int) -> bytes:
        try:
            piece = self.socket.recv(count)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Closed(str(error)) from None
        if not piece:
            raise Closed("the server closed the connection")
        return piece


@contextlib.contextmanager
def many(port: int, count: int, receive_bytes: int | None = None) -> Iterator[list[Wire]]:
    """So many connections, which end with the context."""
    wires: list[Wire] = []
    try:
        for _ in range(count):
            wires.append(Wire(port, receive_bytes=receive_bytes))
        yield wires
    finally:
        for wire in wires:
            wire.reset()
