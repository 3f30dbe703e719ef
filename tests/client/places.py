"""Places to pull from, without a network: what they hold is known, and they can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from registry.client.images.store import Store
from registry.client.images.target import LocalRepository
from registry.client.images.unpack.limits import Limits
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown, ManifestUnknown
from registry.oci.reference import Tag
from registry.transfer.copy import copy
from registry.transfer.target import Pieces
from tests.support.images import Image

NAME = "docker.io/library/app"


class Memory:
    """A Source of one image. `cut` ends a fetch of that digest after so many bytes; `sent` counts."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.blobs = {blob.digest: blob.data for blob in (*image.blobs, image.manifest)}
        self.cut: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.starts: dict[str, int] = {}

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        if reference not in ("v1", self.image.digest):
            raise ManifestUnknown(reference)
        manifest = self.image.manifest
        return Descriptor(manifest.media_type, Digest.parse(manifest.digest), len(manifest.data))

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        data = self.blobs.get(descriptor.digest)
        if data is None:
            raise BlobUnknown(descriptor.digest)
        self.starts[descriptor.digest] = start
        end = self.cut.get(descriptor.digest, len(data))
        for at in range(start, end, 4096):
            piece = data[at : min(at + 4096, end)]
            self.sent[descriptor.digest] = self.sent.get(descriptor.digest, 0) + len(piece)
            yield piece
            await asyncio.sleep(0)
        if end < len(data):
            raise ConnectionResetError("cut")

    async def tags(self) -> AsyncIterator[Tag]:
        yield Tag("v1")


def pull(store: Store, source: Memory, tag: str = "v1", name: str = NAME, limits: Limits | None = None) -> None:
    """Copy the image into the store."""

    async def run() -> None:
        with store.works(limits=limits) as works:
            await copy(source, Tag("v1"), LocalRepository(works, name), Tag(tag))

    asyncio.run(run())


async def read(repository: LocalRepository, descriptor: Descriptor) -> bytes:
    """All of a content."""
    async with aclosing(repository.fetch(descriptor)) as pieces:
        return b"".join([piece async for piece in pieces])
