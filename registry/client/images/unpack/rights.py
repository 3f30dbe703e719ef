"""What this process may do to files, found out once for each layer: root, a user, a user namespace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_WHOLE_MAP = ["0", "0", "4294967295"]


@dataclass(frozen=True, slots=True)
class Rights:
    """*owners*: files can be given away; *devices*: they can be made; *opaque*: overlay's attribute for it.

    Of a user namespace's root, files can be given to the ids below *ids* only.
    A new file belongs to `uid`:`gid`, and permission bits outside of `plain_modes` need a call of their own.
    """

    owners: bool
    devices: bool
    opaque: str
    uid: int
    gid: int
    plain_modes: int
    ids: int = 1 << 32


def find(root_fd: int) -> Rights:
    """The rights of this process below an open, empty directory; a set-gid parent or a default ACL counts."""
    is_root = os.geteuid() == 0
    namespaced = not is_root or is_mapped()
    ids = mapped_ids() if namespaced else 1 << 32
    fd = os.open(
        ".probe", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o777, dir_fd=root_fd
    )
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
        os.unlink(".probe", dir_fd=root_fd)
    return Rights(
        owners=is_root and ids > 1,
        devices=not namespaced,
        opaque="user.overlay.opaque" if namespaced else "trusted.overlay.opaque",
        uid=status.st_uid,
        gid=status.st_gid,
        plain_modes=status.st_mode & 0o777,
        ids=ids if is_root and ids > 1 else 1 << 32,
    )


def mapped_ids() -> int:
    """How many ids, from 0 on, this process's user namespace has of both kinds. Source: user_namespaces(7)."""
    return min(first_ids("/proc/self/uid_map"), first_ids("/proc/self/gid_map"))


def first_ids(path: str) -> int:
    """The ids from 0 on, without a gap, of a map as /proc shows it."""
    end = 0
    for line in sorted(Path(path).read_text().splitlines(), key=lambda line: int(line.split()[0])):
        inside, _, count = map(int, line.split())
        end = end + count if inside == end else end
    return end


def is_mapped() -> bool:
    """Whether this process is root of a user namespace only."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != _WHOLE_MAP
    except OSError:
        return False
