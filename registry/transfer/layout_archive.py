"""An OCI layout in a tar: one to read in place, and one that is written from front to back.

What is written is also an archive of `docker save` when every image is named: the same blobs, and a manifest.json
that points at them, as docker itself writes since version 25. Nothing is compressed anew or unpacked.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Sequence
from contextlib import aclosing
from typing import IO, Any

from registry.content import threads
from registry.oci import manifest as manifests
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import HytheError
from registry.oci.reference import ImageName, Tag
from registry.transfer import index_json
from registry.transfer.archive import Archive
from registry.transfer.errors import no_blob, no_manifest
from registry.transfer.index_json import INDEX_FILE, INDEX_MAX_BYTES, Entry, blob_name
from registry.transfer.listed import Listed, ListedWhole
from registry.transfer.target import Pieces, Read, is_manifest, verified, wrong_size

_EPOCH = 0  # the same images give the same archive


class LayoutArchive(ListedWhole):
    """A layout in a tar, to read; a Source and Referring. References are tags, whole names or digests."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.label = archive.label
        self._entries = index_json.parse(archive.load(INDEX_FILE, INDEX_MAX_BYTES))

    async def entries(self) -> list[Entry]:
        """All that index.json lists."""
        return self._entries

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes from *start* on."""
        member = self._archive.find(blob_name(descriptor.digest))
        if member is None:
            unknown = no_manifest if is_manifest(descriptor) else no_blob
            raise unknown(self.label, descriptor.digest)
        if member.size_bytes != descriptor.size_bytes:
            raise wrong_size(descriptor, member.size_bytes)
        async with aclosing(self._archive.pieces(member, start)) as pieces:
            async for piece in pieces:
                yield piece


class ArchiveWriter(Listed):
    """A tar that is being written; a Target that can be read only as far as manifests go.

    Call `finish` at the end. After any failure what was written is no archive: throw it away.
    """

    label = "the archive"

    def __init__(self, file: IO[bytes], for_docker: bool) -> None:
        """*file* needs no seeking. With *for_docker*, docker can load what is written."""
        self._file = file
        self._for_docker = for_docker
        self._lock = asyncio.Lock()
        self._written: set[Digest] = set()
        self._manifests: dict[Digest, tuple[Descriptor, bytes]] = {}
        self._entries: list[Entry] = []
        self._images: dict[Digest, tuple[Descriptor, list[str]]] = {}
        self._add(index_json.LAYOUT_FILE, index_json.LAYOUT_TEXT)

    async def entries(self) -> list[Entry]:
        """What index.json will list, so far."""
        return self._entries

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """A manifest that was written."""
        if descriptor.digest not in self._manifests:
            raise no_manifest(self.label, descriptor.digest)
        yield self._manifests[descriptor.digest][1][start:]

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether it was written already."""
        return descriptor.digest in self._written

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        """Append content; one at a time, since a tar has one end."""
        async with self._lock:
            if descriptor.digest not in self._written:
                await self._append(descriptor, read)
        if is_manifest(descriptor):
            await self._list(descriptor, tag)

    async def _append(self, descriptor: Descriptor, read: Read) -> None:
        kept = bytearray() if is_manifest(descriptor) else None
        await threads.aside(self._file.write, _header(blob_name(descriptor.digest), descriptor.size_bytes))
        async with aclosing(verified(descriptor, read(0))) as pieces:
            async for piece in pieces:
                await threads.aside(self._file.write, piece)
                if kept is not None:
                    kept += piece
        await threads.aside(self._file.write, _padding(descriptor.size_bytes))
        self._written.add(descriptor.digest)
        if kept is not None:
            self._manifests[descriptor.digest] = (descriptor, bytes(kept))

    async def _list(self, descriptor: Descriptor, tag: Tag | None) -> None:
        if tag is not None:
            await self.tag(descriptor, tag)
            return
        data = self._manifests[descriptor.digest][1]
        if manifests.parse(data, descriptor.media_type).subject is not None:
            self._entries = index_json.with_entry(self._entries, descriptor)

    async def tag(self, descriptor: Descriptor, tag: str, image_name: str = "") -> None:
        """Let *tag*, and the whole name if one is given, mean a manifest that was written."""
        if descriptor.digest not in self._manifests:
            raise no_manifest(self.label, descriptor.digest)
        if image_name:  # of two images the tags may be equal, the names are not
            entries = [entry for entry in self._entries if image_name not in entry.names]
            self._entries = [*entries, *index_json.with_entry((), descriptor, tag, image_name)]
            self._name(descriptor, ImageName.parse(image_name).familiar())
        else:
            self._entries = index_json.with_entry(self._entries, descriptor, tag)

    async def list_untagged(self, descriptor: Descriptor) -> None:
        """List an image that has no name."""
        self._entries = index_json.with_entry(self._entries, descriptor)
        self._name(descriptor, "")

    def _name(self, descriptor: Descriptor, name: str) -> None:
        _, names = self._images.setdefault(descriptor.digest, (descriptor, []))
        if name and name not in names:
            names.append(name)

    async def finish(self) -> None:
        """Write what lists the images, and the end. Raises HytheError for what docker could not load."""
        self._add(INDEX_FILE, index_json.render(self._entries))
        if self._for_docker:
            listed = [self._docker_entry(*each) for each in self._images.values()]
            self._add("manifest.json", json.dumps(listed).encode())
            self._add("repositories", json.dumps(_repositories(listed)).encode())
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        await threads.aside(self._file.flush)

    def _docker_entry(self, descriptor: Descriptor, names: list[str]) -> dict[str, Any]:
        if descriptor.media_type not in media.IMAGES:
            raise HytheError("a docker archive holds images of one platform: choose one with --platform")
        parsed = manifests.parse(self._manifests[descriptor.digest][1], descriptor.media_type)
        assert parsed.config is not None
        layers = [blob_name(layer.digest) for layer in parsed.layers]
        return {"Config": blob_name(parsed.config.digest), "RepoTags": names or None, "Layers": layers}

    def _add(self, name: str, data: bytes) -> None:
        self._file.write(_header(name, len(data)) + data + _padding(len(data)))


def _repositories(listed: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """What dockers before 1.10 looked for: by repository and tag the last layer."""
    found: dict[str, dict[str, str]] = {}
    for entry in listed:
        for name in entry["RepoTags"] or ():
            repository, _, tag = name.rpartition(":")
            if entry["Layers"]:
                found.setdefault(repository, {})[tag] = entry["Layers"][-1].rpartition("/")[2]
    return found


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size_bytes, 0o644, _EPOCH
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)
