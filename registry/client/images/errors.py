"""What can go wrong with the images of this machine.

HytheError
├── LayerRefused      an archive that is broken, hostile or beyond a limit
├── Mismatch          bytes that are not what their digest or size says
├── ImageUnknown      no such image here
└── ImageConflict     the image is in use, or named more than once
"""

from __future__ import annotations

from registry.oci.errors import HytheError


class LayerRefused(HytheError):
    """A layer that is not unpacked: broken, hostile, or beyond a limit. Nothing of it is visible."""


class Mismatch(HytheError):
    """Bytes whose digest or size is not the one that was promised."""


class ImageUnknown(HytheError):
    """No image of this machine has this name or id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such image: {name}")
        self.name = name


class ImageConflict(HytheError):
    """The image cannot go: it has several names, or a container uses it."""
