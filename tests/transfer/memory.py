"""A place in memory, as strict as the contract allows: it takes nothing before what that names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from registry.oci import manifest as manifests
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown
from registry.oci.reference import Tag
from registry.transfer.target import Pieces, Read, is_manifest, verified
from tests.support.images import Image, Index


class Memory:
    """A Target and Referring."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.names: dict[str, Descriptor] = {}
        self.types: dict[str, str] = {}
        self.log: list[str] = []
        self.failing: set[str] = set()
        self.lies: dict[str, list[Descriptor]] = {}

    def put(self, item: Image | Index, tag: str = "") -> Descriptor:
        """Take in an image, without any check."""
        for blob in (*item.blobs, *item.manifests):
            self.contents[blob.digest] = blob.data
            self.types[blob.digest] = blob.media_type
        root = Descriptor(item.manifest.media_type, Digest.parse(item.digest), len(item.manifest.data))
        if tag:
            self.names[tag] = root
        return root

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        if reference not in self.names:
            raise ManifestUnknown(reference)
        return self.names[reference]

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        if descriptor.digest not in self.contents:
            raise BlobUnknown(descriptor.digest)
        data = self.contents[descriptor.digest]
        for place in range(start, len(data), 1000):
            yield data[place : min(place + 1000, len(data))]

    async def tags(self) -> AsyncIterator[Tag]:
        for name in sorted(self.names):
            yield Tag(name)

    async def exists(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.contents

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        if descriptor.digest in self.failing:
            raise ConnectionResetError("as the test wants it")
        data = b""
        async with aclosing(verified(descriptor, read(0))) as pieces:
            async for piece in pieces:
                data += piece
        if is_manifest(descriptor):
            parsed = manifests.parse(data, descriptor.media_type)
            missing = [each.digest for each in (*parsed.blobs(), *parsed.children())]
            missing = [digest for digest in missing if digest not in self.contents]
            if missing:
                raise ManifestBlobUnknown(missing)
        self.log.append(descriptor.digest)
        self.contents[descriptor.digest] = data
        self.types[descriptor.digest] = descriptor.media_type
        if tag is not None:
            self.names[tag] = descriptor

    async def tag(self, descriptor: Descriptor, tag: Tag) -> None:
        if descriptor.digest not in self.contents:
            raise ManifestUnknown(descriptor.digest)
        self.names[tag] = descriptor

    async def referrers(self, digest: Digest) -> Sequence[Descriptor]:
        found = list(self.lies.get(digest, ()))
        for known, data in self.contents.items():
            descriptor = Descriptor(self.types[known], Digest.parse(known), len(data))
            if is_manifest(descriptor):
                subject = manifests.parse(data, descriptor.media_type).subject
                if subject is not None and subject.digest == digest:
                    found.append(descriptor)
        return found
