"""How verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], least: int = 0) -> None:
    """Print aligned columns under headings, as docker does; each is *least* wide, its gap included."""
    lines = [[str(heading) for heading in headings], *([cell(value) for value in row] for row in rows)]
    widths = [max(least - 3, *(len(line[place]) for line in lines)) for place in range(len(headings))]
    for line in lines:
        print("   ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: object) -> str:
    """A value as text that cannot disturb a terminal."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else json.dumps(text)


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset | set) else str(value)


def moment(milliseconds: int | None) -> str:
    """A time for people, in UTC; empty for none."""
    if milliseconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(milliseconds / 1000))


def size(size_bytes: int) -> str:
    """A number of bytes for people: `1.4 GB`, of 1000 each."""
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.1f} {unit}" if amount < 10 and unit != "B" else f"{amount:.0f} {unit}"


def note(text: str) -> None:
    """Print what is for the person and not for the next program."""
    print(text, file=sys.stderr)
