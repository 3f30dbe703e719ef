"""Entries into files: unlink, then create exclusively; owner, mode, attributes, times, through the descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack import headers, paths
from registry.client.images.unpack.blocks import Blocks
from registry.client.images.unpack.headers import Member
from registry.client.images.unpack.limits import NAME_MAX_BYTES, Limits
from registry.client.images.unpack.rights import Rights
from registry.client.images.unpack.tree import Missing, Place, Tree, is_whiteout

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # what aufs kept for itself: links, no content

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL_BITS = 0o7000
_IMPLIED_MODE = 0o755
_XATTRS = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_OVERLAYS = ("user.overlay.", "user.fuseoverlayfs.", "user.containers.")  # by which layers are put together
_NO_ATTRIBUTE = {errno.EINVAL, errno.E2BIG, errno.ERANGE}
_NOT_HERE = {errno.ENOTSUP, errno.EPERM, errno.EACCES}


@dataclass(slots=True)
class _Directory:
    """What a directory is given at the end, when nothing more is written into it; None: the archive has none."""

    member: Member | None = None
    opaque: bool = False


class Writer:
    """Puts entries into the tree below *root_fd*, which is empty and nobody else's."""

    def __init__(self, root_fd: int, rights: Rights, limits: Limits) -> None:
        self._rights = rights
        self._limits = limits
        self._directories: dict[bytes, _Directory] = {b"": _Directory()}
        self._tree = Tree(root_fd, self._made)
        self._directories_bytes = 0
        self.length_bytes = 0
        self.skipped_devices = 0

    def close(self) -> None:
        """Let go of the open directories."""
        self._tree.close()

    def _made(self, path: bytes, was_deleted: bool) -> None:
        if path not in self._directories:
            self._directories_bytes += len(path)
            if len(self._directories) > self._limits.entries:
                raise LayerRefused(f"the layer has more than {self._limits.entries} directories")
            if self._directories_bytes > self._limits.directories_bytes:
                raise LayerRefused(
                    f"the layer's directories have more than {self._limits.directories_bytes} bytes of names"
                )
        self._directories[path] = _Directory(opaque=was_deleted)

    def put(self, member: Member, data: Blocks) -> None:
        """Make one entry and read its bytes. Raises LayerRefused, or OSError for a fault of the machine."""
        path = paths.clean(member.name)
        if not path:
            self._root(member)
            return
        parent_path, name = paths.split(path)
        try:
            parent = self._tree.directory(parent_path)
        except Missing:
            raise LayerRefused(f"{paths.shown(path)} lies in something that is no directory") from None
        if name.startswith(WHITEOUT):
            self._whiteout(parent, name)
            data.skip(member.size_bytes)
        elif member.kind == headers.FILE:
            self._file(parent, name, member, data)
        elif member.kind == headers.DIRECTORY:
            self._tree.make(parent, name)
            self._directories[paths.join(parent.path, name)].member = member
        elif member.kind == headers.SYMLINK:
            self._symlink(parent, name, member)
        elif member.kind == headers.LINK:
            self._link(parent, name, member)
        else:
            self._node(parent, name, member)

    def _root(self, member: Member) -> None:
        if member.kind != headers.DIRECTORY:
            raise LayerRefused("the root of the layer is no directory")
        self._directories[b""].member = member

    # --- whiteouts

    def _whiteout(self, parent: Place, name: bytes) -> None:
        if name == OPAQUE:
            self._directories[parent.path].opaque = True
            return
        if name.startswith(_AUFS):
            return
        gone = name[len(WHITEOUT) :]
        if gone in (b"", b".", b".."):
            raise LayerRefused(f"the whiteout {paths.shown(name)} names nothing")
        try:
            os.mknod(gone, stat.S_IFCHR, 0, dir_fd=parent.fd)
        except FileExistsError:
            # A whiteout is about lower layers only: what this layer has of the name stays, a directory alone.
            known = self._directories.get(paths.join(parent.path, gone))
            status = os.stat(gone, dir_fd=parent.fd, follow_symlinks=False)
            if known is not None and stat.S_ISDIR(status.st_mode):
                known.opaque = True

    # --- files

    def _file(self, parent: Place, name: bytes, member: Member, data: Blocks) -> None:
        self._count(member)
        mode = member.mode & 0o777
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        except FileExistsError:
            self._tree.discard(parent, name)
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        try:
            if member.extents is not None:
                _write_sparse(fd, member, data)
            elif member.size_bytes:
                _write(fd, member.size_bytes, data)
            rights = self._rights
            given = rights.owners and (member.uid != rights.uid or member.gid != rights.gid)
            if given:
                os.fchown(fd, member.uid, member.gid)
            if given or member.mode & ~rights.plain_modes:
                os.fchmod(fd, member.mode)
            if member.xattrs:
                _set_xattrs(fd, member.xattrs)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _count(self, member: Member) -> None:
        """Lengths count apart from what is stored: a sparse file of holes costs nothing until it is copied."""
        self.length_bytes += member.length_bytes
        if self.length_bytes > self._limits.unpacked_bytes:
            raise LayerRefused(f"the layer's files are longer than {self._limits.unpacked_bytes} bytes")

    def _symlink(self, parent: Place, name: bytes, member: Member) -> None:
        if not member.target:
            raise LayerRefused(f"the link {paths.shown(name)} has no target")
        try:
            os.symlink(member.target, name, dir_fd=parent.fd)
        except FileExistsError:
            self._tree.discard(parent, name)
            os.symlink(member.target, name, dir_fd=parent.fd)
        self.length_bytes += len(member.target)  # as docker counts a layer's size
        self._own(parent, name, member)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent.fd, follow_symlinks=False)

    def _link(self, parent: Place, name: bytes, member: Member) -> None:
        """A second name for a file of this layer; what stood in the header of the first name holds."""
        target = paths.clean(member.target)
        if not target or len(name) > NAME_MAX_BYTES:
            raise LayerRefused(f"the hard link {paths.shown(name)} has no file as its target")
        here = Place(os.dup(parent.fd), parent.path)  # finding the target may close it
        try:
            there, first = self._find(target, name)
            if (there.path, first) == (here.path, name):
                raise LayerRefused(f"{paths.shown(target)} is a hard link to itself")
            self._link_names(there, first, here, name)
        finally:
            os.close(here.fd)

    def _find(self, target: bytes, name: bytes) -> tuple[Place, bytes]:
        directory, first = paths.split(target)
        try:
            there = self._tree.directory(directory, create=False)
            status = os.stat(first, dir_fd=there.fd, follow_symlinks=False)
        except (Missing, FileNotFoundError):
            status = None
        if status is None or is_whiteout(status):
            raise LayerRefused(
                f"{paths.shown(name)} is a hard link to {paths.shown(target)}, which this layer does not have"
            )
        if stat.S_ISDIR(status.st_mode):
            raise LayerRefused(f"{paths.shown(name)} is a hard link to a directory")
        return there, first

    def _link_names(self, there: Place, first: bytes, here: Place, name: bytes) -> None:
        try:
            os.link(first, name, src_dir_fd=there.fd, dst_dir_fd=here.fd, follow_symlinks=False)
        except FileExistsError:
            # The target may lie in the very directory that has to go.
            spare = b".hythe-link-%d" % os.getpid()
            root = self._tree.root.fd
            os.link(first, spare, src_dir_fd=there.fd, dst_dir_fd=root, follow_symlinks=False)
            self._tree.discard(Place(os.dup(here.fd), here.path), name)
            os.rename(spare, name, src_dir_fd=root, dst_dir_fd=here.fd)

    def _node(self, parent: Place, name: bytes, member: Member) -> None:
        """A FIFO or a device. Without root's rights devices are left out, as other engines do."""
        kind = {headers.FIFO: stat.S_IFIFO, headers.CHARACTER: stat.S_IFCHR, headers.BLOCK: stat.S_IFBLK}[
            member.kind
        ]
        major, minor = member.device
        if kind != stat.S_IFIFO and not self._rights.devices:
            self.skipped_devices += 1
            return
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise LayerRefused(f"the device {paths.shown(name)} has the number {major}:{minor}")
        device = os.makedev(major, minor)
        try:
            os.mknod(name, kind | member.mode & 0o777, device, dir_fd=parent.fd)
        except FileExistsError:
            self._tree.discard(parent, name)
            os.mknod(name, kind | member.mode & 0o777, device, dir_fd=parent.fd)
        self._own(parent, name, member)
        # A device must not be opened. No link is followed: mknod has just made this name, exclusively.
        os.chmod(name, member.mode, dir_fd=parent.fd)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent.fd, follow_symlinks=False)

    def _own(self, parent: Place, name: bytes, member: Member) -> None:
        if self._rights.owners and (member.uid != self._rights.uid or member.gid != self._rights.gid):
            os.chown(name, member.uid, member.gid, dir_fd=parent.fd, follow_symlinks=False)

    # --- directories

    def finish(self) -> None:
        """Give directories what the archive says of them; without root's rights, children before parents.

        With them in the order of the archive, in which every parent was just open: the other one would walk to
        each directory of a deep tree from the root.
        """
        found = list(self._directories.items())
        for path, directory in found if self._rights.owners else reversed(found):
            with contextlib.suppress(Missing):  # replaced by something else since
                self._finish(path, directory)

    def _finish(self, path: bytes, directory: _Directory) -> None:
        if path:
            parent_path, name = paths.split(path)
            parent = self._tree.directory(parent_path, create=False)
            if parent.path != parent_path:  # a link stands there now: what it leads to is another's
                return
        else:
            parent, name = self._tree.root, b"."
        try:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._settle(fd, directory)
        finally:
            os.close(fd)

    def _settle(self, fd: int, directory: _Directory) -> None:
        if directory.opaque:
            os.setxattr(fd, self._rights.opaque, b"y")
        member = directory.member
        if member is None:
            os.fchmod(fd, _IMPLIED_MODE)
            os.utime(fd, ns=(0, 0))  # the same layer, the same tree
            return
        if self._rights.owners:
            os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, member.mode)
        if member.xattrs:
            _set_xattrs(fd, member.xattrs)
        os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))


