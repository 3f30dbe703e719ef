"""What docker before 1.10 saved: a directory for each layer, with its part of the image's history.

`repositories` says which layer a name means. The configuration is made of the layers' JSON exactly as docker makes
it when it loads such an archive, so that the image has the same id.
Source: docker's image specification v1.0; moby, image/v1/imagev1.go and image/tarexport/load.go.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from registry.oci.digest import Digest
from registry.transfer.archive import Archive, ArchiveInvalid

NAMES_FILE = "repositories"
_NAMES_MAX_BYTES = 16 << 20
_JSON_MAX_BYTES = 8 << 20
_LAYERS_MAX = 1000
_IDENTITY = re.compile(r"[0-9a-f]{64}")
_LEFT_OUT = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")


@dataclass(frozen=True, slots=True)
class LegacyImage:
    """An image with the configuration that was made for it."""

    identity: str
    config: bytes
    layers: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def config_name(self) -> str:
        """What stands for the configuration's file, of which there is none."""
        return f"{self.identity}/config"

    def entry(self) -> dict[str, Any]:
        """As `manifest.json` would have it."""
        return {"Config": self.config_name, "RepoTags": list(self.names), "Layers": list(self.layers)}


def images(archive: Archive) -> list[LegacyImage]:
    """The images that have names. Blocks: all layers are hashed. Raises ArchiveInvalid."""
    listed = _json(archive, NAMES_FILE, _NAMES_MAX_BYTES)
    names: dict[str, list[str]] = {}
    for repository, tags in listed.items():
        if not isinstance(tags, dict) or not all(isinstance(identity, str) for identity in tags.values()):
            raise ArchiveInvalid(f"{archive.label}: {NAMES_FILE} has an image that cannot be read")
        for tag, identity in tags.items():
            names.setdefault(identity, []).append(f"{repository}:{tag}")
    diff_ids: dict[str, Digest] = {}
    return [_image(archive, identity, tuple(texts), diff_ids) for identity, texts in names.items()]


def _image(archive: Archive, identity: str, names: tuple[str, ...], diff_ids: dict[str, Digest]) -> LegacyImage:
    steps = _steps(archive, identity)
    for each, _ in steps:
        if each not in diff_ids:
            diff_ids[each] = _diff_id(archive, _layer(each))
    rootfs = {"type": "layers", "diff_ids": [diff_ids[each] for each, _ in steps]}
    top = {key: value for key, value in steps[-1][1].items() if key not in _LEFT_OUT}
    config = {**top, "rootfs": rootfs, "history": [_history(document) for _, document in steps]}
    ordered = {key: config[key] for key in sorted(config)}  # only the uppermost keys: as Go writes a map
    return LegacyImage(identity, _as_go(ordered), tuple(_layer(each) for each, _ in steps), names)


def _steps(archive: Archive, identity: str) -> list[tuple[str, dict[str, Any]]]:
    """The layers' ids and documents, the lowest first."""
    found: list[tuple[str, dict[str, Any]]] = []
    while identity:
        if not _IDENTITY.fullmatch(identity) or len(found) >= _LAYERS_MAX:
            raise ArchiveInvalid(f"{archive.label}: its layers follow one another without an end, or to no layer")
        document = _json(archive, f"{identity}/json", _JSON_MAX_BYTES)
        found.insert(0, (identity, document))
        parent = document.get("parent") or ""
        identity = parent if isinstance(parent, str) else "?"
    if not found:
        raise ArchiveInvalid(f"{archive.label}: {NAMES_FILE} names an image without an id")
    return found


def _layer(identity: str) -> str:
    return posixpath.join(identity, "layer.tar")


def _diff_id(archive: Archive, path: str) -> Digest:
    member = archive.find(path)
    if member is None:
        raise ArchiveInvalid(f"{archive.label}: the layer {path} is missing")
    return archive.digest(member)


def _history(document: dict[str, Any]) -> dict[str, Any]:
    """One step, its empty fields left out."""
    command = (document.get("container_config") or {}).get("Cmd") or []
    found = {
        "created": document.get("created") or "0001-01-01T00:00:00Z",
        "author": document.get("author"),
        "created_by": " ".join(map(str, command)),
        "comment": document.get("comment"),
    }
    return {key: value for key, value in found.items() if value}


def _as_go(value: Any) -> bytes:
    """JSON as Go's encoder writes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _json(archive: Archive, name: str, limit_bytes: int) -> dict[str, Any]:
    try:
        found = json.loads(archive.load(name, limit_bytes))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ArchiveInvalid(f"{archive.label}: {name} is no JSON object")
    return found
