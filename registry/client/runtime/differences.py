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
    """Whether the image has this path: some layer has it, and none above hides it."""
    for lower in lowers:
        at = lower
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            try:
                status = os.lstat(at)
            except (FileNotFoundError, NotADirectoryError):
                break
            if is_whiteout(status):
                return False
        else:
            return True
    return False
