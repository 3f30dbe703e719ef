"""Layers compressed on all processors."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
from collections.abc import Iterator

import pytest

from registry.client.images.gzipping import BLOCK_BYTES, compressed
from registry.client.images.unpack.inflate import Inflater
from registry.client.images.unpack.limits import Limits


def content(size_bytes: int) -> bytes:
    """Bytes of which some compress, with repetitions across blocks."""
    source = random.Random(7)
    words = [source.randbytes(source.randint(1, 2000)) for _ in range(50)]
    made = b""
    while len(made) < size_bytes:
        made += b"".join(source.choice(words) for _ in range(200))
    return made[:size_bytes]


def pieces(data: bytes, size_bytes: int) -> Iterator[bytes]:
    return (data[at : at + size_bytes] for at in range(0, len(data), size_bytes))


@pytest.mark.parametrize(
    "size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 12345]
)
def test_every_reader_of_gzip_reads_it(size_bytes: int) -> None:
    data = content(size_bytes)
    packed = b"".join(compressed(pieces(data, 70_000)))
    assert gzip.decompress(packed) == data
    assert b"".join(Inflater(io.BytesIO(packed), Limits())) == data


def test_threads_and_pieces_change_nothing_about_the_bytes() -> None:
    data = content(3 * BLOCK_BYTES + 77)
    digests = {
        hashlib.sha256(b"".join(compressed(pieces(data, size), threads))).hexdigest()
        for size, threads in ((1 << 22, 1), (4096, 3), (BLOCK_BYTES, 2), (999_999, 8))
    }
    assert len(digests) == 1


def test_blocks_know_what_came_before_them() -> None:
    noise = random.Random(1).randbytes(1 << 14)
    before = bytes(BLOCK_BYTES - len(noise)) + noise
    assert len(b"".join(compressed([before, noise]))) < 1.5 * len(noise)


def test_an_error_of_the_source_is_raised_as_it_is() -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(4 * BLOCK_BYTES)
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        b"".join(compressed(broken()))
