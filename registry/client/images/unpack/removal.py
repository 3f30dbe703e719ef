"""Removing a tree that a stranger shaped: no recursion, no path longer than one name, no link followed."""

from __future__ import annotations

import contextlib
import os
from itertools import count

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent_fd: int, name: bytes | str) -> None:
    """Remove *name* in the open directory, whatever it is; nothing there is fine.

    A directory's subdirectories are first moved up beside it and then removed one by one, so that neither depth
    nor the number of open files grows with the tree.
    """
    top = os.fsencode(name)
    try:
        os.unlink(top, dir_fd=parent_fd)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass  # a directory, as EISDIR or EPERM says
    serial = count()
    waiting = [top]
    while waiting:
        here = waiting.pop()
        waiting += _empty(parent_fd, here, top, serial)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(here, dir_fd=parent_fd)


def _empty(parent_fd: int, name: bytes, top: bytes, serial: count[int]) -> list[bytes]:
    """Unlink the files in a directory and move its subdirectories up; their new names."""
    try:
        fd = _open(parent_fd, name)
    except FileNotFoundError:
        return []
    moved: list[bytes] = []
    try:
        for entry in os.listdir(fd):
            child = os.fsencode(entry)
            try:
                os.unlink(child, dir_fd=fd)
            except FileNotFoundError:
                continue
            except OSError:
                with contextlib.suppress(FileNotFoundError):  # another removes the same tree
                    moved.append(_move_up(fd, child, parent_fd, top, serial))
    finally:
        os.close(fd)
    return moved


def _move_up(fd: int, child: bytes, parent_fd: int, top: bytes, serial: count[int]) -> bytes:
    while True:
        name = b".gone-%d-%d-%s" % (os.getpid(), next(serial), top[-64:])
        try:
            os.rename(child, name, src_dir_fd=fd, dst_dir_fd=parent_fd)
            return name
        except FileExistsError:
            continue
        except FileNotFoundError:
            raise
        except OSError:
            _unlock(fd, child)
            os.rename(child, name, src_dir_fd=fd, dst_dir_fd=parent_fd)
            return name


def _open(parent_fd: int, name: bytes) -> int:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except PermissionError:  # without root's rights, a directory of mode 0
        _unlock(parent_fd, name)
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        with contextlib.suppress(OSError):
            os.fchmod(fd, 0o700)
    return fd


def _unlock(parent_fd: int, name: bytes) -> None:
    """Make a directory ours to change; the name was just seen to be no link."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
