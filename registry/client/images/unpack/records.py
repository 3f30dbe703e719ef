"""Extended headers (PAX) and sparse maps: text from a stranger, read strictly and with bounds.

Source: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack.blocks import BLOCK_BYTES, Blocks, padding
from registry.client.images.unpack.limits import RECORDS_MAX_BYTES

Records = dict[bytes, bytes]
Extent = tuple[int, int]  # offset, length

_DECIMAL = re.compile(rb"[0-9]{1,20}")
_SECONDS = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]{0,40}))?")
_SECONDS_MAX = 1 << 40  # some 34,000 years; file systems clamp far below
SPARSE = b"GNU.sparse."
_TEXTS = {b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name"}  # the others' values may be any bytes


def parse(data: bytes) -> Records:
    """The records `LENGTH KEY=VALUE\\n` of an extended header; a repeated key's last value counts.

    The pairs of sparse format 0.0, which repeat on purpose, come as one map of format 0.1.
    """
    records: Records = {}
    pairs: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 21)
        digits = data[at:space] if space > 0 else b""
        if not _DECIMAL.fullmatch(digits):
            if not data[at:].strip(b"\0"):
                break
            raise LayerRefused("an extended header has a record without a length")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
            raise LayerRefused("an extended header has a broken record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pairs.append(value)
        if b"\0" in (value if key in _TEXTS else key):
            raise LayerRefused("an extended header's name or text has a NUL in it")
        records[key] = value
        at = end
    if pairs and b"GNU.sparse.map" not in records:
        records[b"GNU.sparse.map"] = b",".join(pairs)
    return records


def decimal(text: bytes, what: str) -> int:
    """A number that is not negative. Raises LayerRefused."""
    if not _DECIMAL.fullmatch(text):
        raise LayerRefused(f"an extended header's {what} is no number")
    return int(text)


def nanoseconds(text: bytes) -> int:
    """A time like `1700000000.123456789`, rounded down to nanoseconds and kept to what a kernel can hold."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise LayerRefused("an extended header's time is no number")
    sign, whole, fraction = match.groups()
    parts = ((fraction or b"") + b"0" * 9)[:9]
    value = min(int(whole), _SECONDS_MAX) * 10**9 + int(parts)
    return -value if sign else value


def is_sparse(records: Records) -> bool:
    """Whether the entry is a sparse file of one of the three PAX formats."""
    return b"GNU.sparse.map" in records or records.get(b"GNU.sparse.major") == b"1"


def sparse_map(records: Records, blocks: Blocks, stored_bytes: int) -> tuple[list[Extent], int]:
    """The extents of a sparse PAX entry, and how many stored bytes its map used up (format 1.0 has it there)."""
    if records.get(b"GNU.sparse.major") == b"1":
        return _map_in_data(blocks, stored_bytes)
    words = [word for word in records[b"GNU.sparse.map"].split(b",") if word]
    return _extents([decimal(word, "sparse map") for word in words]), 0


def _map_in_data(blocks: Blocks, stored_bytes: int) -> tuple[list[Extent], int]:
    """Format 1.0: a count, then offsets and lengths, one on each line, padded to a block."""
    text, had, wanted = bytearray(), 0, 1
    while had < wanted:
        if len(text) >= min(stored_bytes, RECORDS_MAX_BYTES):
            raise LayerRefused("a sparse map is broken or too long")
        block = blocks.exactly(BLOCK_BYTES)
        text += block
        had += block.count(b"\n")
        if wanted == 1 and had:
            wanted = 1 + 2 * decimal(bytes(text).partition(b"\n")[0], "sparse map")
    lines = bytes(text).split(b"\n", wanted)[1:wanted]
    return _extents([decimal(line, "sparse map") for line in lines]), len(text)


def old_sparse_map(header: bytes, blocks: Blocks) -> list[Extent]:
    """The map of an old GNU entry: four extents in the header, 21 in each block that follows."""
    found = _pairs(header[386:482])
    more, used = header[482], 0
    while more:
        used += BLOCK_BYTES
        if used > RECORDS_MAX_BYTES:
            raise LayerRefused("a sparse map is too long")
        block = blocks.exactly(BLOCK_BYTES)
        found += _pairs(block[:504])
        more = block[504]
    return _extents(found)


def _pairs(data: bytes) -> list[int]:
    numbers: list[int] = []
    for at in range(0, len(data), 24):
        if data[at] == 0:
            break
        numbers += [number(data[at : at + 12]), number(data[at + 12 : at + 24])]
    return numbers


def _extents(numbers: Sequence[int]) -> list[Extent]:
    if len(numbers) % 2:
        raise LayerRefused("a sparse map is broken")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def check_extents(extents: Sequence[Extent], size_bytes: int, stored_bytes: int) -> None:
    """Raise LayerRefused unless the extents rise, stay within the file, and add up to what is stored."""
    end = 0
    for offset, length in extents:
        if offset < end or length > size_bytes or offset > size_bytes - length:
            raise LayerRefused("a sparse map reaches beyond its file")
        end = offset + length
    if sum(length for _, length in extents) != stored_bytes:
        raise LayerRefused("a sparse map does not fit what is stored")


def number(field: bytes) -> int:
    """A header's number: octal digits between spaces and NULs, or GNU's base 256. Raises LayerRefused."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        bits = 8 * len(field) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    text = field.partition(b"\0")[0].strip(b" ") or field.strip(b" \0")
    if not text:
        return 0
    if text.translate(None, b"01234567"):
        raise LayerRefused("a header has a number that is none")
    return int(text, 8)


def read_record(blocks: Blocks, size_bytes: int) -> bytes:
    """An extension's bytes; raises LayerRefused when they are too many."""
    if not 0 <= size_bytes <= RECORDS_MAX_BYTES:
        raise LayerRefused(f"an extended header of {size_bytes} bytes: at most {RECORDS_MAX_BYTES} are read")
    data = blocks.exactly(size_bytes)
    blocks.skip(padding(size_bytes))
    return data
