"""Platforms: how a client, or a registry for an old client, chooses from an index.

Source: OCI image-spec, "Image Index", platform; containerd's `platforms` for the spellings that people use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from registry.oci.errors import HytheError

# How kernels, people and older tools call what the standard calls otherwise.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
# What Go, and so every image that there is, is built for.
_KNOWN = {
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm", "wasm32", *_ARCHITECTURES,
}  # fmt: skip
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}
_WORD = re.compile(r"[A-Za-z0-9_.-]+")


class PlatformUnknown(HytheError):
    """No image for the wanted platform; the text says for which there are."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor; `variant` tells v6 from v7."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, value: Any) -> Platform | None:
        """Read one from JSON; what is not a platform counts as none, since nothing is looked up by it here."""
        if not isinstance(value, dict):
            return None
        parts = [value.get(key, "") for key in ("os", "architecture", "variant")]
        return cls(*parts) if all(isinstance(part, str) for part in parts) else None

    @classmethod
    def parse_text(cls, text: str, os: str = "linux") -> Platform:
        """Read `linux/arm64/v8`, `linux/amd64`, or `arm64` (of *os*). Raises PlatformUnknown."""
        words = text.split("/")
        if not 1 <= len(words) <= 3 or not all(_WORD.fullmatch(word) for word in words):
            raise PlatformUnknown(
                f"{text[:100]!r} is no platform; OS/ARCHITECTURE[/VARIANT] is, as linux/arm64/v8"
            )
        if len(words) == 1:
            if words[0].lower() in ("linux", "windows", "darwin", "freebsd"):
                raise PlatformUnknown(f"{text[:100]!r} names no processor; write {words[0]}/amd64, say")
            if words[0].lower() not in _KNOWN:
                raise PlatformUnknown(f"{text[:100]!r} is no processor that is known; linux/arm64 is, say")
            words = [os, *words]
        given, variant = words[1].lower(), words[2].lower() if len(words) == 3 else ""
        architecture, implied = _ARCHITECTURES.get(given, (given, ""))
        return cls(words[0].lower(), architecture, variant or implied)

    def document(self) -> dict[str, str]:
        """What JSON has of it, with a variant where there is one."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": self.os, **variant}

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def normal(self) -> Platform:
        """The same with the variant that is meant where none is written."""
        return Platform(self.os, self.architecture, self.variant or _DEFAULT_VARIANT.get(self.architecture, ""))


LINUX_AMD64 = Platform("linux", "amd64")


def host_platform() -> Platform:
    """The platform of containers on this machine, `linux/amd64`."""
    import os

    return Platform.parse_text(f"linux/{os.uname().machine}")


def choose(offered: Iterable[Platform | None], wanted: Platform) -> int | None:
    """The place in *offered* of the platform to run where *wanted* is asked for; None when none will do.

    The same platform first; without a wanted variant, or for arm, the highest older variant that runs there.
    """
    normal = wanted.normal()
    best: tuple[str, int] | None = None
    for place, platform in enumerate(offered):
        if platform is None or (platform.os, platform.architecture) != (normal.os, normal.architecture):
            continue
        variant = platform.normal().variant
        if variant == normal.variant:
            return place
        runs = not normal.variant or (normal.architecture == "arm" and variant < normal.variant)
        if (runs or not variant) and (best is None or variant > best[0]):
            best = (variant, place)
    return best[1] if best else None
