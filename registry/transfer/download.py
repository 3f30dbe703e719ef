"""Content from a registry, from any byte on: resumed after a cut, in parallel ranges where one stream is slow.

A content is one stream as long as that is fast, which costs least. Where a network gives one connection little
(under 50 MB/s after the first second), ranges of 4 MiB come over several and are handed on in order.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from registry.oci.descriptor import Descriptor
from registry.oci.errors import HytheError
from registry.transfer.errors import AnswerInvalid, Cut, no_blob
from registry.transfer.host import Host
from registry.transfer.http import Response
from registry.transfer.target import Pieces, wrong_size

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Ranging:
    """When a content comes as parallel ranges: more than `least_bytes` are left, and one stream is slow."""

    least_bytes: int = 32 << 20
    part_bytes: int = 4 << 20
    at_once: int = 4
    patience_seconds: float = 1.0
    enough_bytes_per_second: float = 50e6


USUAL_RANGING = Ranging()


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a content is: the path under a host, and the scopes that reading it takes."""

    host: Host
    path: str
    scopes: frozenset[str]
    descriptor: Descriptor
    place: str


async def download(blob: Blob, start: int, ranging: Ranging = USUAL_RANGING) -> Pieces:
    """The bytes from *start* to the end. Raises BlobUnknown, SizeInvalid, Cut when it cannot be gone on with."""
    position = start
    switch = [False]
    async with aclosing(_stream(blob, start, blob.descriptor.size_bytes, ranging, switch)) as pieces:
        async for piece in pieces:
            position += len(piece)
            yield piece
    if switch[0]:
        async with aclosing(_parts(blob, position, ranging)) as pieces:
            async for piece in pieces:
                yield piece


async def _stream(
    blob: Blob, start: int, end: int, ranging: Ranging | None = None, switch: list[bool] | None = None
) -> AsyncGenerator[bytes, None]:
    """The bytes from *start* to before *end*; after a cut it goes on where that was.

    With *ranging*, it ends early and sets *switch* when the rest is better fetched as ranges.
    """
    position, fruitless = start, 0
    while position < end:
        before = position
        try:
            async with aclosing(_answer(blob, position, end)) as pieces:
                began = time.monotonic()
                async for piece in pieces:
                    position += len(piece)
                    yield piece
                    if (
                        ranging
                        and switch is not None
                        and _is_slow(ranging, began, position - before, end - position)
                    ):
                        if await _honours_ranges(blob, position, end):
                            switch[0] = True
                            return
                        ranging = None
            if position < end:
                raise Cut(f"{blob.place}: {blob.descriptor.digest} ended after {position} of {end} bytes")
        except Cut:
            fruitless = 0 if position > before else fruitless + 1
            if fruitless >= blob.host.patience.attempts:
                raise
            await asyncio.sleep(blob.host.patience.seconds(fruitless))


def _is_slow(ranging: Ranging, began: float, came: int, left: int) -> bool:
    seconds = time.monotonic() - began
    return (
        left >= ranging.least_bytes
        and seconds >= ranging.patience_seconds
        and came < seconds * ranging.enough_bytes_per_second
    )


async def _answer(blob: Blob, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """One request's bytes from *start* to *end*; what a server that ignores ranges sends before is dropped."""
    size_bytes = blob.descriptor.size_bytes
    headers = {} if (start, end) == (0, size_bytes) else {"Range": f"bytes={start}-{end - 1}"}
    expects = (200, 206, 404)
    async with blob.host.ask(
        "GET", blob.path, scopes=blob.scopes, headers=headers, expects=expects, place=blob.place
    ) as answer:
        if answer.status == 404:
            raise no_blob(blob.place, blob.descriptor.digest)
        skip = _begins_at(blob, answer, start)
        left = end - start
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                useful = piece[skip : skip + left]
                if len(piece) - skip > left and answer.status == 206:
                    raise wrong_size(blob.descriptor, end + len(piece) - skip - left, "at least ")
                skip, left = 0, left - len(useful)
                yield useful
                if not left and answer.status == 206:
                    return


def _begins_at(blob: Blob, answer: Response, start: int) -> int:
    """How many bytes of an answer come before those that were asked for. Raises for one about other bytes."""
    size_bytes = blob.descriptor.size_bytes
    if answer.status == 200:
        stated = answer.headers.get("Content-Length", "")
        if stated.isdigit() and int(stated) != size_bytes:
            raise wrong_size(blob.descriptor, int(stated))
        return start
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise AnswerInvalid(f"{blob.place}: an answer with other bytes than those that were asked for")
    if match[3] not in ("*", str(size_bytes)):
        raise wrong_size(blob.descriptor, int(match[3]))
    return 0


async def _honours_ranges(blob: Blob, start: int, end: int) -> bool:
    headers = {"Range": f"bytes={start}-{min(start, end - 1)}"}
    try:
        async with blob.host.once("GET", blob.path, blob.scopes, headers) as answer:
            return answer.status == 206
    except HytheError:
        return False


async def _parts(blob: Blob, start: int, ranging: Ranging) -> AsyncGenerator[bytes, None]:
    """The rest, fetched as ranges of which a few are on their way, or wait in memory, at any time."""
    end = blob.descriptor.size_bytes
    starts = iter(range(start, end, ranging.part_bytes))
    waiting: deque[asyncio.Task[list[bytes]]] = deque()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_cancel, waiting)
        while True:
            while len(waiting) < ranging.at_once and (first := next(starts, None)) is not None:
                part = _part(blob, first, min(first + ranging.part_bytes, end))
                waiting.append(asyncio.create_task(part))
            if not waiting:
                return
            for piece in await waiting[0]:
                yield piece
            waiting.popleft()


async def _part(blob: Blob, start: int, end: int) -> list[bytes]:
    return [piece async for piece in _stream(blob, start, end)]


async def _cancel(tasks: deque[asyncio.Task[list[bytes]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
