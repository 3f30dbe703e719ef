"""A directory tree as plain data, to the last attribute, so that two can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

Tree = dict[str, dict[str, Any]]
_OVERLAY = ("trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid")


def snapshot(root: Path, *, implied_times: bool = True) -> Tree:
    """Every name below *root* (itself as `.`) with type, mode, owner, time, bytes, target, device, attributes and
    which names are one file. Without *implied_times*, directories have no time."""
    found: Tree = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted([root, *root.rglob("*")], key=str):
        name = str(path.relative_to(root))
        status = path.lstat()
        facts: dict[str, Any] = {
            "mode": oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if key not in _OVERLAY
            },
        }
        if stat.S_ISREG(status.st_mode):
            facts["size"] = status.st_size
            facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            facts["target"] = os.readlink(path)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            facts["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
        elif stat.S_ISDIR(status.st_mode) and not implied_times:
            facts.pop("mtime")
        if not stat.S_ISDIR(status.st_mode):
            facts["same_as"] = first.setdefault((status.st_dev, status.st_ino), name)
        found[name] = facts
    return found
