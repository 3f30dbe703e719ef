"""Unpack one layer: a thread inflates and hashes, this one writes."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack import headers, paths, rights
from registry.client.images.unpack.blocks import Blocks
from registry.client.images.unpack.channel import Channel
from registry.client.images.unpack.headers import left_over, members
from registry.client.images.unpack.inflate import Inflater, Reader
from registry.client.images.unpack.limits import Limits
from registry.client.images.unpack.writer import Writer
from registry.oci.digest import DEFAULT_ALGORITHM, Digest

_HOSTILE = {
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EMLINK, errno.E2BIG,
    errno.ERANGE, errno.EEXIST, errno.ENOENT, errno.EFBIG, errno.EOVERFLOW,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer was: its digests are to be compared before anybody sees the directory.

    `files_bytes` is the length of its files, as docker counts a layer's size.
    """

    digest: Digest
    size_bytes: int
    diff_id: Digest
    unpacked_bytes: int
    entries: int
    files_bytes: int
    skipped_devices: int


def unpack(
    source: Reader, root: Path, limits: Limits | None = None, algorithm: str = DEFAULT_ALGORITHM
) -> Unpacked:
    """Unpack *source* into the empty directory *root*, which nobody else writes to or reads.

    The compressed bytes are hashed by *algorithm*. Flushes nothing. Raises LayerRefused for an archive that is
    broken, hostile or too large, and OSError for a fault of the machine (`ENOSPC`); *root* then has a part of
    the layer, and is to be thrown away.
    """
    limits = limits or Limits()
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = rights.find(root_fd)
        writer = Writer(root_fd, found, limits)
        try:
            return _unpack(Inflater(source, limits, algorithm), writer, limits, found.ids)
        finally:
            writer.close()
    finally:
        os.close(root_fd)


def _unpack(inflater: Inflater, writer: Writer, limits: Limits, ids: int) -> Unpacked:
    channel = Channel()
    thread = threading.Thread(target=channel.fill, args=(inflater,), name="inflate", daemon=True)
    thread.start()
    try:
        blocks = Blocks(channel)
        entries = _write(blocks, writer, limits, ids)
        blocks.drain()
        writer.finish()
    finally:
        channel.close()
        thread.join()
    return Unpacked(
        inflater.digest,
        inflater.packed_bytes,
        inflater.diff_id,
        inflater.unpacked_bytes,
        entries,
        writer.length_bytes,
        writer.skipped_devices,
    )


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
