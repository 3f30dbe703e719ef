"""A request as handlers read it, and the two kinds of replies that they give.

These are thin: a hot answer costs one of each, so they parse only what is asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from registry.oci.errors import ManifestTooLarge, ParameterInvalid
from registry.server.web.sendfile import FileSpan

Headers = list[tuple[bytes, bytes]]
_QUERY_FIELDS_MAX = 500


class ClientGone(Exception):
    """The client closed its connection, or sent nothing for too long, in the middle of its request."""


class Request:
    """One HTTP request. Header names are asked for in lower case."""

    __slots__ = (
        "_fields",
        "_idle_seconds",
        "_receive",
        "client",
        "method",
        "notes",
        "path",
        "received_bytes",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, idle_seconds: float, client: str) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client = client
        self.received_bytes = 0
        self.notes: dict[str, Any] = {}  # what the log line says beyond the obvious
        self._receive = receive
        self._idle_seconds = idle_seconds
        self._fields: list[tuple[str, str]] | None = None

    def header(self, name: bytes) -> str | None:
        """The header's value; several of one name are joined by commas, as RFC 9110 reads them."""
        found = [value for key, value in self.scope["headers"] if key == name]
        return b", ".join(found).decode("latin-1") if found else None

    def parameters(self, name: str) -> list[str]:
        """Every value of a query parameter, in order. Raises ParameterInvalid for a query beyond reason."""
        if self._fields is None:
            query = self.scope["query_string"]
            try:
                self._fields = (
                    parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
                    if query
                    else []
                )
            except ValueError:
                raise ParameterInvalid(f"more than {_QUERY_FIELDS_MAX} query parameters") from None
        return [value for key, value in self._fields if key == name]

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, None when it is not there."""
        values = self.parameters(name)
        return values[0] if values else None

    def content_length(self) -> int | None:
        """What Content-Length says; None for a body that is chunked."""
        text = self.header(b"content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ClientGone when it breaks off or stands still."""
        more = True
        while more:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    message = await self._receive()
            except TimeoutError:
                raise ClientGone(f"no byte of the body came for {self._idle_seconds:g} s") from None
            if message["type"] == "http.disconnect":
                raise ClientGone("the connection was closed before the body was whole")
            more = message.get("more_body", False)
            piece = message.get("body", b"")
            if piece:
                self.received_bytes += len(piece)
                yield piece

    async def whole_body(self, limit_bytes: int) -> bytes:
        """A small body in one piece. Raises ManifestTooLarge before more than a little too much was read."""
        announced = self.content_length()
        if announced is not None and announced > limit_bytes:
            raise ManifestTooLarge(limit_bytes)
        pieces: list[bytes] = []
        async for piece in self.body():
            pieces.append(piece)
            if self.received_bytes > limit_bytes:
                raise ManifestTooLarge(limit_bytes)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(slots=True)
class Reply:
    """A reply whose body is in memory. `length` is stated for HEAD, where the body stays away."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    length: int | None = None


@dataclass(slots=True)
class Stream:
    """A reply whose body comes in pieces; `close` is called when it is over, however it ends.

    `span` is where all of the body lies in a file, when it does.
    """

    status: int
    headers: Headers
    length: int
    pieces: AsyncIterator[bytes | bytearray]
    close: Callable[[], None]
    span: FileSpan | None = None


def json_reply(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """A reply with *value* as JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, [(b"content-type", b"application/json"), *headers], body)
