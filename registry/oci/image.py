"""Image configurations: what a container starts with, and which layers the image is made of.

Source: OCI image-spec v1.1, "Image Configuration"; docker's image specification v1.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, ManifestInvalid
from registry.oci.platform import Platform

CONFIG_MAX_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What Hythe reads of a configuration; `document` is all of it, as it was parsed."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    created: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The steps that made the image, the first one first; those with `empty_layer` have no layer."""
        found = self.document.get("history")
        return [step for step in found if isinstance(step, dict)] if isinstance(found, list) else []


def parse(data: bytes) -> ImageConfig:
    """Read a configuration. Raises ManifestInvalid for what is none of an image: an artifact's, say."""
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"the image's configuration is not JSON: {error}") from None
    root = document.get("rootfs") if isinstance(document, dict) else None
    ids = root.get("diff_ids") if isinstance(root, dict) else None
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ManifestInvalid("this is no image: its configuration lists no layers (rootfs.diff_ids)")
    try:
        diff_ids = tuple(Digest.parse(each) for each in ids)
    except DigestInvalid as error:
        raise ManifestInvalid(f"the image's configuration: {error}") from None
    platform = Platform.parse({"os": "linux", "architecture": "", **_texts(document)})
    assert platform is not None
    created = document.get("created")
    return ImageConfig(
        platform, diff_ids, created if isinstance(created, str) else "", _labels(document), document
    )


def _texts(document: dict[str, Any]) -> dict[str, str]:
    names = ("os", "architecture", "variant")
    return {name: value for name in names if isinstance(value := document.get(name), str) and value}


def _labels(document: dict[str, Any]) -> dict[str, str]:
    config = document.get("config")
    labels = config.get("Labels") if isinstance(config, dict) else None
    if not isinstance(labels, dict):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}
