"""Directories of the tree that is being made, by descriptor: the only place where names become places.

Every step opens one name in an open directory with O_NOFOLLOW, so the kernel never walks through anything that
the archive made. A link on the way is read and followed here, inside the root: `..` of the root is the root, an
absolute target begins there. A path that was found once is kept open under its name without links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack.limits import PATH_MAX_BYTES
from registry.client.images.unpack.paths import join, shown, split
from registry.client.images.unpack.removal import remove_tree

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_MAX = 64
_LINKS_MAX = 40  # as the kernel has it
_STEPS_MAX = 8192  # of one walk: `a/../a/..` in a link's target is work as well


class Place(NamedTuple):
    """An open directory and its path in the root, which has no link in it."""

    fd: int
    path: bytes


class Missing(Exception):
    """Nothing is there that could be gone through: no name, or something that is no directory."""


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlay's mark of a deleted name: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class Tree:
    """The root and its open directories. *made* is told of every directory that comes into being.

    It is called with the path and whether a whiteout stood there before.
    """

    def __init__(self, root_fd: int, made: Callable[[bytes, bool], None]) -> None:
        self.root = Place(root_fd, b"")
        self._made = made
        self._open: dict[bytes, Place] = {b"": self.root}

    def close(self) -> None:
        """Close every directory but the root, which is the caller's."""
        for fd in {place.fd for place in self._open.values()} - {self.root.fd}:
            os.close(fd)
        self._open = {b"": self.root}

    def directory(self, path: bytes, create: bool = True) -> Place:
        """The directory *path* (clean); what is missing is made. Good until the next call of any method.

        Raises Missing without *create*, and LayerRefused where something else stands in the way.
        """
        found = self._open.get(path)
        if found is not None:
            return found
        parent, name = split(path)
        near = self._open.get(parent)
        place = self._step(near, name) if near is not None else None
        place = place or self._walk(path, create)
        if len(self._open) >= _OPEN_MAX:
            self.close()
        if place.path == b"":
            os.close(place.fd)
            place = self.root
        self._open[path] = place
        return place

    def _step(self, near: Place, name: bytes) -> Place | None:
        """The usual case: a directory in one that is open."""
        try:
            return Place(os.open(name, _STEP, dir_fd=near.fd), _child(near, name))
        except FileNotFoundError:
            return None
        except NotADirectoryError:  # a link, perhaps
            return None

    def _walk(self, path: bytes, create: bool) -> Place:
        """Go from the root, part by part, following links inside of the root. The result is a new descriptor."""
        here = Place(os.dup(self.root.fd), b"")
        waiting = [(part, create) for part in reversed(path.split(b"/"))]
        links = steps = 0
        try:
            while waiting:
                part, may_make = waiting.pop()
                steps += 1
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    here, steps = self._reopen(here, split(here.path)[0], steps)
                    continue
                target = self._link(here, part, may_make)
                if target is None:
                    here = _replace(here, Place(os.open(part, _STEP, dir_fd=here.fd), _child(here, part)))
                    continue
                links += 1
                if target.startswith(b"/"):
                    here, steps = self._reopen(here, b"", steps)
                waiting += [(step, False) for step in reversed(target.split(b"/"))]
                if links > _LINKS_MAX or steps > _STEPS_MAX:
                    raise LayerRefused(f"too many links on the way to {shown(path)}")
        except BaseException:
            os.close(here.fd)
            raise
        return here

    def _reopen(self, here: Place, path: bytes, steps: int) -> tuple[Place, int]:
        """Go from *here* to *path*, which was walked before and has no link in it."""
        new = Place(os.dup(self.root.fd), b"")
        try:
            for part in path.split(b"/") if path else ():
                new = _replace(new, Place(os.open(part, _STEP, dir_fd=new.fd), join(new.path, part)))
                steps += 1
        except BaseException:
            os.close(new.fd)
            raise
        return _replace(here, new), steps

    def _link(self, here: Place, part: bytes, create: bool) -> bytes | None:
        """The target of the link that *part* is; None when it is a directory, or has become one."""
        try:
            status = os.stat(part, dir_fd=here.fd, follow_symlinks=False)
        except FileNotFoundError:
            if not create:
                raise Missing from None
            os.mkdir(part, 0o700, dir_fd=here.fd)
            self._made(_child(here, part), False)
            return None
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(part, dir_fd=here.fd)
        if stat.S_ISDIR(status.st_mode):
            return None
        if not (create and is_whiteout(status)):
            raise Missing
        self._replace_whiteout(here, part)
        return None

    def _replace_whiteout(self, here: Place, name: bytes) -> None:
        os.unlink(name, dir_fd=here.fd)
        os.mkdir(name, 0o700, dir_fd=here.fd)
        self._made(join(here.path, name), True)

    def make(self, parent: Place, name: bytes) -> None:
        """See to it that *name* in *parent* is a directory; a file or link of that name goes."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return
            if is_whiteout(status):
                self._replace_whiteout(parent, name)
                return
            self.discard(parent, name)
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        self._made(join(parent.path, name), False)

    def discard(self, parent: Place, name: bytes) -> None:
        """Remove what has this name. *parent* stays open; every other directory has to be found anew."""
        self._open = {path: place for path, place in self._open.items() if place.fd != parent.fd}
        self.close()
        self._open[parent.path] = parent
        remove_tree(parent.fd, name)


def _child(near: Place, name: bytes) -> bytes:
    path = join(near.path, name)
    if len(path) > PATH_MAX_BYTES:
        raise LayerRefused(f"a path is too long: {shown(path)}")
    return path


def _replace(old: Place, new: Place) -> Place:
    os.close(old.fd)
    return new
