"""Layers that came uncompressed, as archives have them, are compressed before they go to a registry.

The image gets a manifest of its own with the compressed layers, which takes the place of the other one; docker
does the same. What came from a registry has a digest there, and stays as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from registry.client.images import author, records
from registry.client.images import place as places
from registry.client.images.author import Packed
from registry.client.images.errors import full_disk_is_said
from registry.client.images.ingest import Works
from registry.client.images.target import LocalRepository
from registry.content import threads
from registry.content.disk import flush_directory
from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.transfer.target import describe, from_bytes

_READ_BYTES = 1 << 20
_PACKED = {
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar": author.OCI_LAYER_GZIP,
}


async def compressed(works: Works, root: Descriptor) -> Descriptor:
    """The manifest to push for *root*: another one when it has plain tars and no registry knows it.

    The same image gives the same manifest on every machine. May be repeated after any failure.
    """
    document = json.loads(works.place.blob(root.digest).read_bytes())
    plain = {Digest.parse(each["digest"]) for each in document.get("layers", ()) if each["mediaType"] in _PACKED}
    # What is no plain tar in spite of its type stays: its diff id is another one.
    plain = {digest for digest in plain if _diff_id(works, digest) == digest}
    if not plain or records.is_known_by_digest(works.db, root.digest):
        return root
    found = {digest: await _packed(works, digest) for digest in plain}
    for packed in found.values():
        with records.writing(works.db):
            records.add_blob(works.db, packed.descriptor.digest, packed.descriptor.size_bytes, packed.diff_id)
    document["layers"] = [_replaced(each, found) for each in document["layers"]]
    is_docker = root.media_type == media.DOCKER_MANIFEST
    data = json.dumps(document, indent=3 if is_docker else None, separators=None if is_docker else (",", ":"))
    made = describe(data.encode(), root.media_type)
    await LocalRepository(works, "").push(made, from_bytes(data.encode()))
    with records.writing(works.db):
        records.replace_manifest(works.db, root.digest, made.digest)
    return made


def _diff_id(works: Works, digest: Digest) -> Digest | None:
    row = records.blob(works.db, digest)
    return row[1] if row is not None else None


def _replaced(layer: dict[str, Any], found: dict[Digest, Packed]) -> dict[str, Any]:
    packed = found.get(Digest.parse(layer["digest"]))
    if packed is None:
        return layer
    descriptor = packed.descriptor
    changed = {
        "mediaType": _PACKED[layer["mediaType"]], "size": descriptor.size_bytes, "digest": descriptor.digest
    }  # fmt: skip
    return {**layer, **changed}


async def _packed(works: Works, digest: Digest) -> Packed:
    given_up = threading.Event()
    packing = asyncio.get_running_loop().run_in_executor(None, _pack, works, digest, given_up)

    def hurry() -> bool:
        given_up.set()
        return False

    return await threads.to_its_end(packing, hurry)


def _pack(works: Works, digest: Digest, given_up: threading.Event) -> Packed:
    """Compress a layer that is here into a blob, whole and flushed; its row is the caller's."""
    packed = author.pack(works, _pieces(works, digest, given_up))
    try:
        final = works.place.blob(packed.descriptor.digest)
        with full_disk_is_said(), packed.path.open("rb") as file:
            os.fsync(file.fileno())
        os.rename(packed.path, final)
        flush_directory(final.parent)
    finally:
        places.discard(works.place, packed.path)
    return packed


def _pieces(works: Works, digest: Digest, given_up: threading.Event) -> Iterator[bytes]:
    with works.place.blob(digest).open("rb") as file:
        while piece := file.read(_READ_BYTES):
            if given_up.is_set():
                raise ConnectionAbortedError("interrupted")
            yield piece
