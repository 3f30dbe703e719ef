"""Archives of any kind, hostile ones too: entries as values, headers as bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class E:
    """One entry, taken as it is: no name is cleaned, no size checked."""

    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 1_700_000_000
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)

    def member(self) -> tarfile.TarInfo:
        """As tarfile has it."""
        made = tarfile.TarInfo(self.name)
        made.type, made.linkname, made.mode = self.kind, self.target, self.mode
        made.uid, made.gid, made.mtime = self.uid, self.gid, self.mtime
        made.devmajor, made.devminor = self.device
        made.size, made.pax_headers = len(self.data), dict(self.pax)
        return made


def d(name: str, mode: int = 0o755, **more: object) -> E:
    """A directory."""
    return E(name, tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def f(name: str, data: bytes = b"x", **more: object) -> E:
    """A file."""
    return E(name, data=data, **more)  # type: ignore[arg-type]


def s(name: str, target: str) -> E:
    """A symbolic link."""
    return E(name, tarfile.SYMTYPE, target=target, mode=0o777)


def h(name: str, target: str) -> E:
    """A hard link."""
    return E(name, tarfile.LNKTYPE, target=target)


def archive(entries: Iterable[E], format: Literal[0, 1, 2] = tarfile.PAX_FORMAT, end: bool = True) -> bytes:
    """The tar of *entries*; without its end marks if not *end*."""
    parts = []
    for entry in entries:
        head = entry.member().tobuf(format, "utf-8", "surrogateescape")
        parts.append(head + entry.data + b"\0" * (-len(entry.data) % 512))
    return b"".join(parts) + (b"\0" * 1024 if end else b"")


def header(name: bytes, kind: bytes = b"0", size: int | bytes = 0, target: bytes = b"", **fields: bytes) -> bytes:
    """One ustar header from bytes, its checksum right; *fields* replace `uid`, `mode`, `magic`, `prefix`."""
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    parts = [
        name.ljust(100, b"\0"),
        fields.get("mode", b"0000644\0"),
        fields.get("uid", b"0000000\0"),
        b"0000000\0",
        digits,
        b"14524770400\0",
        b" " * 8,
        kind,
        target.ljust(100, b"\0"),
        fields.get("magic", b"ustar\x0000"),
        b"\0" * 64,
        b"0000000\0" * 2,
        fields.get("prefix", b"").ljust(155, b"\0"),
        b"\0" * 12,
    ]
    block = b"".join(parts)
    assert len(block) == 512, len(block)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    """*data* up to a whole block."""
    return data + b"\0" * (-len(data) % 512)


def pax(records: Mapping[bytes, bytes]) -> bytes:
    """An extended header with these records."""
    body = b""
    for key, value in records.items():
        length = len(key) + len(value) + 3
        while len(b"%d" % length) + len(key) + len(value) + 3 != length:
            length = len(b"%d" % length) + len(key) + len(value) + 3
        body += b"%d %s=%s\n" % (length, key, value)
    return header(b"PaxHeaders/x", b"x", len(body)) + padded(body)


END = b"\0" * 1024


def as_file(data: bytes) -> io.BytesIO:
    """Something to read it from."""
    return io.BytesIO(data)