def _write(fd: int, size_bytes: int, data: Blocks) -> None:
    whole = data.at_hand(size_bytes)
    for piece in data.pieces(size_bytes) if whole is None else (whole,):
        _write_all(fd, piece)


def _write_all(fd: int, piece: memoryview) -> None:
    done = os.write(fd, piece)
    while done < len(piece):
        done += os.write(fd, piece[done:])


def _write_sparse(fd: int, member: Member, data: Blocks) -> None:
    os.ftruncate(fd, member.length_bytes)
    for offset, length in member.extents or ():
        os.lseek(fd, offset, os.SEEK_SET)
        if length:
            _write(fd, length, data)


def _is_kept(name: str) -> bool:
    """What images may set: file capabilities, ACLs, and a user's own; never overlay's, nor a security module's."""
    return name in _XATTRS or (name.startswith("user.") and not name.startswith(_OVERLAYS))


def _set_xattrs(fd: int, xattrs: dict[str, bytes]) -> None:
    kept: Iterable[str] = filter(_is_kept, xattrs)
    for name in kept:
        try:
            os.setxattr(fd, name, xattrs[name])
        except OSError as error:
            if error.errno in _NO_ATTRIBUTE:
                raise LayerRefused(f"the attribute {name!a}: {os.strerror(error.errno)}") from None
            if error.errno not in _NOT_HERE:  # this file system or this user cannot: as every engine does, go on
                raise
