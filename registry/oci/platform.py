"""Platforms: how a client, or a registry for an old client, chooses from an index.

Source: OCI image-spec, "Image Index", platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


LINUX_AMD64 = Platform("linux", "amd64")
