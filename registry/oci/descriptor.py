"""Descriptors: what a manifest says of a piece of content. Source: OCI image-spec, "Content Descriptors"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, ManifestInvalid
from registry.oci.platform import Platform

_KNOWN_FIELDS = ("mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")


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
        refuse_folded(value, _KNOWN_FIELDS)
        media_type = value.get("mediaType", "")
        if not isinstance(media_type, str):
            raise ManifestInvalid(f"{where}.mediaType is not a string")
        return cls(media_type, _digest(value, where), _size(value, where), Platform.parse(value.get("platform")))

    def document(self) -> dict[str, Any]:
        """What JSON has of it, in an index or a layout."""
        platform = {} if self.platform is None else {"platform": self.platform.document()}
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size_bytes, **platform}


def refuse_folded(document: Iterable[str], known: Iterable[str]) -> None:
    """Raise ManifestInvalid for a field that is not in *known* but that some readers take for one that is.

    Go's decoder, which most clients use, folds the case of field names (`ſ` to `s` as well); ours does not.
    """
    strangers = set(document).difference(known)
    folded = {name.casefold(): name for name in known} if strangers else {}
    for name in strangers:
        if name.casefold() in folded:
            raise ManifestInvalid(f"the field {name!r} can be read as {folded[name.casefold()]!r}")


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
