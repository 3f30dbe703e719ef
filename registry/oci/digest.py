"""Digests: their grammar, and hashers whose running state can be saved as plain bytes and resumed.

Source: OCI image-spec, "Digests"; the registered algorithms are sha256 and sha512.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from registry.oci.errors import DigestInvalid, HytheError

_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+")
DEFAULT_ALGORITHM = "sha256"
ALGORITHMS = tuple(_HEX_LENGTH)


class Digest(str):
    """A well-formed digest of a supported algorithm, `sha256:<64 hex digits>`; equal to its text."""

    __slots__ = ()

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The hexadecimal digits."""
        return self.partition(":")[2]

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read *text*; raises DigestInvalid, which says whether the grammar or the algorithm is at fault."""
        if len(text) > 1024 or not _GRAMMAR.fullmatch(text):
            raise DigestInvalid("not a digest: 'algorithm:hex' is expected", {"digest": text[:200]})
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise DigestInvalid(
                f"digest algorithm {algorithm!r} is not supported; use {' or '.join(ALGORITHMS)}",
                {"digest": text[:200]},
            )
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise DigestInvalid(
                f"not a digest: {algorithm} has {length} lower-case hexadecimal digits",
                {"digest": text[:200]},
            )
        return cls(text)

    @classmethod
    def of(cls, data: bytes | memoryview, algorithm: str = DEFAULT_ALGORITHM) -> Digest:
        """The digest of *data*, in one call."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")


def is_digest(text: str) -> bool:
    """Whether *text* is meant as a digest: tags have no colon."""
    return ":" in text


class _Algorithm:
    """libcrypto's low-level functions for one algorithm; they work on a context of plain bytes."""

    def __init__(self, library: ctypes.CDLL, name: str, context_bytes: int, digest_bytes: int) -> None:
        self.context_bytes = context_bytes
        self.digest_bytes = digest_bytes
        prefix = name.upper()
        self.init = _function(library, f"{prefix}_Init", [ctypes.c_void_p])
        self.update = _function(library, f"{prefix}_Update", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t])
        self.final = _function(library, f"{prefix}_Final", [ctypes.c_void_p, ctypes.c_void_p])


def _function(library: ctypes.CDLL, name: str, arguments: list[Any]) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


def _libraries() -> Iterator[str | None]:
    """Where libcrypto may be: what Python itself is linked with first, then the system's, whose search is slow."""
    try:
        import _hashlib

        yield _hashlib.__file__
    except (ImportError, AttributeError):
        yield None
    yield from ("libcrypto.so.3", "libcrypto.so.1.1")
    import ctypes.util  # 6 ms, for machines where none of these is found

    yield ctypes.util.find_library("crypto")


@lru_cache(maxsize=1)
def _algorithms() -> dict[str, _Algorithm]:
    for path in _libraries():
        try:
            library = ctypes.CDLL(path)
            return {
                "sha256": _Algorithm(library, "sha256", 112, 32),
                "sha512": _Algorithm(library, "sha512", 216, 64),
            }
        except (OSError, AttributeError):
            continue
    raise HytheError("no libcrypto was found; install OpenSSL's library (Debian: libssl3)")


# The saved form: this byte, the algorithm's number, then libcrypto's context as it lies in memory.
_STATE_VERSION = 1 if sys.byteorder == "little" else 2
_STATE_NUMBER = {"sha256": 1, "sha512": 2}
_STATE_HEAD = struct.Struct("BB")


class Hasher:
    """A running digest. `update` releases the GIL; `state` is plain bytes that another process resumes.

    The saved state is what SHA-256 or SHA-512 needs to go on (chaining values, length, the last
    incomplete block), never pickled and never code.
    """

    __slots__ = ("_algorithm", "_context", "algorithm")

    def __init__(self, algorithm: str = DEFAULT_ALGORITHM) -> None:
        if algorithm not in _STATE_NUMBER:
            raise DigestInvalid(
                f"digest algorithm {algorithm[:40]!r} is not supported; use {' or '.join(ALGORITHMS)}"
            )
        self.algorithm = algorithm
        self._algorithm = _algorithms()[algorithm]
        self._context = ctypes.create_string_buffer(self._algorithm.context_bytes)
        self._algorithm.init(self._context)

    def update(self, data: bytes) -> None:
        """Take *data* in; about 2 GB/s."""
        self._algorithm.update(self._context, data, len(data))

    def digest(self) -> Digest:
        """The digest of what came so far; more may follow."""
        copy = ctypes.create_string_buffer(self._context.raw, self._algorithm.context_bytes)
        result = ctypes.create_string_buffer(self._algorithm.digest_bytes)
        self._algorithm.final(result, copy)
        return Digest(f"{self.algorithm}:{result.raw.hex()}")

    def state(self) -> bytes:
        """The running state: 114 bytes for sha256, 218 for sha512."""
        return _STATE_HEAD.pack(_STATE_VERSION, _STATE_NUMBER[self.algorithm]) + self._context.raw

    @classmethod
    def resume(cls, state: bytes) -> Hasher:
        """Go on from a saved *state*; raises ValueError for bytes that are no state of this kind of machine."""
        if len(state) < _STATE_HEAD.size:
            raise ValueError("hash state too short")
        version, number = _STATE_HEAD.unpack_from(state)
        names = [name for name, known in _STATE_NUMBER.items() if known == number]
        if version != _STATE_VERSION or not names:
            raise ValueError("hash state of an unknown version")
        hasher = cls(names[0])
        context = state[_STATE_HEAD.size :]
        if len(context) != hasher._algorithm.context_bytes or not hasher._is_sound(context):
            raise ValueError("hash state is damaged")
        ctypes.memmove(hasher._context, context, len(context))
        return hasher

    def _is_sound(self, context: bytes) -> bool:
        """Whether the numbers in a context fit together: libcrypto trusts them, we do not.

        It has the chaining values, the count of bits (its low word first), one block, the count of bytes in
        that block (an index into it), and the length of the digest.
        """
        chain = self._algorithm.digest_bytes
        word, block = chain // 8, chain * 2
        low_bits, pending, digest_bytes = (
            int.from_bytes(part, sys.byteorder)
            for part in (context[chain : chain + word], context[-8:-4], context[-4:])
        )
        return pending * 8 == low_bits % (block * 8) and digest_bytes == chain
