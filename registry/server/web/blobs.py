"""Blobs over HTTP: whole, in ranges, or not at all. Source: OCI distribution-spec v1.1, "Pulling blobs"."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

from registry.content.store import Blob
from registry.oci.digest import Digest
from registry.server.web import ranges
from registry.server.web.context import Context
from registry.server.web.http import Headers, Reply, Request, Stream
from registry.server.web.manifests import matches
from registry.server.web.routes import Route
from registry.server.web.sendfile import FileSpan

_OCTETS = b"application/octet-stream"


async def get_blob(context: Context, request: Request, route: Route) -> Reply | Stream:
    """`GET` and `HEAD /v2/<name>/blobs/<digest>`"""
    digest = Digest.parse(route.last)
    etag = f'"{digest}"'
    size_bytes = await context.repositories.blob_size(route.repository, digest)
    headers: Headers = [
        (b"docker-content-digest", digest.encode()),
        (b"etag", etag.encode()),
        (b"accept-ranges", b"bytes"),
        # Its access is asked for each time, so only the client itself may keep it.
        (b"cache-control", b"private, max-age=31536000, immutable"),
    ]
    if matches(request.header(b"if-none-match"), etag):
        return Reply(304, headers)
    wanted = None
    if request.method == "GET" and request.header(b"if-range") in (None, etag):
        try:
            wanted = ranges.parse(request.header(b"range"), size_bytes)
        except ranges.Unsatisfiable:
            return Reply(416, [*headers, (b"content-range", f"bytes */{size_bytes}".encode())])
    if request.method == "HEAD":
        return Reply(200, [*headers, (b"content-type", _OCTETS)], length=size_bytes)
    address = await context.repositories.blob_address(digest)
    if address is not None:
        return _elsewhere(digest, address)
    content = await context.repositories.blob(route.repository, digest)
    if isinstance(content, bytes):
        content = _InMemory(content)
    return _reply(content, headers, wanted, context.piece_bytes)


def _elsewhere(digest: Digest, address: str) -> Reply:
    """The store has the bytes for whoever comes with *address*, which is a secret and good for a while."""
    headers: Headers = [
        (b"location", address.encode()),
        (b"docker-content-digest", digest.encode()),
        (b"cache-control", b"no-store"),
    ]
    return Reply(307, headers)


class _InMemory:
    """A small blob that needs no file."""

    file = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    async def pieces(self, start: int, end: int, piece_bytes: int) -> AsyncIterator[bytes | bytearray]:
        yield self._data[start:end]

    def bytes(self) -> bytes:
        """All of it."""
        return self._data

    def close(self) -> None:
        """Nothing to let go of."""


def _reply(
    content: Blob | _InMemory,
    headers: Headers,
    wanted: list[tuple[int, int]] | None,
    piece_bytes: Callable[[], int],
) -> Reply | Stream:
    size_bytes = content.size_bytes
    if wanted is None:
        headers.append((b"content-type", _OCTETS))
        if isinstance(content, _InMemory):
            return Reply(200, headers, content.bytes())
        return _span(200, headers, content, 0, size_bytes, piece_bytes)
    if len(wanted) == 1:
        [(start, end)] = wanted
        headers += [
            (b"content-type", _OCTETS),
            (b"content-range", f"bytes {start}-{end - 1}/{size_bytes}".encode()),
        ]
        return _span(206, headers, content, start, end, piece_bytes)
    return _multipart(content, headers, wanted, piece_bytes)


def _span(
    status: int,
    headers: Headers,
    content: Blob | _InMemory,
    start: int,
    end: int,
    piece_bytes: Callable[[], int],
) -> Stream:
    """The bytes from *start* to before *end*."""
    span = None if content.file is None else FileSpan(content.file, start, end)
    return Stream(status, headers, end - start, content.pieces(start, end, piece_bytes()), content.close, span)


def _multipart(
    content: Blob | _InMemory, headers: Headers, wanted: list[tuple[int, int]], piece_bytes: Callable[[], int]
) -> Stream:
    """Several ranges in one body. Source: RFC 9110, section 14.6."""
    boundary = secrets.token_hex(12)
    heads = [
        f"\r\n--{boundary}\r\ncontent-type: {_OCTETS.decode()}\r\n"
        f"content-range: bytes {start}-{end - 1}/{content.size_bytes}\r\n\r\n".encode()
        for start, end in wanted
    ]
    heads[0] = heads[0].removeprefix(b"\r\n")
    closing = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(end - start for start, end in wanted) + len(closing)

    async def pieces() -> AsyncIterator[bytes | bytearray]:
        for head, (start, end) in zip(heads, wanted, strict=True):
            yield head
            async for piece in content.pieces(start, end, piece_bytes()):
                yield piece
        yield closing

    headers.append((b"content-type", f"multipart/byteranges; boundary={boundary}".encode()))
    return Stream(206, headers, length, pieces(), content.close)


async def delete_blob(context: Context, request: Request, route: Route) -> Reply:
    """`DELETE /v2/<name>/blobs/<digest>`"""
    await context.repositories.deletions.blob(context.caller, route.repository, Digest.parse(route.last))
    return Reply(202)
