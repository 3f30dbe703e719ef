"""A client process that pushes and pulls very large blobs, many at once, and holds none of them in memory.

    python -m tests.support.flood PORT push|pull COUNT SIZE_BYTES SALT

All blobs of one size begin with the same bytes, a block that is repeated, and end with bytes of their own:
so that one hash serves all, and what is pulled is compared byte for byte at the speed of memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

REPOSITORY = "team/heavy"
_BLOCK_BYTES = 1 << 20
_BLOCK = random.Random(1).randbytes(_BLOCK_BYTES)
_TWICE = memoryview(_BLOCK * 2)
_RECEIVE_BYTES = 256 << 10


@dataclass(frozen=True)
class Flood:
    """What one run of the client did."""

    digests: list[str]
    seconds: float


def run(port: int, verb: str, count: int, size_bytes: int, salt: str) -> Flood:
    """Push or pull so many blobs at once, in a process of its own. Raises when any answer or byte is wrong."""
    command = [sys.executable, "-m", "tests.support.flood", str(port), verb, str(count), str(size_bytes), salt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return Flood(**json.loads(done.stdout))


class _Blob:
    """One blob, made as it is sent."""

    def __init__(self, size_bytes: int, ending: bytes, digest: str) -> None:
        self.size_bytes = size_bytes
        self._ending = ending
        self._common_bytes = size_bytes - len(ending)
        self.digest = digest

    def piece(self, start: int, most: int) -> memoryview:
        """Up to so many bytes from *start*."""
        if start >= self._common_bytes:
            return memoryview(self._ending)[start - self._common_bytes :][:most]
        at = start % _BLOCK_BYTES
        return _TWICE[at : at + min(most, _BLOCK_BYTES, self._common_bytes - start)]


def _blobs(count: int, size_bytes: int, salt: str) -> list[_Blob]:
    hasher = hashlib.sha256()
    endings = [f"{salt}-{number:08d}".encode() for number in range(count)]
    left = size_bytes - len(endings[0])
    while left:
        hasher.update(_TWICE[: min(left, _BLOCK_BYTES)])
        left -= min(left, _BLOCK_BYTES)
    made = []
    for ending in endings:
        whole = hasher.copy()
        whole.update(ending)
        made.append(_Blob(size_bytes, ending, f"sha256:{whole.hexdigest()}"))
    return made


class _Connection:
    """A keep-alive connection of asyncio's raw socket functions."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._buffer = bytearray(_RECEIVE_BYTES)

    async def connect(self) -> None:
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))

    def close(self) -> None:
        self._socket.close()

    async def ask(self, method: str, target: str, blob: _Blob | None, expect: int) -> dict[str, str]:
        """Send a request, with *blob* as its body, and return the headers of an answer that has no body."""
        length = blob.size_bytes if blob else 0
        await self._send_head(method, target, length)
        sent = 0
        while blob and sent < blob.size_bytes:
            piece = blob.piece(sent, _BLOCK_BYTES)
            await self._loop.sock_sendall(self._socket, piece)
            sent += len(piece)
        headers, rest = await self._head(expect)
        assert int(headers.get("content-length", 0)) == len(rest) == 0, headers
        return headers

    async def fetch(self, target: str, blob: _Blob) -> None:
        """Get *blob* and compare each byte."""
        await self._send_head("GET", target, 0)
        headers, rest = await self._head(200)
        assert int(headers["content-length"]) == blob.size_bytes, headers
        came = 0
        view = memoryview(self._buffer)
        piece = memoryview(rest)
        while True:
            while piece:
                wanted = blob.piece(came, len(piece))
                assert wanted.tobytes().startswith(piece[: len(wanted)]), f"other bytes from {came} on"
                came += len(wanted)
                piece = piece[len(wanted) :]
            if came == blob.size_bytes:
                return
            count = await self._loop.sock_recv_into(self._socket, view)
            assert count, f"the answer ends at {came} of {blob.size_bytes} bytes"
            piece = view[:count]

    async def _send_head(self, method: str, target: str, length: int) -> None:
        head = f"{method} {target} HTTP/1.1\r\nHost: registry.test\r\nContent-Length: {length}\r\n\r\n"
        await self._loop.sock_sendall(self._socket, head.encode())

    async def _head(self, expect: int) -> tuple[dict[str, str], bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await self._loop.sock_recv(self._socket, 65536)
            assert more, f"no answer, only {data!r}"
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.split()[1] == str(expect), f"{head!r}{rest!r}"
        fields = (line.partition(":") for line in lines)
        return {name.lower(): value.strip() for name, _, value in fields}, rest


async def _push(port: int, blob: _Blob) -> None:
    connection = _Connection(port)
    await connection.connect()
    try:
        begun = await connection.ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/", None, 202)
        sent = await connection.ask("PATCH", begun["location"], blob, 202)
        await connection.ask("PUT", f"{sent['location']}?digest={blob.digest}", None, 201)
    finally:
        connection.close()


async def _pull(port: int, blob: _Blob) -> None:
    connection = _Connection(port)
    await connection.connect()
    try:
        await connection.fetch(f"/v2/{REPOSITORY}/blobs/{blob.digest}", blob)
    finally:
        connection.close()


async def _all(port: int, verb: str, blobs: list[_Blob]) -> None:
    await asyncio.gather(*((_push if verb == "push" else _pull)(port, blob) for blob in blobs))


def _main(port: str, verb: str, count: str, size_bytes: str, salt: str) -> None:
    blobs = _blobs(int(count), int(size_bytes), salt)
    began = time.perf_counter()
    asyncio.run(_all(int(port), verb, blobs))
    print(json.dumps({"digests": [blob.digest for blob in blobs], "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
