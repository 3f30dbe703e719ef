"""What can go wrong with the images of this machine.

HytheError
├── LayerRefused      an archive that is broken, hostile or beyond a limit
├── Mismatch          bytes that are not what their digest or size says
├── ImageUnknown      no such image here
├── ImageConflict     the image is in use, or named more than once
└── StoreFull         the disk that the store is on has no room
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

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


class StoreFull(HytheError):
    """There is no room for what should come; what has come stays for the next attempt."""

    def __init__(self) -> None:
        super().__init__(
            "no space left on the image store's disk; free some (hythe image prune removes what no image needs, "
            "partial downloads too) and try again: it goes on from what has come"
        )


@contextlib.contextmanager
def full_disk_is_said() -> Iterator[None]:
    """Turn "no space left" into StoreFull; other faults pass as they are."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull from None
        raise
