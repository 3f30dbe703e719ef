"""Images made here: a layer from an archive or a directory, a configuration, a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from registry.client.images import gzipping
from registry.client.images import place as places
from registry.client.images.errors import full_disk_is_said
from registry.client.images.ingest import Works
from registry.client.images.target import LocalRepository
from registry.client.images.unpack.inflate import Inflater, Reader
from registry.client.images.unpack.limits import Limits
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.reference import Tag
from registry.transfer.target import Pieces, Read, describe, from_bytes

OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Flavour:
    """The media types of a family of documents."""

    manifest: str
    config: str
    layer: str


OCI = Flavour(media.OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
DOCKER = Flavour(
    media.DOCKER_MANIFEST,
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True, slots=True)
class Packed:
    """A compressed layer in a file."""

    path: Path
    descriptor: Descriptor
    diff_id: Digest

    def read(self) -> Read:
        """Its bytes, to push."""

        async def read(start: int) -> Pieces:
            with self.path.open("rb") as file:
                file.seek(start)
                while piece := file.read(_READ_BYTES):
                    yield piece

        return read


def pack(works: Works, tar: Iterable[bytes]) -> Packed:
    """Compress a tar with gzip into the staging directory; the same bytes give the same layer on every machine."""
    path = works.place.sub("staging") / f"pack-{os.getpid()}-{os.urandom(8).hex()}"
    plain, packed, size_bytes = hashlib.sha256(), hashlib.sha256(), 0

    def counted() -> Iterator[bytes]:
        for piece in tar:
            plain.update(piece)
            yield piece

    try:
        with full_disk_is_said(), path.open("xb") as file:
            for data in gzipping.compressed(counted()):
                packed.update(data)
                size_bytes += file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    digest = Digest(f"sha256:{packed.hexdigest()}")
    return Packed(path, Descriptor(OCI_LAYER_GZIP, digest, size_bytes), Digest(f"sha256:{plain.hexdigest()}"))


def plain(file: Reader) -> Iterator[bytes]:
    """The tar inside of a stream of any compression. Raises LayerRefused for a damaged one."""
    return iter(Inflater(file, Limits(ratio=1 << 40)))


async def make(
    works: Works, name: str, config: dict[str, Any], layers: list[Packed], tag: Tag | None = None
) -> Descriptor:
    """Put an image together; *config* gets its diff ids. Returns the manifest's descriptor."""
    target = LocalRepository(works, name)
    try:
        for layer in layers:
            await target.push(layer.descriptor, layer.read())
    finally:
        for layer in layers:
            places.discard(works.place, layer.path)
    diff_ids = [layer.diff_id for layer in layers]
    return await _put(target, config, [_document(layer.descriptor) for layer in layers], diff_ids, OCI, tag)


async def extend(
    works: Works, name: str, base: Descriptor, config: dict[str, Any], layer: Packed | None, tag: Tag | None = None
) -> Descriptor:
    """An image of another one's layers and, above them, one more; *config* gets its diff ids, as in `make`."""
    target = LocalRepository(works, name)
    below = json.loads(works.place.blob(base.digest).read_bytes())
    under = json.loads(works.place.blob(Digest.parse(below["config"]["digest"])).read_bytes())
    flavour = DOCKER if base.media_type == media.DOCKER_MANIFEST else OCI
    layers, diff_ids = list(below["layers"]), list(under["rootfs"]["diff_ids"])
    if layer is not None:
        try:
            await target.push(layer.descriptor, layer.read())
        finally:
            places.discard(works.place, layer.path)
        layers.append({**_document(layer.descriptor), "mediaType": flavour.layer})
        diff_ids.append(layer.diff_id)
    return await _put(target, config, layers, diff_ids, flavour, tag)


async def _put(
    target: LocalRepository,
    config: dict[str, Any],
    layers: list[dict[str, Any]],
    diff_ids: list[Digest],
    flavour: Flavour,
    tag: Tag | None,
) -> Descriptor:
    config = {**config, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    data = json.dumps(config, separators=(",", ":")).encode()
    described = describe(data, flavour.config)
    await target.push(described, from_bytes(data))
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": flavour.manifest,
            "config": _document(described),
            "layers": layers,
        },
        separators=(",", ":"),
    ).encode()
    root = describe(manifest, flavour.manifest)
    await target.push(root, from_bytes(manifest), tag)
    return root


def _document(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size_bytes}


def inflated(file: Reader, target: IO[bytes]) -> None:
    """Write what a compressed archive of images holds into *target*; it may be a bomb as much as a layer may.

    Raises LayerRefused.
    """
    for piece in Inflater(file, Limits()):
        target.write(piece)
