"""From a file to a connection inside of the kernel: no byte of a large blob passes through this process.

A thread sends what the connection takes at once; between two such turns the event loop waits until it takes
more. The application gives its file, the protocol its connection: the scope of a request has `SCOPE_KEY` when
the connection is one to which bytes can go as they are (no TLS, and nothing before them still waits).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from registry.content import threads

SCOPE_KEY = "hythe.send_file"
# Under this many bytes a thread hop costs more than copies do.
WORTH_BYTES = 512 << 10
_TURN_BYTES = 16 << 20
_CALL_BYTES = 4 << 20
_THREADS = 8


@dataclass(frozen=True, slots=True)
class FileSpan:
    """The bytes from *start* to before *end* of an open file."""

    fd: int
    start: int
    end: int


SendFile = Callable[[FileSpan], Awaitable[int | None]]


class Stalled(Exception):
    """The other side took nothing for too long, or is gone."""


class FileSender:
    """Sends spans of files over sockets that do not block; one for each process."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sendfile")

    async def send(self, connection: int, span: FileSpan, idle_seconds: float) -> int:
        """Send *span* over the socket *connection* and return how many bytes went out.

        Fewer than it has when the client went away, or took nothing for *idle_seconds*.
        """
        loop = asyncio.get_running_loop()
        # A number of its own: the loop's transport keeps its one, and may close it meanwhile.
        own = os.dup(connection)
        at = span.start
        try:
            while at < span.end:
                sent, is_full = await threads.run(self._pool, _take_turn, own, FileSpan(span.fd, at, span.end))
                at += sent
                if is_full:
                    await _writable(loop, own, idle_seconds)
        except (OSError, Stalled):
            pass
        finally:
            os.close(own)
        return at - span.start


def _take_turn(connection: int, span: FileSpan) -> tuple[int, bool]:
    """Send what the socket takes now, but not without end; True when it takes no more."""
    at, until = span.start, min(span.end, span.start + _TURN_BYTES)
    while at < until:
        try:
            sent = os.sendfile(connection, span.fd, at, min(_CALL_BYTES, until - at))
        except BlockingIOError:
            return at - span.start, True
        if not sent:
            raise OSError("the file is shorter than it was")
        at += sent
    return at - span.start, False


async def _writable(loop: asyncio.AbstractEventLoop, connection: int, seconds: float) -> None:
    """Wait until the socket takes more. Raises Stalled when the client takes nothing for so long.

    A socket says so only when a third of its buffer is free, which a slow client may need long for.
    """
    ready, unread = asyncio.Event(), unread_bytes(connection)
    loop.add_writer(connection, ready.set)
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ready.wait()
                    return
            before, unread = unread, unread_bytes(connection)
            if unread >= before:
                raise Stalled
    finally:
        loop.remove_writer(connection)


def unread_bytes(connection: int) -> int:
    """Bytes that the system holds and the client has not taken; 0 when the system does not say."""
    try:
        [held] = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(held)
