"""Manifests: from the exact bytes that came to what they name.

Source: OCI image-spec v1.1, "Image Manifest" and "Image Index"; docker's manifest v2 schema 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from registry.oci import media
from registry.oci.descriptor import Descriptor, refuse_folded
from registry.oci.digest import Digest
from registry.oci.errors import ManifestInvalid

# What each kind of manifest names, and the field that makes it that kind.
_KNOWN_FIELDS = (
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "blobs",
    "subject",
    "artifactType",
    "annotations",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest: an image (`config`, `layers`), an index (`manifests`), or an old artifact (`blobs`)."""

    media_type: str
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    def blobs(self) -> Iterator[Descriptor]:
        """What it needs from /blobs/: config and layers, foreign layers not among them."""
        if self.config is not None:
            yield self.config
        yield from (layer for layer in self.layers if not media.is_foreign_layer(layer.media_type))

    def children(self) -> tuple[Descriptor, ...]:
        """What an index lists."""
        return self.manifests

    def referrer_type(self) -> str | None:
        """The artifactType that the referrers list shows: its own, or for an image its config's media type."""
        if self.artifact_type:
            return self.artifact_type
        return self.config.media_type if self.config is not None else None

    def referrer_descriptor(self, digest: Digest, size_bytes: int) -> dict[str, Any]:
        """The entry that stands for this manifest in its subject's referrers list."""
        entry = Descriptor(self.media_type, digest, size_bytes).document()
        kind = self.referrer_type()
        if kind:
            entry["artifactType"] = kind
        if self.annotations:
            entry["annotations"] = self.annotations
        return entry


def parse(data: bytes, content_type: str | None, references_max: int = 10_000) -> Manifest:
    """Read the bytes of a manifest that came as *content_type* (None: the document says).

    Raises ManifestInvalid for what is no manifest, names two types, or lists more than *references_max*
    descriptors. Unknown fields are kept to the bytes and ignored here.
    """
    document = _document(data)
    media_type = _media_type(document, content_type)
    _refuse_ambiguity(document, media_type)
    subject = document.get("subject")
    manifest = Manifest(
        media_type=media_type,
        config=Descriptor.parse(document.get("config"), "config") if media_type in media.IMAGES else None,
        layers=_descriptors(document, _layers_field(media_type), references_max),
        manifests=_descriptors(document, "manifests" if media.is_index(media_type) else None, references_max),
        subject=None if subject is None else Descriptor.parse(subject, "subject"),
        artifact_type=_text(document, "artifactType"),
        annotations=_annotations(document),
    )
    if media_type == media.OCI_ARTIFACT and not manifest.artifact_type:
        raise ManifestInvalid("artifactType is missing")
    if "\0" in (manifest.referrer_type() or ""):  # which not every index can keep
        raise ManifestInvalid("a media type has a NUL in it")
    return manifest


def _document(data: bytes) -> dict[str, Any]:
    try:
        # Decoded here: json would take UTF-16 and a byte order mark, which Go's decoder refuses.
        document = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
        if b"\\u" in data:
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise ManifestInvalid("the manifest is nested too deeply") from None
    except UnicodeEncodeError:
        raise ManifestInvalid("the manifest has half of a surrogate pair, which is no character") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ManifestInvalid(f"the manifest is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ManifestInvalid("the manifest is not a JSON object")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of two fields of one name, readers take the first, the last, or a mixture."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ManifestInvalid("an object of the manifest has two fields of the same name")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestInvalid(f"the manifest is not JSON: {name} is no value")


def _media_type(document: dict[str, Any], content_type: str | None) -> str:
    stated = _text(document, "mediaType")
    named = media.essence(content_type) if content_type else ""
    if stated and named and stated != named:
        raise ManifestInvalid(f"the manifest's mediaType is {stated!r}, but it came with Content-Type {named!r}")
    media_type = named or stated or _guess(document)
    if media_type in media.DOCKER_SCHEMA1:
        raise ManifestInvalid("docker's schema 1 manifests are not accepted; push with a docker of 1.10 or later")
    if not media.is_manifest(media_type):
        raise ManifestInvalid(
            f"{media_type[:200]!r} is not a manifest type; one of {', '.join(sorted(media.MANIFESTS))} is expected"
        )
    return media_type


def _guess(document: dict[str, Any]) -> str:
    """The type of a document that came without Content-Type and has no mediaType, as OCI 1.0 allowed."""
    return media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST


def _refuse_ambiguity(document: dict[str, Any], media_type: str) -> None:
    """One reading only: two readers of the same bytes must see the same content."""
    refuse_folded(document, _KNOWN_FIELDS)
    if media_type != media.OCI_ARTIFACT and document.get("schemaVersion") != 2:
        raise ManifestInvalid("schemaVersion is not 2")
    strangers = ("manifests",) if media_type in media.IMAGES else ("layers", "config")
    for name in strangers:
        if name in document:
            raise ManifestInvalid(f"a manifest of type {media_type} has no {name!r}")


def _layers_field(media_type: str) -> str | None:
    if media_type in media.IMAGES:
        return "layers"
    return "blobs" if media_type == media.OCI_ARTIFACT else None


def _descriptors(document: dict[str, Any], name: str | None, references_max: int) -> tuple[Descriptor, ...]:
    if name is None:
        return ()
    values = document.get(name)
    if values is None and name == "blobs":
        return ()
    if not isinstance(values, list):
        raise ManifestInvalid(f"{name} is not a list")
    if len(values) > references_max:
        raise ManifestInvalid(f"{name} has {len(values)} entries, more than the {references_max} accepted here")
    return tuple(Descriptor.parse(value, f"{name}[{place}]") for place, value in enumerate(values))


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise ManifestInvalid(f"{name} is not a string")
    return value


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    value = document.get("annotations")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ManifestInvalid("annotations is not an object of strings")
    return value
