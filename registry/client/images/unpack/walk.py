"""A tar's pieces into a tree: every entry, the whole stream to its end, then the directories' attributes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack import headers, paths, rights
from registry.client.images.unpack.blocks import Blocks
from registry.client.images.unpack.headers import left_over, members
from registry.client.images.unpack.limits import Limits
from registry.client.images.unpack.writer import Writer

_HOSTILE = {
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EMLINK, errno.E2BIG,
    errno.ERANGE, errno.EEXIST, errno.ENOENT, errno.EFBIG, errno.EOVERFLOW,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Walked:
    """What a tree was made of. `files_bytes` is the length of its files, as docker counts a layer's size."""

    entries: int
    files_bytes: int
    skipped_devices: int


def walk(pieces: Iterable[bytes | memoryview], root_fd: int, limits: Limits) -> Walked:
    """Unpack *pieces* into the empty directory *root_fd*. Raises LayerRefused, OSError and what reading raises."""
    found = rights.find(root_fd)
    writer = Writer(root_fd, found, limits)
    try:
        blocks = Blocks(pieces)
        entries = _write(blocks, writer, limits, found.ids)
        blocks.drain()
        writer.finish()
        return Walked(entries, writer.length_bytes, writer.skipped_devices)
    finally:
        writer.close()


def _write(blocks: Blocks, writer: Writer, limits: Limits, ids: int) -> int:
    entries = 0
    for member in members(blocks, limits):
        if member.uid >= ids or member.gid >= ids:
            raise LayerRefused(
                f"{paths.shown(member.name)} belongs to {member.uid}:{member.gid}, and this user has ids below "
                f"{ids}: more lines in /etc/subuid and /etc/subgid give more"
            )
        try:
            writer.put(member, blocks)
        except OSError as error:
            if error.errno not in _HOSTILE:
                raise
            raise LayerRefused(f"{paths.shown(member.name)}: {os.strerror(error.errno)}") from None
        if member.kind == headers.FILE:
            blocks.skip(left_over(member))
        entries += 1
    return entries
