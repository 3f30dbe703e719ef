"""gzip on all processors: blocks of one size, each compressed with what came before it as its dictionary.

The same bytes give the same stream on every machine, however many threads work and in whatever pieces the bytes
come. By zlib, as other compressors choose by the processor what they find. Source: RFC 1951, RFC 1952; pigz.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 15
_LEVEL = 5  # half as long as 6 takes, 1.5 % larger
_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])  # no time, no name, no system
_END = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS).flush()


def compressed(pieces: Iterable[bytes], threads: int | None = None) -> Iterator[bytes]:
    """The gzip stream of *pieces*, as it comes to be."""
    threads = threads or len(os.sched_getaffinity(0))
    checksum, size_bytes, window = 0, 0, b""
    yield _HEADER
    with ThreadPoolExecutor(threads, thread_name_prefix="gzip") as pool:
        running: deque[Future[bytes]] = deque()
        for block in _blocks(pieces):
            running.append(pool.submit(_deflated, block, window))
            checksum, size_bytes = zlib.crc32(block, checksum), size_bytes + len(block)
            window = block[-_WINDOW_BYTES:]
            if len(running) > 2 * threads:
                yield running.popleft().result()
        for each in running:
            yield each.result()
    yield _END
    yield struct.pack("<II", checksum, size_bytes & 0xFFFFFFFF)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= BLOCK_BYTES:
            yield bytes(waiting[:BLOCK_BYTES])
            del waiting[:BLOCK_BYTES]
    if waiting:
        yield bytes(waiting)


def _deflated(block: bytes, window: bytes) -> bytes:
    """A block that ends at a byte's boundary, for the next one to follow it."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=window)
    return compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
