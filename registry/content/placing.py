"""A file's bytes under a second name: by reference, by a hard link, or copied; blocking.

By reference (btrfs, XFS) both names are independent. A hard link is one file with two names: that is safe as
long as nobody writes into it, which this store never does with a published blob, nor docker's registry with a
layer (docs/moving.md has the argument). Whatever else may be is copied, and hashed while it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from registry.content import disk
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import DigestInvalid

Temporary = Callable[[], AbstractContextManager[tuple[int, Path]]]

_PIECE_BYTES = 1 << 20


class How(StrEnum):
    """What became of bytes."""

    PRESENT = "present"  # they were there already
    CLONED = "cloned"
    LINKED = "linked"
    COPIED = "copied"
    WANTED = "wanted"  # a dry run would bring them


@dataclass(frozen=True, slots=True)
class Care:
    """How bytes are taken: whether hard links will do, and whether what is not copied is hashed too.

    A file that somebody else wrote to less than *young_seconds* ago may still be open for writing: it is copied.
    """

    link: bool = True
    verify: bool = False
    young_seconds: float = 3600.0


def place(source: Path, final: Path, digest: Digest, size_bytes: int, temporary: Temporary, care: Care) -> How:
    """Give *source* the name *final*, durably. *temporary* makes files beside it. Safe to repeat.

    Raises FileNotFoundError, and DigestInvalid when the bytes are not what *digest* and *size_bytes* say.
    """
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
            raise _wrong(digest, f"has {status.st_size} bytes instead of {size_bytes}")
        is_young = time.time() - status.st_mtime < care.young_seconds
        if care.link and not is_young:
            if care.verify:
                _require(digest, _pieces(fd))
            os.fsync(fd)
            if (how := _share(fd, source, final, temporary)) is not None:
                return how
        write(_pieces(fd), final, digest, temporary)
        return How.COPIED
    finally:
        os.close(fd)


def _share(fd: int, source: Path, final: Path, temporary: Temporary) -> How | None:
    """Publish the same bytes without copying them; None where that cannot be."""
    with temporary() as (target, path), disk.full_disk_is_an_answer():
        if disk.clone(fd, target):
            os.fsync(target)
            how = How.CLONED
        elif not source.is_symlink() and disk.link(source, path):
            how = How.LINKED
        else:
            return None
        disk.publish(path, final)
    return how


def write(pieces: Iterable[bytes], final: Path, digest: Digest, temporary: Temporary) -> int:
    """Make *final* of *pieces*, durably, and return its length. Raises DigestInvalid for other bytes."""
    size_bytes = 0
    with temporary() as (target, path), disk.full_disk_is_an_answer():
        hasher = Hasher(digest.algorithm)
        for piece in pieces:
            hasher.update(piece)
            size_bytes += disk.write_all(target, [piece])
        if hasher.digest() != digest:
            raise _wrong(digest, f"has the digest {hasher.digest()}")
        os.fsync(target)
        disk.publish(path, final)
    return size_bytes


def write_text(text: bytes, final: Path, temporary: Temporary) -> bool:
    """Make *final* a small file with this text, durably; False when it was that already."""
    with contextlib.suppress(FileNotFoundError):
        if final.read_bytes() == text:
            return False
    with temporary() as (target, path), disk.full_disk_is_an_answer():
        disk.write_all(target, [text])
        os.fsync(target)
        disk.publish(path, final)
    return True


def _pieces(fd: int) -> Iterable[bytes]:
    offset = 0
    while piece := os.pread(fd, _PIECE_BYTES, offset):
        offset += len(piece)
        yield piece


def _require(digest: Digest, pieces: Iterable[bytes]) -> None:
    hasher = Hasher(digest.algorithm)
    for piece in pieces:
        hasher.update(piece)
    if hasher.digest() != digest:
        raise _wrong(digest, f"has the digest {hasher.digest()}")


def _wrong(digest: Digest, what: str) -> DigestInvalid:
    return DigestInvalid(f"the file of {digest} {what}", {"digest": digest})
