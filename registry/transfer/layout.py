"""An OCI layout in a directory, as a place to copy from and to.

A blob is written to a temporary name, flushed and renamed; index.json is replaced whole under a lock, so that
several processes may copy into one layout. Source: OCI image-spec v1.1, "Image Layout".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

from registry.content import disk, threads
from registry.oci import manifest as manifests
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, HytheError
from registry.oci.reference import Tag
from registry.transfer import index_json
from registry.transfer.errors import no_blob, no_manifest
from registry.transfer.index_json import Entry, blob_name
from registry.transfer.listed import ListedWhole
from registry.transfer.target import Pieces, Read, is_manifest, read_all, verified, wrong_size

PIECE_BYTES = 1 << 20


class LayoutDirectory(ListedWhole):
    """A layout at a path; a Target and Referring. References are tags, whole names or digests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = str(path)

    @classmethod
    async def create(cls, path: Path) -> LayoutDirectory:
        """The layout at *path*, an empty one where there is none. Raises ConfigurationError."""
        return await threads.aside(cls._create, path)

    @classmethod
    def _create(cls, path: Path) -> LayoutDirectory:
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / index_json.LAYOUT_FILE).exists():
                if any(path.iterdir()):
                    raise ConfigurationError(f"{path}: neither empty nor an OCI layout")
                _replace(path / index_json.INDEX_FILE, index_json.render([]))
                _replace(path / index_json.LAYOUT_FILE, index_json.LAYOUT_TEXT)
        return cls(path)

    @classmethod
    async def open(cls, path: Path) -> LayoutDirectory:
        """The layout that is at *path*. Raises ConfigurationError where there is none."""
        if not (path / index_json.LAYOUT_FILE).is_file():
            raise ConfigurationError(f"{path}: not an OCI layout (it has no {index_json.LAYOUT_FILE})")
        return cls(path)

    async def entries(self) -> list[Entry]:
        """All that index.json lists."""
        return await threads.aside(self._entries)

    def _entries(self) -> list[Entry]:
        with _told(self.path):
            return index_json.parse((self.path / index_json.INDEX_FILE).read_bytes())

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes from *start* on."""
        path = self._blob(descriptor.digest)
        async with threads.holding(partial(_open, path), _close) as fd:
            if fd is None:
                unknown = no_manifest if is_manifest(descriptor) else no_blob
                raise unknown(self.label, descriptor.digest)
            size_bytes = os.fstat(fd).st_size
            if size_bytes != descriptor.size_bytes:
                raise wrong_size(descriptor, size_bytes)
            async with aclosing(read_range(fd, start, size_bytes)) as pieces:
                async for piece in pieces:
                    yield piece

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether it is here; an image's manifest with all that it names."""
        if not await threads.aside(self._blob(descriptor.digest).is_file):
            return False
        if descriptor.media_type not in media.IMAGES:
            return True
        data = await read_all(self, descriptor)
        named = [self._blob(blob.digest) for blob in manifests.parse(data, descriptor.media_type).blobs()]
        return await threads.aside(lambda: all(path.is_file() for path in named))

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        """Take content in. A manifest that is a referrer is listed even without a tag."""
        path = self._blob(descriptor.digest)
        with _told(self.path):
            await threads.aside(disk.make_directory, path.parent)
            async with threads.holding(partial(_Part, self.path), _Part.remove) as part:
                async with aclosing(verified(descriptor, read(0))) as pieces:
                    async for piece in pieces:
                        await threads.aside(disk.write_all, part.handle, (piece,))
                await threads.aside(part.finish, path)
        if tag is not None:
            await self.tag(descriptor, tag)
        elif is_manifest(descriptor) and await self.subject(descriptor) is not None:
            await self._change(lambda entries: index_json.with_entry(entries, descriptor))

    async def tag(self, descriptor: Descriptor, tag: str, image_name: str = "") -> None:
        """Let *tag* mean a manifest that is here; *image_name* is the image's whole name, if it has one."""
        if not await threads.aside(self._blob(descriptor.digest).is_file):
            raise no_manifest(self.label, descriptor.digest)
        await self._change(lambda entries: index_json.with_entry(entries, descriptor, tag, image_name))

    async def list_untagged(self, descriptor: Descriptor) -> None:
        """Let index.json list a manifest that is here without a name."""
        await self._change(lambda entries: index_json.with_entry(entries, descriptor))

    async def _change(self, change: Callable[[list[Entry]], list[Entry]]) -> None:
        await threads.aside(self._change_now, change)

    def _change_now(self, change: Callable[[list[Entry]], list[Entry]]) -> None:
        with _told(self.path), open(self.path / index_json.LAYOUT_FILE, "rb") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            _replace(self.path / index_json.INDEX_FILE, index_json.render(change(self._entries())))

    def _blob(self, digest: Digest) -> Path:
        return self.path / blob_name(digest)


async def read_range(fd: int, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """The bytes of an open file from *start* to before *end*, in pieces of up to 1 MiB. Raises HytheError."""
    position = start
    while position < end:
        piece = await threads.aside(os.pread, fd, min(PIECE_BYTES, end - position), position)
        if not piece:
            raise HytheError("a file became shorter while it was read")
        position += len(piece)
        yield piece


def _open(path: Path) -> int | None:
    """The file, None where there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


class _Part:
    """A new file under a temporary name, which is removed unless it got its own."""

    def __init__(self, directory: Path) -> None:
        self.handle, name = tempfile.mkstemp(prefix=".part-", dir=directory)
        self._path = Path(name)

    def finish(self, path: Path) -> None:
        """Flush it and give it its name."""
        os.fchmod(self.handle, 0o644)
        os.fsync(self.handle)
        disk.publish(self._path, path)

    def remove(self) -> None:
        """Let go of it."""
        os.close(self.handle)
        self._path.unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    part = _Part(path.parent)
    try:
        disk.write_all(part.handle, (data,))
        part.finish(path)
    finally:
        part.remove()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the file system says into a sentence."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{error.filename or path}: {error.strerror or error}") from None
