"""Where a verb's settings come from: the file, the environment, and above them its own options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from registry import config
from registry.config import Settings


def load(path: str | None, options: Mapping[str, object] | None = None) -> Settings:
    """Settings from *path* (or HYTHE_CONFIG), the environment, and *options* by variable name."""
    environment = dict(os.environ)
    for name, value in (options or {}).items():
        if value is not None:
            environment[name] = str(value)
    chosen = path or os.environ.get("HYTHE_CONFIG")
    return config.load(Path(chosen) if chosen else None, environment)
