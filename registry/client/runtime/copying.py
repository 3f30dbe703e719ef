"""`cp`: files out of a root and into one, as a stream of tar, every step by descriptors resolved in that root.

The two sides may be a container's root and this machine's file system, and each may change while it is walked.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO, cast

from registry.client.runtime import kernel
from registry.client.runtime.errors import ContainerError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_PLACE = os.O_PATH | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE,
}  # fmt: skip


class _Exact:
    """A file that has exactly the length that its header says, whatever happens to it meanwhile."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._left = fd, size

    def read(self, count: int) -> bytes:
        count = min(count, self._left)
        data = os.read(self._fd, count) if count else b""
        data = data or bytes(count)
        self._left -= len(data)
        return data


# --- out of a root


def pack(root_fd: int, path: str, target: BinaryIO, name: str, follow: bool = False) -> None:
    """Write *path* of a root as tar, under *name*. Raises ContainerError when there is nothing."""
    clean = path.rstrip("/") or "/"
    contents = path.endswith(("/.", "/")) or clean == "/"
    try:
        parent, _, last = clean.removesuffix("/.").rpartition("/")
        if contents or follow or last in ("..", ".", ""):
            fd = kernel.open_in(root_fd, clean, os.O_PATH)
            status = os.fstat(fd)
        else:
            folder = kernel.open_in(root_fd, parent, os.O_PATH | os.O_DIRECTORY)
            fd = kernel.open_in(folder, last, _PLACE)
            status = os.fstat(fd)
            os.close(folder)
    except FileNotFoundError:
        raise ContainerError(f"Could not find the file {path} in container") from None
    except OSError as error:
        raise ContainerError(f"{path}: {error.strerror}") from None
    if contents and not stat.S_ISDIR(status.st_mode):
        raise ContainerError(f"{path}: not a directory")
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _pack(tar, fd, status, name, {})
    target.flush()


def _pack(
    tar: tarfile.TarFile, fd: int, status: os.stat_result, name: str, links: dict[tuple[int, int], str]
) -> None:
    """Write what an O_PATH descriptor means, and close it."""
    try:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:  # a socket
            return
        member = _member(name, status, kind)
        if kind == tarfile.SYMTYPE:
            member.linkname = os.readlink("", dir_fd=fd)
        elif kind == tarfile.REGTYPE:
            first = links.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
            if first != name:
                member.type, member.linkname = tarfile.LNKTYPE, first
            else:
                member.size = status.st_size
                opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    tar.addfile(member, cast(BinaryIO, _Exact(opened, status.st_size)))
                finally:
                    os.close(opened)
                return
        tar.addfile(member)
        if kind == tarfile.DIRTYPE:
            _pack_children(tar, fd, name, links)
    finally:
        os.close(fd)


def _pack_children(tar: tarfile.TarFile, fd: int, name: str, links: dict[tuple[int, int], str]) -> None:
    listed = os.open(f"/proc/self/fd/{fd}", _DIRECTORY | os.O_CLOEXEC)
    try:
        for child in sorted(os.listdir(listed)):
            with contextlib.suppress(FileNotFoundError):
                inner = os.open(child, _PLACE | os.O_CLOEXEC, dir_fd=listed)
                _pack(tar, inner, os.fstat(inner), f"{name}/{child}" if name else child, links)
    finally:
        os.close(listed)


def _member(name: str, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name or ".")
    member.type = kind
    member.mode, member.mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns // 10**9
    member.uid, member.gid = status.st_uid, status.st_gid
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return member


# --- into a root

Owner = Callable[[tarfile.TarInfo], tuple[int, int]]


