"""A registry that does what real ones should not: it answers as a function says, and remembers what was asked."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

PIECE_BYTES = 64 << 10


@dataclass(frozen=True)
class Asked:
    """One request, its body read."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def range(self) -> tuple[int, int] | None:
        """First and last byte of a Range header, None when there is none."""
        text = self.headers.get("range", "").removeprefix("bytes=")
        first, _, last = text.partition("-")
        return (int(first), int(last)) if first and last else None


@dataclass(frozen=True)
class Answer:
    """What is sent: of *body* only `cut_at` bytes, then the connection ends; `pause_seconds` between pieces."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_at: int | None = None
    pause_seconds: float = 0.0
    length: int | None = None  # a Content-Length that is not the body's


Script = Callable[[Asked], Answer]


class Faulty:
    """A server on a port of the loopback address."""

    def __init__(self, script: Script, address: str = "127.0.0.1") -> None:
        self.asked: list[Asked] = []
        self.script = script
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def _serve(self) -> None:
                owner.serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _serve

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = _Server((address, 0), Handler)
        self.port = int(self._server.server_address[1])
        self.host = f"{address}:{self.port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request as the script says."""
        asked = _read(handler)
        self.asked.append(asked)
        answer = self.script(asked)
        handler.send_response(answer.status)
        length = len(answer.body) if answer.length is None else answer.length
        for name, value in {"Content-Length": str(length), **answer.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if asked.method == "HEAD":
            return
        sent = answer.body if answer.cut_at is None else answer.body[: answer.cut_at]
        for start in range(0, len(sent), PIECE_BYTES):
            handler.wfile.write(sent[start : start + PIECE_BYTES])
            time.sleep(answer.pause_seconds)
        handler.wfile.flush()
        handler.close_connection = answer.cut_at is not None or answer.length is not None

    def requests(self, method: str = "GET", part: str = "") -> list[Asked]:
        """What was asked with a method of paths that have *part* in them."""
        return [asked for asked in self.asked if asked.method == method and part in asked.path]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is what many tests are about."""


def _read(handler: BaseHTTPRequestHandler) -> Asked:
    parts = urlsplit(handler.path)
    headers = {name.lower(): value for name, value in handler.headers.items()}
    body = b""
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(handler.rfile.readline(), 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
    else:
        body = handler.rfile.read(int(headers.get("content-length", "0")))
    return Asked(handler.command, parts.path, parse_qs(parts.query), headers, body)


@contextmanager
def faulty(script: Script, address: str = "127.0.0.1") -> Iterator[Faulty]:
    """A faulty registry for as long as the context lasts."""
    running = Faulty(script, address)
    try:
        yield running
    finally:
        running.close()
