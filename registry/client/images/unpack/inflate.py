"""From a compressed stream to pieces of a tar, with both digests: this runs in a thread of its own.

Inflating and hashing leave the interpreter's lock, so this thread and the one that writes files overlap.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
from collections.abc import Callable, Iterator
from typing import Protocol

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack.limits import Limits
from registry.oci.digest import DEFAULT_ALGORITHM, Digest

READ_BYTES = 1 << 18
PIECE_BYTES = 1 << 19
_MEMORY_MAX_BYTES = 128 << 20  # of xz's dictionary; `xz -9` asks for 65 MiB
_WINDOW_LOG_MAX = 27  # zstd: 128 MiB, what its own command line accepts


class Reader(Protocol):
    """Where compressed bytes come from; may block until more are there."""

    def read(self, size_bytes: int, /) -> bytes:
        """Up to *size_bytes*; empty at the end."""
        ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _gzip() -> _Decompressor:
    from isal import igzip_lib

    made: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return made


def _zstd() -> _Decompressor:
    from backports import zstd

    options: dict[int, int] = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG_MAX}
    made: _Decompressor = zstd.ZstdDecompressor(options=options)
    return made


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=_MEMORY_MAX_BYTES)


def _bzip2() -> _Decompressor:
    return bz2.BZ2Decompressor()


def kind_of(head: bytes) -> str:
    """The compression by the first bytes, never by the media type, as docker does: `""` for none."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return "bzip2" if head.startswith(b"BZh") else ""


_MAKERS: dict[str, Callable[[], _Decompressor]] = {"gzip": _gzip, "zstd": _zstd, "xz": _xz, "bzip2": _bzip2}


class Inflater:
    """Iterate for pieces of at most 512 KiB; afterwards the digests and sizes are those of the whole streams."""

    def __init__(self, source: Reader, limits: Limits, algorithm: str = DEFAULT_ALGORITHM) -> None:
        self._source = source
        self._limits = limits
        self._packed = hashlib.new(algorithm)
        self._unpacked = hashlib.sha256()
        self.packed_bytes = 0
        self.unpacked_bytes = 0

    @property
    def digest(self) -> Digest:
        """Of the bytes as they came, by the chosen algorithm."""
        return Digest(f"{self._packed.name}:{self._packed.hexdigest()}")

    @property
    def diff_id(self) -> Digest:
        """Of the archive inside."""
        return Digest(f"sha256:{self._unpacked.hexdigest()}")

    def __iter__(self) -> Iterator[bytes]:
        """Raises LayerRefused for a damaged stream and beyond the limits."""
        try:
            for piece in self._pieces():
                self._unpacked.update(piece)
                self.unpacked_bytes += len(piece)
                self._hold_limits()
                yield piece
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise LayerRefused(f"the compressed layer is damaged: {error}") from None
        except Exception as error:
            if type(error).__name__ in ("IsalError", "ZstdError", "error"):  # named without an import of either
                raise LayerRefused(f"the compressed layer is damaged: {error}") from None
            raise

    def _hold_limits(self) -> None:
        limits = self._limits
        if self.unpacked_bytes > limits.unpacked_bytes:
            raise LayerRefused(f"the layer unpacks to more than {limits.unpacked_bytes} bytes")
        if self.unpacked_bytes > max(limits.ratio_from_bytes, self.packed_bytes * limits.ratio):
            raise LayerRefused(
                f"the layer unpacks to more than {limits.ratio} times its size: {self.packed_bytes} bytes "
                f"made {self.unpacked_bytes} already"
            )

    def _read(self) -> bytes:
        data = self._source.read(READ_BYTES)
        self._packed.update(data)
        self.packed_bytes += len(data)
        return data

    def _pieces(self) -> Iterator[bytes]:
        head = self._read()
        while 0 < len(head) < 6 and (more := self._read()):
            head += more
        make = _MAKERS.get(kind_of(head))
        if make is not None:
            yield from self._members(make, kind_of(head), head)
            return
        while head:
            yield head
            head = self._read()

    def _members(self, make: Callable[[], _Decompressor], kind: str, data: bytes) -> Iterator[bytes]:
        """Every member of a stream of several; only zeros may follow the last, as tapes pad with them."""
        while True:
            member = make()
            piece = member.decompress(data, PIECE_BYTES)
            while not member.eof:
                if piece:
                    yield piece
                data = self._read() if member.needs_input else b""
                if member.needs_input and not data:
                    raise LayerRefused("the compressed layer ends too early")
                piece = member.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = member.unused_data or self._read()
            while 0 < len(data) < 6 and (more := self._read()):
                data += more
            if kind_of(data) != kind:
                self._only_zeros(data)
                return

    def _only_zeros(self, data: bytes) -> None:
        while data:
            if data.strip(b"\0"):
                raise LayerRefused("something else follows the compressed layer")
            data = self._read()