def destination(root_fd: int, path: str, name: str, is_directory: bool, contents: bool) -> tuple[str, str]:
    """Where a source goes: the directory, and its name there (empty: the source's contents go into it).

    docker's rules: into a directory that is there, else under the new name. Raises ContainerError.
    """
    wants_directory = path.endswith(("/", "/."))
    clean = path.removesuffix("/.").rstrip("/") or "/"
    try:
        fd = kernel.open_in(root_fd, clean, os.O_PATH)
        status: os.stat_result | None = os.fstat(fd)
        os.close(fd)
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise ContainerError(f"{path}: {error.strerror}") from None
    if status is not None and stat.S_ISDIR(status.st_mode):
        return (clean, "") if contents else (clean, name)
    if status is not None and is_directory:
        raise ContainerError(f"cannot copy a directory to a file: {path}")
    if wants_directory and not is_directory:
        raise ContainerError(f"no such directory: {path}")
    parent, _, last = clean.rpartition("/")
    return parent or "/", last


def unpack(source: BinaryIO, root_fd: int, directory: str, rename: str | None, owner: Owner) -> None:
    """Read tar into *directory* of a root. With *rename*, the archive's first name becomes that one.

    No entry leaves the root: names are cleaned, parents are opened inside of it, and what is there is replaced,
    never written through. Raises ContainerError.
    """
    try:
        base = kernel.open_in(root_fd, directory, _DIRECTORY)
    except FileNotFoundError:
        raise ContainerError(f"Could not find the file {directory} in container") from None
    top: str | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|*") as tar:
            for member in tar:
                name = _clean(member.name)
                first, _, rest = name.partition("/")
                if rename is not None:
                    top = first if top is None else top
                    name = "/".join(part for part in (rename, rest) if part) if first == top else name
                    if member.islnk():
                        linked_first, _, linked_rest = _clean(member.linkname).partition("/")
                        member.linkname = "/".join(
                            p for p in (rename if linked_first == top else linked_first, linked_rest) if p
                        )
                _place(tar, member, base, name, owner)
    except tarfile.TarError as error:
        raise ContainerError(f"this is no tar archive: {error}") from None
    finally:
        os.close(base)


def _clean(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ContainerError(f"a name leaves the archive: {name!r}")
    return "/".join(parts)


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, base: int, name: str, owner: Owner) -> None:
    parent, _, last = name.rpartition("/")
    if not last:
        return
    folder = kernel.open_in(base, parent, _DIRECTORY)
    try:
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(last, 0o700, dir_fd=folder)
            if not stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                raise ContainerError(f"cannot overwrite non-directory {name!r} with a directory")
        else:
            _remove(folder, last, name)
            _create(tar, member, base, folder, last)
        _own(member, folder, last, owner)
    except FileNotFoundError as error:
        raise ContainerError(f"{name}: {error.strerror}") from None
    finally:
        os.close(folder)


def _remove(folder: int, last: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            raise ContainerError(f"cannot overwrite directory {name!r} with a file")
        os.unlink(last, dir_fd=folder)


def _create(tar: tarfile.TarFile, member: tarfile.TarInfo, base: int, folder: int, last: str) -> None:
    if member.issym():
        os.symlink(member.linkname, last, dir_fd=folder)
    elif member.islnk():
        parent, _, other = _clean(member.linkname).rpartition("/")
        there = kernel.open_in(base, parent, _DIRECTORY)
        try:
            os.link(other, last, src_dir_fd=there, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(there)
    elif member.isreg():
        fd = os.open(
            last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        with os.fdopen(fd, "wb") as file:
            data = tar.extractfile(member)
            while data is not None and (piece := data.read(1 << 20)):
                file.write(piece)
    elif member.isfifo():
        os.mkfifo(last, 0o600, dir_fd=folder)
    elif member.isdev():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(last, 0o600 | kind, os.makedev(member.devmajor, member.devminor), dir_fd=folder)


def _own(member: tarfile.TarInfo, folder: int, last: str, owner: Owner) -> None:
    uid, gid = owner(member)
    os.chown(last, uid, gid, dir_fd=folder, follow_symlinks=False)
    if member.issym():
        return
    fd = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", member.mode & 0o7777)
            os.utime(f"/proc/self/fd/{fd}", (member.mtime, member.mtime))
    finally:
        os.close(fd)
