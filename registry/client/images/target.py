"""A repository of the local store as a place that images are copied to and from."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator

from registry import failpoints
from registry.client.images import ingest, records
from registry.client.images.errors import Mismatch, full_disk_is_said
from registry.client.images.ingest import Works
from registry.client.images.records import Image, Name, Stored
from registry.content.disk import flush_directory
from registry.oci import image as configs
from registry.oci import manifest as manifests
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown, ManifestBlobUnknown, ManifestInvalid, ManifestUnknown
from registry.oci.image import CONFIG_MAX_BYTES, ImageConfig
from registry.oci.manifest import Manifest
from registry.oci.reference import Tag
from registry.transfer.target import MANIFEST_MAX_BYTES, Pieces, Read, is_manifest, wrong_digest, wrong_size

_PIECE_BYTES = 1 << 20


class LocalRepository:
    """Source and Target: one name of the local store, `docker.io/library/busybox`.

    It takes images, whose layers it unpacks as they come, and no indexes: one machine has one platform, which
    the caller chooses.
    """

    def __init__(self, works: Works, name: str) -> None:
        self._works = works
        self._db = works.db
        self._name = name

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Raises ManifestUnknown."""
        if isinstance(reference, Digest):
            found = records.manifest(self._db, reference)
        else:
            name = records.tag(self._db, self._name, reference)
            found = records.manifest(self._db, name.manifest) if name else None
        if found is None:
            raise ManifestUnknown(reference)
        return Descriptor(found.media_type, found.digest, found.size_bytes)

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes as they came."""
        try:
            fd = os.open(self._works.place.blob(descriptor.digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise BlobUnknown(descriptor.digest) from None
        try:
            while start < descriptor.size_bytes:
                piece = os.pread(fd, min(_PIECE_BYTES, descriptor.size_bytes - start), start)
                if not piece:
                    raise wrong_size(descriptor, start)
                start += len(piece)
                yield piece
        finally:
            os.close(fd)

    async def tags(self) -> AsyncIterator[Tag]:
        """The tags of this name."""
        for name in records.tags_in(self._db, self._name):
            yield Tag(name.reference)

    async def exists(self, descriptor: Descriptor) -> bool:
        """A layer is here when it is unpacked."""
        if is_manifest(descriptor):
            return records.manifest(self._db, descriptor.digest) is not None
        return ingest.has(self._works, descriptor)

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        """Blobs are verified, flushed and unpacked; a manifest makes an image of them."""
        if not is_manifest(descriptor):
            await ingest.take_in(self._works, descriptor, read)
            return
        data = await _read(descriptor, read)
        manifest = manifests.parse(data, descriptor.media_type)
        if media.is_index(descriptor.media_type) or manifest.config is None:
            raise ManifestInvalid("the local store takes images of one platform; choose one with --platform")
        image, config = self._image(manifest)
        with full_disk_is_said():
            self._store(descriptor.digest, data)
        failpoints.reach("image.stored")
        stored = Stored(descriptor.digest, descriptor.media_type, descriptor.size_bytes, image.id)
        with records.writing(self._db):
            records.add_image(self._db, image, config.diff_ids)
            records.add_blob(self._db, descriptor.digest, descriptor.size_bytes)
            records.add_manifest(self._db, stored, [blob.digest for blob in manifest.blobs()])
            if tag is not None:
                records.set_tag(self._db, Name(self._name, tag, image.id, descriptor.digest), time.time_ns())
        failpoints.reach("image.recorded")

    async def tag(self, descriptor: Descriptor, tag: Tag) -> None:
        """Raises ManifestUnknown."""
        with records.writing(self._db):
            found = records.manifest(self._db, descriptor.digest)
            if found is None:
                raise ManifestUnknown(descriptor.digest)
            records.set_tag(self._db, Name(self._name, tag, found.image_id, found.digest), time.time_ns())

    def _image(self, manifest: Manifest) -> tuple[Image, ImageConfig]:
        """What the manifest makes, if its layers unpacked to what the configuration says. Raises Mismatch."""
        assert manifest.config is not None
        missing = [blob.digest for blob in manifest.blobs() if records.blob(self._db, blob.digest) is None]
        if missing:
            raise ManifestBlobUnknown(missing)
        if manifest.config.size_bytes > CONFIG_MAX_BYTES:
            raise ManifestInvalid("the image's configuration is too large")
        config = configs.parse(self._works.place.blob(manifest.config.digest).read_bytes())
        self._compare(manifest, config)
        layers = [records.layer(self._db, diff_id) for diff_id in config.diff_ids]
        size_bytes = sum(layer.files_bytes for layer in layers if layer is not None)
        return Image(manifest.config.digest, config.created, size_bytes, config.labels, "", 0), config

    def _compare(self, manifest: Manifest, config: ImageConfig) -> None:
        if len(manifest.layers) != len(config.diff_ids):
            raise Mismatch(
                f"the manifest has {len(manifest.layers)} layers, its configuration {len(config.diff_ids)}"
            )
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            found = records.blob(self._db, layer.digest)
            if found is None or found[1] != diff_id:
                is_this = found[1] if found is not None else "not here"
                raise Mismatch(
                    f"the layer {layer.digest} unpacks to {is_this}, but the configuration says {diff_id}"
                )

    def _store(self, digest: Digest, data: bytes) -> None:
        final = self._works.place.blob(digest)
        if final.exists():
            return
        part = self._works.place.sub("staging") / f"manifest-{os.getpid()}-{os.urandom(8).hex()}"
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        final.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(part, final)
        flush_directory(final.parent)


async def _read(descriptor: Descriptor, read: Read) -> bytes:
    """A manifest's bytes, verified."""
    data = b""
    async for piece in read(0):
        data += piece
        if len(data) > MANIFEST_MAX_BYTES:
            raise ManifestInvalid("the manifest is too large")
    if len(data) != descriptor.size_bytes:
        raise wrong_size(descriptor, len(data))
    found = Digest.of(data, descriptor.digest.algorithm)
    if found != descriptor.digest:
        raise wrong_digest(descriptor, found)
    return data
