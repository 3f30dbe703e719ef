"""Layers copied into one tree, where overlay cannot be mounted. Never by hard links: the copy is written to.

Every step is by descriptors and follows no link: a layer may have a directory where a lower one has a link.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from registry.client.images.unpack.removal import remove_tree
from registry.client.images.unpack.tree import is_whiteout
from registry.client.runtime.errors import ContainerError

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = ("user.overlay.opaque", "user.fuseoverlayfs.opaque")
_PIECE = 64 << 20

Links = dict[tuple[int, int], str]


def copy(layers: Sequence[Path], target: Path) -> None:
    """Copy *layers*, the lowest first, over one another into the empty directory *target*.

    Raises ContainerError for a tree that is too deep. Owners, modes, times, attributes and hard links are kept.
    """
    into = os.open(target, _OPEN_DIRECTORY)
    try:
        for layer in layers:
            fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # by its short link
            try:
                _merge(fd, into, into, "", {})
            finally:
                os.close(fd)
    except RecursionError:
        raise ContainerError(
            "the image has directories too deep to be copied; with overlay it would work"
        ) from None
    finally:
        os.close(into)


def _merge(source: int, target: int, root: int, path: str, links: Links) -> None:
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if is_whiteout(status):
            remove_tree(target, name)
        elif stat.S_ISDIR(status.st_mode):
            _directory(source, target, root, f"{path}{name}", name, links)
        else:
            remove_tree(target, name)
            _other(source, target, root, f"{path}{name}", name, status, links)
    _like(source, target)


def _directory(source: int, target: int, root: int, path: str, name: str, links: Links) -> None:
    inner = os.open(name, _OPEN_DIRECTORY, dir_fd=source)
    try:
        if _is_opaque(inner) or not _is_directory(target, name):
            remove_tree(target, name)
            os.mkdir(name, 0o700, dir_fd=target)
        there = os.open(name, _OPEN_DIRECTORY, dir_fd=target)
        try:
            _merge(inner, there, root, f"{path}/", links)
        finally:
            os.close(there)
    finally:
        os.close(inner)


def _is_opaque(fd: int) -> bool:
    return any(name in _OPAQUE for name in os.listxattr(fd))


def _is_directory(target: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _other(
    source: int, target: int, root: int, path: str, name: str, status: os.stat_result, links: Links
) -> None:
    first = links.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 else path
    if first != path:  # a layer's own tree has no link on the way to it, and has just made it here
        os.link(first, name, src_dir_fd=root, dst_dir_fd=target, follow_symlinks=False)
    elif stat.S_ISREG(status.st_mode):
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        made = os.open(name, _NEW_FILE, 0o600, dir_fd=target)
        try:
            while os.copy_file_range(opened, made, _PIECE):
                pass
            _like(opened, made)
        finally:
            os.close(opened)
            os.close(made)
    elif stat.S_ISLNK(status.st_mode) or stat.S_ISFIFO(status.st_mode):
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mkfifo(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _like(source: int, target: int) -> None:
    """Owner, mode, attributes and times; what overlay wrote for itself stays behind."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(("user.overlay.", "user.fuseoverlayfs.", "trusted.")):
            with contextlib.suppress(
                OSError
            ):  # as when a layer is unpacked: what this user cannot set is left out
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
