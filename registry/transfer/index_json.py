"""The `index.json` of an OCI layout: which names mean which manifests, as plain data.

Source: OCI image-spec v1.1, "Image Layout"; containerd's annotation for a whole image name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import ManifestInvalid

LAYOUT_FILE = "oci-layout"
LAYOUT_TEXT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_FILE = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
INDEX_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One manifest that a layout lists, with all that its entry says (`document`)."""

    descriptor: Descriptor
    document: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Its tag, and the image's whole name where that is said too."""
        annotations = self.document.get("annotations") or {}
        found = [annotations.get(key) for key in (IMAGE_NAME, REF_NAME)]
        return tuple(dict.fromkeys(name for name in found if isinstance(name, str) and name))


def parse(data: bytes) -> list[Entry]:
    """The entries of an index.json. Raises ManifestInvalid."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{INDEX_FILE} is not JSON: {error}") from None
    found = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise ManifestInvalid(f"{INDEX_FILE} has no list of manifests")
    entries = [Entry(Descriptor.parse(each, f"manifests[{place}]"), each) for place, each in enumerate(found)]
    for entry in entries:
        if not isinstance(entry.document.get("annotations") or {}, dict):
            raise ManifestInvalid(f"{INDEX_FILE}: annotations is not an object")
    return entries


def render(entries: Iterable[Entry]) -> bytes:
    """The text of an index.json."""
    manifests = [entry.document for entry in entries]
    return json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}).encode()


def find(entries: Sequence[Entry], reference: str) -> Descriptor | None:
    """The manifest under a tag, a whole name or a digest.

    Of several under one tag the last was written last. An image that is alone in a layout without any name is
    what `latest` means.
    """
    if ":" in reference and "/" not in reference:
        digest = [entry.descriptor for entry in entries if entry.descriptor.digest == reference]
        if digest:
            return digest[-1]
    named = [entry.descriptor for entry in entries if reference in entry.names]
    if named:
        return named[-1]
    return entries[0].descriptor if reference == "latest" and len(entries) == 1 and not entries[0].names else None


def with_entry(
    entries: Iterable[Entry], descriptor: Descriptor, tag: str = "", image_name: str = ""
) -> list[Entry]:
    """*entries* with *descriptor* under *tag*, which means nothing else then; without a tag, listed at all."""
    known = list(entries)
    if not tag and any(entry.descriptor.digest == descriptor.digest for entry in known):
        return known
    kept = [entry for entry in known if not _is_replaced(entry, descriptor.digest, tag)]
    return [*kept, Entry(descriptor, _document(descriptor, tag, image_name))]


def _is_replaced(entry: Entry, digest: Digest, tag: str) -> bool:
    return tag in entry.names or (entry.descriptor.digest == digest and not entry.names)


def _document(descriptor: Descriptor, tag: str, image_name: str) -> dict[str, Any]:
    annotations = {key: text for key, text in ((REF_NAME, tag), (IMAGE_NAME, image_name)) if text}
    return descriptor.document() | ({"annotations": annotations} if annotations else {})


def blob_name(digest: Digest) -> str:
    """Where a layout keeps content: `blobs/sha256/…`."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"
