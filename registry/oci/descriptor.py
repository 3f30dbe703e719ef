"""Descriptors: what a manifest says of a piece of content. Source: OCI image-spec, "Content Descriptors"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, ManifestInvalid
from registry.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content: its type, digest and size, and for a manifest its platform."""

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> Descriptor:
        """Read one from JSON; *where* names its place for the error. Raises ManifestInvalid."""
        if not isinstance(value, dict):
            raise ManifestInvalid(f"{where} is not a descriptor (an object is expected)")
        media_type = value.get("mediaType", "")
        if not isinstance(media_type, str):
            raise ManifestInvalid(f"{where}.mediaType is not a string")
        return cls(media_type, _digest(value, where), _size(value, where), Platform.parse(value.get("platform")))


def _digest(value: dict[str, Any], where: str) -> Digest:
    text = value.get("digest")
    if not isinstance(text, str):
        raise ManifestInvalid(f"{where}.digest is missing")
    try:
        return Digest.parse(text)
    except DigestInvalid as error:
        raise ManifestInvalid(f"{where}.digest: {error}", error.detail) from None


def _size(value: dict[str, Any], where: str) -> int:
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise ManifestInvalid(f"{where}.size is not a number of bytes")
    return size
