"""Names of an archive as paths inside a root: lexically, before any file system is asked."""

from __future__ import annotations

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack.limits import NAME_MAX_BYTES, PATH_MAX_BYTES


def clean(name: bytes) -> bytes:
    """*name* without leading slashes, `.`, `..` and empty parts; `b""` is the root.

    Raises LayerRefused for a name that climbs above the root, and for one that is longer than Linux allows.
    """
    name = name.strip(b"/")
    if b"/." in name or b"//" in name or name.startswith(b"."):
        name = _lexically(name)
    if len(name) > PATH_MAX_BYTES or (len(name) > NAME_MAX_BYTES and _has_long_part(name)):
        raise LayerRefused(f"a name is too long: {shown(name)}")
    return name


def _lexically(name: bytes) -> bytes:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise LayerRefused(f"a name leaves the layer: {shown(name)}")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _has_long_part(name: bytes) -> bool:
    return any(len(part) > NAME_MAX_BYTES for part in name.split(b"/"))


def split(path: bytes) -> tuple[bytes, bytes]:
    """Parent and last part."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def join(parent: bytes, name: bytes) -> bytes:
    """The path of *name* in *parent*."""
    return parent + b"/" + name if parent else name


def shown(name: bytes) -> str:
    """A name for an error: short, and harmless to a terminal."""
    return ascii(name[:200].decode("utf-8", "backslashreplace")).strip("'\"")
