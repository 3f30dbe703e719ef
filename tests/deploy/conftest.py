"""Where the files are with which an operator begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from registry.cli import admin, main

DEPLOY = Path(__file__).parents[2] / "deploy"


def verb_is_known(words: Sequence[str]) -> bool:
    """Whether the program takes these words."""
    try:
        if words[0] == "admin":
            admin.parser().parse_args(words[1:])
        else:
            main.parser().parse_args(words)
    except SystemExit:
        return False
    return True
