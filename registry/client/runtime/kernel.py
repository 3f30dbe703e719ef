"""The system calls that Python's library lacks: mounts, namespaces, and opening a path inside of a root.

Every function raises OSError as `os` does. Source: mount(2), unshare(2), setns(2), openat2(2).
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE, MS_PRIVATE = 4096, 16384, 1 << 19, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_OPENAT2 = 437  # the same on every architecture

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, path: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """Mount; *data* is the file system's options."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else os.fsencode(data)
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), options), target)


def unmount(target: str) -> None:
    """Take a mount out of sight at once; it goes when nobody uses it."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def unshare(flags: int) -> None:
    """Give this process namespaces of its own."""
    _check(_libc.unshare(flags))


def enter(fd: int, kind: int) -> None:
    """Go into the namespace that is open as *fd*."""
    _check(_libc.setns(fd, kind))


def private_mounts() -> None:
    """Give this process a mount namespace of its own: the machine's mounts come in, none of ours goes out."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_SLAVE)


def open_in(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open *path* as a process would whose root directory is *root_fd*: no link leads out, and none of /proc's."""
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    text = os.fsencode(path).lstrip(b"/") or b"."
    return _check(_libc.syscall(_OPENAT2, root_fd, text, ctypes.byref(how), ctypes.sizeof(how)), path)
