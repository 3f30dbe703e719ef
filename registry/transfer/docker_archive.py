"""What `docker save` writes, as a place to copy from: several images, layers as tars, names in manifest.json.

Archives of docker before 1.10, which have no manifest.json, are read by `legacy_archive`.
Docker's archives have no manifests, so one is made for each image: of docker's schema 2, its layers as they lie
in the archive. Their digests are the config's diff ids when they are plain tars, which whoever reads them checks.
Source: docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from registry.content import threads
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, NameInvalid
from registry.oci.platform import Platform
from registry.oci.reference import ImageName, Tag
from registry.transfer import legacy_archive as legacy
from registry.transfer.archive import Archive, ArchiveInvalid, Member
from registry.transfer.errors import no_blob, no_manifest
from registry.transfer.target import Pieces, describe, wrong_size

MANIFEST_FILE = "manifest.json"
_MANIFEST_MAX_BYTES = 16 << 20
_CONFIG_MAX_BYTES = 8 << 20
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class SavedImage:
    """One image of an archive: its manifest, and the names that the archive gives it (`busybox:1.36`)."""

    descriptor: Descriptor
    names: tuple[str, ...]


class DockerArchive:
    """An archive of `docker save`, to read; a Source. References are tags, names or digests."""

    def __init__(self, archive: Archive) -> None:
        """Blocks: compressed layers are hashed. Raises ArchiveInvalid."""
        self._archive = archive
        self._contents: dict[Digest, Member | bytes] = {}
        self._configs: dict[str, bytes] = {}
        self.images = tuple(self._image(entry) for entry in self._listed())

    @classmethod
    async def open(cls, archive: Archive) -> DockerArchive:
        """Look through an archive."""
        return await threads.aside(cls, archive)

    def _listed(self) -> list[dict[str, Any]]:
        if MANIFEST_FILE not in self._archive and legacy.NAMES_FILE in self._archive:
            found = legacy.images(self._archive)
            self._configs = {image.config_name: image.config for image in found}
            return [image.entry() for image in found]
        if MANIFEST_FILE not in self._archive:
            raise ArchiveInvalid(
                f"{self._archive.label}: no archive of images: it has no {MANIFEST_FILE}; "
                "hythe import makes an image of a root file system"
            )
        listed = self._json(MANIFEST_FILE, _MANIFEST_MAX_BYTES)
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise ArchiveInvalid(f"{self._archive.label}: {MANIFEST_FILE} is no list of images")
        return listed

    def _json(self, name: str, limit_bytes: int) -> Any:
        try:
            return json.loads(self._archive.load(name, limit_bytes))
        except (ValueError, RecursionError):
            raise ArchiveInvalid(f"{self._archive.label}: {name} is not JSON") from None

    def _image(self, entry: dict[str, Any]) -> SavedImage:
        name, layers, names = entry.get("Config"), entry.get("Layers") or [], entry.get("RepoTags") or []
        if not isinstance(name, str) or not _are_texts(layers) or not _are_texts(names):
            raise ArchiveInvalid(f"{self._archive.label}: {MANIFEST_FILE} has an image that cannot be read")
        config = self._configs.get(name) or self._archive.load(name, _CONFIG_MAX_BYTES)
        diff_ids, platform = self._read_config(config, name)
        if len(diff_ids) != len(layers):
            raise ArchiveInvalid(f"{self._archive.label}: {name} has {len(diff_ids)} layers, not {len(layers)}")
        found = [self._layer(path, diff) for path, diff in zip(layers, diff_ids, strict=True)]
        described = describe(config, _CONFIG)
        self._contents[described.digest] = config
        return SavedImage(self._manifest(described, found, platform), tuple(names))

    def _read_config(self, data: bytes, name: str) -> tuple[list[Digest], Platform | None]:
        try:
            document = json.loads(data)
            texts = (document.get("rootfs") or {}).get("diff_ids") or []
            return [Digest.parse(text) for text in texts], Platform.parse(document)
        except (ValueError, AttributeError, TypeError, RecursionError, DigestInvalid):
            raise ArchiveInvalid(f"{self._archive.label}: {name} is no image configuration") from None

    def _layer(self, path: str, diff_id: Digest) -> Descriptor:
        member = self._archive.find(path)
        if member is None:
            raise ArchiveInvalid(f"{self._archive.label}: the layer {path} is missing")
        head = next(self._archive.chunks(member), b"")[:4]
        suffix = ".gzip" if head.startswith(_GZIP) else ".zstd" if head.startswith(_ZSTD) else ""
        digest = self._archive.digest(member) if suffix else diff_id
        self._contents[digest] = member
        return Descriptor(_LAYER + suffix, digest, member.size_bytes)

    def _manifest(self, config: Descriptor, layers: list[Descriptor], platform: Platform | None) -> Descriptor:
        document = {
            "schemaVersion": 2,
            "mediaType": media.DOCKER_MANIFEST,
            "config": _document(config),
            "layers": [_document(layer) for layer in layers],
        }
        data = json.dumps(document, indent=3).encode()
        found = describe(data, media.DOCKER_MANIFEST)
        self._contents[found.digest] = data
        return Descriptor(found.media_type, found.digest, found.size_bytes, platform)

    async def resolve(self, reference: str) -> Descriptor:
        """The image under a tag, a name or a digest; `latest` is the only one of an archive that has one."""
        for image in self.images:
            if reference in (image.descriptor.digest, *image.names) or reference in _spellings(image.names):
                return image.descriptor
        if reference == "latest" and len(self.images) == 1:
            return self.images[0].descriptor
        offered = ", ".join(name for image in self.images for name in image.names) or "images without names"
        raise no_manifest(self._archive.label, reference, f"; there are: {offered}")

    async def tags(self) -> AsyncIterator[Tag]:
        """The tags of all names."""
        for image in self.images:
            for name in image.names:
                yield Tag(name.rpartition(":")[2])

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes from *start* on."""
        found = self._contents.get(descriptor.digest)
        if found is None:
            raise no_blob(self._archive.label, descriptor.digest)
        if isinstance(found, bytes):
            yield found[start:]
            return
        if found.size_bytes != descriptor.size_bytes:
            raise wrong_size(descriptor, found.size_bytes)
        async with aclosing(self._archive.pieces(found, start)) as pieces:
            async for piece in pieces:
                yield piece


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _spellings(names: tuple[str, ...]) -> set[str]:
    """The tags alone, and the names in full."""
    found = set()
    for text in names:
        found.add(text.rpartition(":")[2])
        try:
            found.add(str(ImageName.parse(text)))
        except NameInvalid:
            continue
    return found


def _document(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "size": descriptor.size_bytes,
        "digest": str(descriptor.digest),
    }
