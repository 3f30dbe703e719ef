"""Tar files as places to copy from: what is in them, found without unpacking, and read in place.

A stream, or a compressed archive, is first written to a temporary file.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from registry.oci.digest import Digest
from registry.oci.errors import HytheError
from registry.transfer.layout import read_range
from registry.transfer.target import Pieces

MEMBERS_MAX = 1_000_000
_LINKS_MAX = 8
_COPY_BYTES = 1 << 20
_MAGIC: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
# What tarfile raises for what it cannot read: headers upon headers end its recursion, one of 2 GB its memory.
_BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, OSError, RecursionError, MemoryError)
_ZSTD = b"\x28\xb5\x2f\xfd"


class ArchiveInvalid(HytheError):
    """A file that is no archive of images, or a broken one."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: where its bytes begin, and how many there are."""

    start: int
    size_bytes: int


class Archive:
    """An open tar; its files by name. Names are looked up, never written to: nothing in them can lead outside."""

    def __init__(self, file: IO[bytes], label: str) -> None:
        self._file = file
        self.label = label
        self._members: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        try:
            self._scan()
        except _BROKEN as error:
            file.close()
            raise ArchiveInvalid(f"{label}: not a tar archive, or a broken one: {error}") from None
        except BaseException:
            file.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Open the archive at *path*, which may be compressed. Raises ArchiveInvalid."""
        try:
            with path.open("rb") as file:
                return cls.read(file, str(path))
        except OSError as error:
            raise ArchiveInvalid(f"{path}: {error.strerror or error}") from None

    @classmethod
    def read(cls, file: IO[bytes], label: str) -> Archive:
        """Open an archive that comes as a stream."""
        return cls(_plain(file, label), label)

    def _scan(self) -> None:
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            for count, member in enumerate(tar):
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all, 1 KB each
                if count >= MEMBERS_MAX:
                    raise ArchiveInvalid(f"{self.label}: more than {MEMBERS_MAX} files")
                if member.size < 0:
                    raise ArchiveInvalid(f"{self.label}: a file in it has less than no bytes")
                name = _normal(member.name)
                if member.isreg() and not member.issparse():
                    self._members[name] = Member(member.offset_data, member.size)
                    self._links.pop(name, None)
                elif member.issym():
                    self._links[name] = _normal(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    self._links[name] = _normal(member.linkname)
        end = os.fstat(self._file.fileno()).st_size
        if any(member.start + member.size_bytes > end for member in self._members.values()):
            raise ArchiveInvalid(f"{self.label}: it ends in the middle of a file")

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> Member | None:
        """The file of that name; links inside of the archive are followed."""
        name = _normal(name)
        for _ in range(_LINKS_MAX):
            if name not in self._links:
                return self._members.get(name)
            name = self._links[name]
        return None

    def load(self, name: str, limit_bytes: int) -> bytes:
        """A small file, whole. Raises ArchiveInvalid."""
        member = self.find(name)
        if member is None:
            raise ArchiveInvalid(f"{self.label}: it has no {name}")
        if member.size_bytes > limit_bytes:
            raise ArchiveInvalid(f"{self.label}: {name} is larger than {limit_bytes} bytes")
        return os.pread(self._file.fileno(), member.size_bytes, member.start)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The bytes of a file. Blocks."""
        position, end = member.start, member.start + member.size_bytes
        while position < end:
            piece = os.pread(self._file.fileno(), min(_COPY_BYTES, end - position), position)
            if not piece:
                raise ArchiveInvalid(f"{self.label}: it ends in the middle of a file")
            position += len(piece)
            yield piece

    def digest(self, member: Member) -> Digest:
        """The digest of a file's bytes. Blocks."""
        running = hashlib.sha256()
        for piece in self.chunks(member):
            running.update(piece)
        return Digest(f"sha256:{running.hexdigest()}")

    async def pieces(self, member: Member, start: int) -> Pieces:
        """The bytes of a file from *start* on."""
        end = member.start + member.size_bytes
        async with aclosing(read_range(self._file.fileno(), member.start + start, end)) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def _normal(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


def _plain(file: IO[bytes], label: str) -> IO[bytes]:
    """A file of an uncompressed tar that can be read anywhere, the caller's to close; *file* stays open."""
    if file.seekable():
        spooled = None
    else:
        spooled = file = _spool(file, label)
    try:
        head = file.read(8)
        file.seek(0)
        opener = next((each for magic, each in _MAGIC.items() if head.startswith(magic)), None)
        if head.startswith(_ZSTD):
            raise ArchiveInvalid(f"{label}: compressed with zstd; decompress it first (zstd -d)")
        if opener is None:
            found = os.fdopen(os.dup(file.fileno()), "rb") if spooled is None else spooled
            found.seek(0)
            spooled = None
            return found
        with opener(file, "rb") as inflated:
            return _spool(cast(IO[bytes], inflated), label)
    finally:
        if spooled is not None:
            spooled.close()


def _spool(source: IO[bytes], label: str) -> IO[bytes]:
    """All of *source* in a temporary file."""
    target = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 (it is handed on)
    try:
        _copy(source, target, label)
        target.seek(0)
    except BaseException:
        target.close()
        raise
    return target


def _copy(source: IO[bytes], target: IO[bytes], label: str) -> None:
    try:
        while piece := source.read(_COPY_BYTES):
            target.write(piece)
        target.flush()
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ArchiveInvalid(f"{label}: its compression is broken: {error}") from None
    except OSError as error:
        raise ArchiveInvalid(f"{label}: cannot be read into a temporary file: {error.strerror or error}") from None
