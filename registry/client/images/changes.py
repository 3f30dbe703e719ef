"""A directory made into a layer, for `diff`, `commit` and builds. The same tree gives the same bytes.

The directory is an upper directory of overlay: devices 0:0 become `.wh.NAME`, an opaque directory its entry and
`.wh..wh..opq` if a lower layer has the directory. It may be a running container's, so every step is by descriptor
and follows no link.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.client.images.unpack.tree import is_whiteout

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_DROPPED = ("trusted.", "user.overlay.", "security.selinux", "security.ima", "security.evm")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ_BYTES = 1 << 20
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


@dataclass(slots=True)
class _Walk:
    lowers: Sequence[Path]
    max_time_ns: int | None
    links: dict[tuple[int, int], str] = field(default_factory=dict)


def tar_of(upper: Path, lowers: Sequence[Path] = (), max_time_ns: int | None = None) -> Iterator[bytes]:
    """The layer's tar, in pieces: names sorted, times to the nanosecond, hard links kept, sockets left out.

    *lowers* are the layers below. With *max_time_ns* (SOURCE_DATE_EPOCH) later times are set back to it.
    """
    walk = _Walk(lowers, max_time_ns)
    fd = os.open(upper, _DIRECTORY)
    try:
        yield from _directory(walk, fd, "")
    finally:
        os.close(fd)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _directory(walk: _Walk, fd: int, path: str) -> Iterator[bytes]:
    for name in sorted(os.listdir(fd), key=os.fsencode):
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:  # the container has just removed it
            continue
        inner = f"{path}/{name}" if path else name
        if is_whiteout(status):
            yield _header(walk, _member(f"{path}/.wh.{name}" if path else f".wh.{name}", status, whiteout=True))
        elif stat.S_ISDIR(status.st_mode):
            yield from _subdirectory(walk, fd, name, inner)
        elif stat.S_ISREG(status.st_mode):
            yield from _file(walk, fd, name, inner)
        elif stat.S_IFMT(status.st_mode) in _KINDS:
            member = _linked(walk, inner, status)
            if member.type == tarfile.SYMTYPE:
                member.linkname = os.readlink(name, dir_fd=fd)
            yield _header(walk, member)


def _subdirectory(walk: _Walk, fd: int, name: str, path: str) -> Iterator[bytes]:
    try:
        inner = os.open(name, _DIRECTORY, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        status = os.fstat(inner)
        yield _header(walk, _member(path, status), _xattrs(inner))
        names = os.listxattr(inner)
        if any(each in names for each in _OPAQUE) and any(_has(lower, path) for lower in walk.lowers):
            yield _header(walk, _member(f"{path}/.wh..wh..opq", status, whiteout=True))
        yield from _directory(walk, inner, path)
    finally:
        os.close(inner)


def _file(walk: _Walk, fd: int, name: str, path: str) -> Iterator[bytes]:
    try:
        file = os.open(name, _FILE, dir_fd=fd)
    except OSError:  # replaced since it was looked at
        return
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return
        member = _linked(walk, path, status)
        if member.type != tarfile.REGTYPE:
            yield _header(walk, member)
            return
        member.size = status.st_size
        yield _header(walk, member, _xattrs(file))
        left = member.size
        while left:
            # A file that shrinks meanwhile is filled up: the header has said its length.
            piece = os.read(file, min(_READ_BYTES, left)) or bytes(min(_READ_BYTES, left))
            left -= len(piece)
            yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    finally:
        os.close(file)


def _linked(walk: _Walk, path: str, status: os.stat_result) -> tarfile.TarInfo:
    """The entry of a file; a second name of one that was written is a hard link to the first."""
    member = _member(path, status)
    if status.st_nlink > 1:
        first = walk.links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            member.type, member.linkname = tarfile.LNKTYPE, first
    return member


def _member(path: str, status: os.stat_result, whiteout: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mtime = status.st_mtime_ns // 10**9
    member.pax_headers = {"mtime": _time(status.st_mtime_ns)} if status.st_mtime_ns % 10**9 else {}
    if whiteout:
        member.mtime, member.pax_headers, member.mode = 0, {}, 0o600
        return member
    member.type = _KINDS[stat.S_IFMT(status.st_mode)]
    member.mode, member.uid, member.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return member


def _time(nanoseconds: int) -> str:
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    return f"{sign}{value // 10**9}.{value % 10**9:09d}"


def _xattrs(fd: int) -> dict[str, str]:
    """What a layer keeps: capabilities, ACLs and a user's own; never overlay's or a security module's."""
    found = {}
    for name in sorted(os.listxattr(fd)):
        if not name.startswith(_DROPPED):
            with contextlib.suppress(OSError):
                found[f"SCHILY.xattr.{name}"] = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
    return found


def _header(walk: _Walk, member: tarfile.TarInfo, xattrs: dict[str, str] | None = None) -> bytes:
    if walk.max_time_ns is not None and member.mtime * 10**9 >= walk.max_time_ns:
        member.mtime = walk.max_time_ns // 10**9
        member.pax_headers = {}
    if xattrs:
        member.pax_headers = {**member.pax_headers, **xattrs}
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _has(lower: Path, path: str) -> bool:
    """Whether a layer has this directory; a link on the way is no way."""
    fd = os.open(lower, _DIRECTORY)
    try:
        for part in path.split("/"):
            inner = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
