"""`diff`: what a container changed: A what is new, C what is other than in the image, D what is gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from registry.client.images.unpack.tree import is_whiteout


def changes(upper: str, lowers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Kind and path of each change, sorted by path; *lowers* are the image's layers, the uppermost first."""
    yield from _below(upper, lowers, "")


def _below(upper: str, lowers: Sequence[str], path: str) -> Iterator[tuple[str, str]]:
    try:
        names = sorted(os.listdir(upper + path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        inner = f"{path}/{name}"
        try:
            status = os.lstat(upper + inner)
        except FileNotFoundError:
            continue
        if is_whiteout(status):
            yield "D", inner
            continue
        yield ("C" if _is_there(lowers, inner) else "A"), inner
        if stat.S_ISDIR(status.st_mode):
            yield from _below(upper, lowers, inner)


def _is_there(lowers: Sequence[str], path: str) -> bool:
    return _lowest_seen(lowers, path) is not None


def _lowest_seen(lowers: Sequence[str], path: str) -> str | None:
    """Where the image has this path: some layer has it, and none above hides it."""
    for lower in lowers:
        at = lower
        for part in path.strip("/").split("/"):
            above, at = at, f"{at}/{part}"
            try:
                status = os.lstat(at)
            except (FileNotFoundError, NotADirectoryError):
                if _is_opaque(above):
                    return None
                break
            if is_whiteout(status):
                return None
        else:
            return at
    return None


def _is_opaque(path: str) -> bool:
    """Whether a layer's directory hides what those below it have there; also what is no directory at all does."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return False
    return any(name.endswith(".overlay.opaque") for name in names) or not os.path.isdir(path)


def of_copy(whole: str, lowers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The same of a container that has a copy of everything: what differs from the image's layers."""
    yield from _compared(whole, lowers, "")


def _compared(whole: str, lowers: Sequence[str], path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    here = set(os.listdir(whole + path))
    for name in sorted(here | _names(lowers, path)):
        inner = f"{path}/{name}"
        there = _lowest_seen(lowers, inner)
        if name not in here:
            found += [("D", inner)] if there is not None else []
            continue
        status = os.lstat(whole + inner)
        below = _compared(whole, lowers, inner) if stat.S_ISDIR(status.st_mode) else []
        if there is None:
            found.append(("A", inner))
        elif below or _traits(whole + inner, status) != _traits(there, os.lstat(there)):
            found.append(("C", inner))
        found += below
    return found


def _names(lowers: Sequence[str], path: str) -> set[str]:
    found: set[str] = set()
    for lower in lowers:
        if os.path.isdir(lower + path) and not os.path.islink(lower + path):
            found.update(os.listdir(lower + path))
    return found


def _traits(path: str, status: os.stat_result) -> tuple[object, ...]:
    """What tells one version of a file from another; a directory's time says only that a name came or went."""
    kind = stat.S_IFMT(status.st_mode)
    content: object = (status.st_size, status.st_mtime_ns) if stat.S_ISREG(kind) else None
    if stat.S_ISLNK(kind):
        content = os.readlink(path)
    return status.st_mode, status.st_uid, status.st_gid, content
