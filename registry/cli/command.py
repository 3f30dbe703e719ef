"""What the verbs of the client share: their options, one event loop, and what happens when the reader is gone."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from registry.oci.errors import HytheError


def parser(verb: str, description: str, usage: str = "") -> argparse.ArgumentParser:
    """A verb's command line."""
    made = argparse.ArgumentParser(prog=f"hythe {verb}", description=description)
    if usage:
        made.usage = f"hythe {verb} {usage}"
    return made


def verb_of(families: Any, name: str, help_text: str) -> argparse.ArgumentParser:
    """One verb of a family such as `hythe admin`, which prints JSON if that is asked for, before it too."""
    made: argparse.ArgumentParser = families.add_parser(name, help=help_text, description=help_text)
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return made


def unknown(program: str, word: str, verbs: Iterable[str], meant: Mapping[str, str] | None = None) -> None:
    """Say that there is no such verb, and which was meant if that can be told."""
    import difflib

    near = (meant or {}).get(word) or next(iter(difflib.get_close_matches(word, list(verbs), 1, 0.6)), "")
    print(f"{program}: {word[:80]!r} is not a {program} command.", file=sys.stderr)
    print(f"Did you mean: {program} {near}" if near else f"See '{program} --help'.", file=sys.stderr)


def execute(work: Coroutine[Any, Any, int]) -> int:
    """Run a verb to its end and return its exit status."""
    try:
        status = asyncio.run(work)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read what is printed has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise HytheError(f"{where}{error.strerror or error}") from None
