"""What this process may do to files, found out once for each layer: root, a user, a user namespace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_WHOLE_MAP = ["0", "0", "4294967295"]


@dataclass(frozen=True, slots=True)
class Rights:
    """*owners*: files can be given away; *devices*: they can be made; *opaque*: overlay's attribute for it.

    A new file belongs to `uid`:`gid`, and permission bits outside of `plain_modes` need a call of their own.
    """

    owners: bool
    devices: bool
    opaque: str
    uid: int
    gid: int
    plain_modes: int


def find(root_fd: int) -> Rights:
    """The rights of this process below an open, empty directory; a set-gid parent or a default ACL counts."""
    is_root = os.geteuid() == 0
    namespaced = not is_root or _is_mapped()
    fd = os.open(
        ".probe", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o777, dir_fd=root_fd
    )
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
        os.unlink(".probe", dir_fd=root_fd)
    return Rights(
        owners=is_root,
        devices=not namespaced,
        opaque="user.overlay.opaque" if namespaced else "trusted.overlay.opaque",
        uid=status.st_uid,
        gid=status.st_gid,
        plain_modes=status.st_mode & 0o777,
    )


def _is_mapped() -> bool:
    """Whether this process is root of a user namespace only."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != _WHOLE_MAP
    except OSError:
        return False
