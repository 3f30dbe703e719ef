"""What is pushed: unique blobs and images whose digests are known before the clock starts, and their flows.

All blobs of one size share random bytes and differ in their last 32, so that a thousand of them cost the
client neither memory nor hashing: a digest is a copy of the shared hash state and one update.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.bench.load import Buffer, Flow, Request

KB = 1 << 10
MB = 1 << 20
UNIQUE_BYTES = 32
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
ACCEPTED_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.index.v1+json, "
    f"{MANIFEST_TYPE}, */*"
)
ACCEPT = f"Accept: {ACCEPTED_TYPES}\r\n"
OCTETS = "Content-Type: application/octet-stream\r\n"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes, in parts that follow each other, and their digest."""

    digest: str
    size_bytes: int
    parts: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """Blobs and the manifest that names them: the config last."""

    blobs: tuple[Blob, ...]
    manifest: Blob


def blobs(size_bytes: int, count: int) -> list[Blob]:
    """*count* blobs of *size_bytes* that nobody has seen before."""
    parts, state = _shared(size_bytes - UNIQUE_BYTES)
    made = []
    for _ in range(count):
        hasher = state.copy()
        unique = secrets.token_bytes(UNIQUE_BYTES)
        hasher.update(unique)
        made.append(Blob(f"sha256:{hasher.hexdigest()}", size_bytes, (*parts, unique)))
    return made


def images(layers: int, layer_bytes: int, count: int) -> list[Image]:
    """*count* images of *layers* unique layers and a unique config."""
    pool = blobs(layer_bytes, layers * count)
    return [_image(pool[start : start + layers]) for start in range(0, len(pool), layers)]


def push_blob(repository: str, blob: Blob) -> Flow:
    """Docker's flow for bytes that the registry lacks: open, send, close under the digest. 3 requests."""
    answer = yield Request("POST", f"/v2/{repository}/blobs/uploads/", 202)
    answer = yield Request("PATCH", answer.location(), 202, blob.parts, OCTETS)
    location = answer.location()
    joint = "&" if "?" in location else "?"
    yield Request("PUT", f"{location}{joint}digest={blob.digest}", 201)


def push_image(repository: str, tag: str, image: Image) -> Flow:
    """Docker's push: ask for each blob, push it, then the manifest by tag. 4 requests a blob, and 1."""
    for blob in image.blobs:
        yield Request("HEAD", f"/v2/{repository}/blobs/{blob.digest}", 404)
        yield from push_blob(repository, blob)
    manifest = image.manifest
    content_type = f"Content-Type: {MANIFEST_TYPE}\r\n"
    yield Request("PUT", f"/v2/{repository}/manifests/{tag}", 201, manifest.parts, content_type)


def blob_path(repository: str, blob: Blob) -> str:
    """Where the blob is read."""
    return f"/v2/{repository}/blobs/{blob.digest}"


def manifest_path(repository: str, reference: str) -> str:
    """Where a manifest is read, by tag or digest."""
    return f"/v2/{repository}/manifests/{reference}"


@cache
def _shared(size_bytes: int) -> tuple[tuple[Buffer, ...], Any]:
    """Random parts of *size_bytes* together, and their hash state: one piece repeated, warm in the caches."""
    piece = memoryview(os.urandom(min(size_bytes, MB)))
    whole, rest = divmod(size_bytes, len(piece))
    parts: tuple[Buffer, ...] = (piece,) * whole + ((piece[:rest],) if rest else ())
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return parts, state


def _image(layers: list[Blob]) -> Image:
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"unique": secrets.token_hex(16)}},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(LAYER_TYPE, layer) for layer in layers],
        }
    )
    return Image((*layers, config), manifest)


def _json(value: dict[str, Any]) -> Blob:
    data = json.dumps(value, separators=(",", ":")).encode()
    return Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), (data,))


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": media_type, "size": blob.size_bytes, "digest": blob.digest}
