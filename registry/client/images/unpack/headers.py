"""The entries of a tar, one after another, as values; what is ambiguous is read as docker's reader does.

Source: POSIX.1-2017 pax (ustar and its extensions), GNU tar's long names and sparse files, Go's archive/tar.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from zlib import adler32

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack import records
from registry.client.images.unpack.blocks import BLOCK_BYTES, Blocks, padding
from registry.client.images.unpack.limits import EXTENSIONS_MAX, Limits
from registry.client.images.unpack.records import Extent, Records

FILE, LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {
    b"\0": FILE, b"7": FILE, b"S": FILE,
    **{kind: kind for kind in (FILE, LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO)},
}  # fmt: skip
_EXTENDED, _GLOBAL, _LONG_NAME, _LONG_TARGET, _VOLUME = b"x", b"g", b"L", b"K", b"V"
_XATTR = b"SCHILY.xattr."

#  name, mode, uid, gid, size, mtime, checksum, type, target, magic, version, uname, gname, major, minor, prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_ID_MAX = (1 << 32) - 2  # the one above means "leave as it is" to chown
_SIZE_MAX = 1 << 62


@dataclass(slots=True)
class Member:
    """One entry. `size_bytes` are the stored bytes that follow; a sparse file's length is `length_bytes`."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    extents: list[Extent] | None = None
    length_bytes: int = 0


def members(blocks: Blocks, limits: Limits) -> Iterator[Member]:
    """The entries up to the end of the archive. The caller reads a file's bytes before it asks for the next one;
    what it leaves is not skipped. Raises LayerRefused."""
    reader = _Reader(blocks)
    for count in range(limits.entries + 1):
        member = reader.next()
        if member is None:
            return
        if count == limits.entries:
            break
        yield member
    raise LayerRefused(f"the layer has more than {limits.entries} entries")


class _Reader:
    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._numbers: dict[bytes, int] = {}

    def next(self) -> Member | None:
        pax: Records = {}
        long: dict[bytes, bytes] = {}
        for _ in range(EXTENSIONS_MAX):
            block = self._header()
            if not block:
                return None
            kind = block[156:157]
            if kind in _KINDS:
                return self._member(block, kind, pax, long)
            data = records.read_record(self._blocks, self._number(block[124:136]))
            if kind == _EXTENDED:
                pax = records.parse(data)
            elif kind in (_LONG_NAME, _LONG_TARGET):
                long[kind] = data.partition(b"\0")[0]
            elif kind not in (_GLOBAL, _VOLUME):  # both say nothing of one entry
                raise LayerRefused(f"the layer has an entry of the unknown type {kind.decode('latin-1')!r}")
        raise LayerRefused("too many extended headers before one entry")

    def _header(self) -> bytes:
        """The next header, verified; empty at the end, which is two blocks of zeros or the end of the stream."""
        block = self._blocks.block()
        if not block:
            return b""
        if not block[0] and not block.strip(b"\0"):
            after = self._blocks.block()
            if after.strip(b"\0"):
                raise LayerRefused("something stands between the end marks of the archive")
            return b""
        checksum = self._number(block[148:156])
        unsigned = _sum(block) - sum(block[148:156]) + 256
        if checksum != unsigned:
            signed = unsigned - 256 * sum(1 for at, byte in enumerate(block) if byte > 127 and not 148 <= at < 156)
            if checksum != signed:
                raise LayerRefused("a header's checksum is wrong: this is no tar, or it is damaged")
        return block

    def _number(self, text: bytes) -> int:
        value = self._numbers.get(text)
        if value is None:
            if len(self._numbers) > 4096:
                self._numbers.clear()
            value = self._numbers[text] = records.number(text)
        return value

    def _member(self, block: bytes, kind: bytes, pax: Records, long: dict[bytes, bytes]) -> Member:
        (name, mode, uid, gid, size, mtime, _, _, target, magic, version, _, _, major, minor, prefix) = (
            _HEADER.unpack(block)
        )
        number = self._number
        name = name.partition(b"\0")[0]
        if (magic == b"ustar\0" and version == b"00") or block[508:512] == b"tar\0":
            prefix = (prefix[:131] if block[508:512] == b"tar\0" else prefix).partition(b"\0")[0]
            name = prefix + b"/" + name if prefix else name
        member = Member(
            name, _KINDS[kind], number(mode) & 0o7777, number(uid), number(gid), number(size),
            number(mtime) * 10**9, target.partition(b"\0")[0],
        )  # fmt: skip
        if member.kind in (CHARACTER, BLOCK):
            member.device = (number(major), number(minor))
        if pax:
            self._extend(member, pax)
        if long:
            member.name = long.get(_LONG_NAME) or member.name
            member.target = long.get(_LONG_TARGET) or member.target
        self._settle(member, kind)
        if kind == b"S":
            self._sparse(member, records.old_sparse_map(block, self._blocks), number(block[483:495]))
        elif pax and member.kind == FILE and records.is_sparse(pax):
            extents, used = records.sparse_map(pax, self._blocks, member.size_bytes)
            member.size_bytes -= used
            text = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size") or b""
            member.name = pax.get(b"GNU.sparse.name") or member.name
            self._sparse(member, extents, records.decimal(text, "sparse size"))
        return member

    def _extend(self, member: Member, pax: Records) -> None:
        """What an extended header says goes before what the header says; an empty value says nothing."""
        member.name = pax.get(b"path") or member.name
        member.target = pax.get(b"linkpath") or member.target
        if text := pax.get(b"size"):
            member.size_bytes = records.decimal(text, "size")
        if text := pax.get(b"uid"):
            member.uid = records.decimal(text, "uid")
        if text := pax.get(b"gid"):
            member.gid = records.decimal(text, "gid")
        if text := pax.get(b"mtime"):
            member.mtime_ns = records.nanoseconds(text)
        for key, value in pax.items():
            if key.startswith(_XATTR):
                member.xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value

    def _settle(self, member: Member, kind: bytes) -> None:
        """Refuse what no file can have, and give what has no bytes none."""
        if kind == b"\0" and member.name.endswith(b"/"):
            member.kind = DIRECTORY  # as archives from before POSIX say it
        if not 0 <= member.size_bytes <= _SIZE_MAX:
            raise LayerRefused(f"an entry has {member.size_bytes} bytes")
        if member.kind != FILE:
            member.size_bytes = 0
        if not (0 <= member.uid <= _ID_MAX and 0 <= member.gid <= _ID_MAX):
            raise LayerRefused(f"an entry has the owner {member.uid}:{member.gid}")
        if b"\0" in member.name or b"\0" in member.target:
            raise LayerRefused("an entry's name has a NUL in it")
        if abs(member.mtime_ns) > 10**9 << 40:
            member.mtime_ns = 0
        member.length_bytes = member.size_bytes

    def _sparse(self, member: Member, extents: list[Extent], length_bytes: int) -> None:
        if not 0 <= length_bytes <= _SIZE_MAX:
            raise LayerRefused(f"a sparse file has {length_bytes} bytes")
        records.check_extents(extents, length_bytes, member.size_bytes)
        member.extents, member.length_bytes = extents, length_bytes


def _sum(block: bytes) -> int:
    """The sum of a block's bytes. Half of adler32 is the sum plus 1, modulo 65,521: 256 bytes stay below."""
    return (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2


def left_over(member: Member) -> int:
    """The padding after a member's bytes."""
    return padding(member.size_bytes)


assert _HEADER.size == BLOCK_BYTES
