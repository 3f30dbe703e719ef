"""What Go's templates compute with: values, how they are printed, and the functions there are.

Source: Go's text/template; docker/cli, templates/templates.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from registry.oci.errors import HytheError


class TemplateInvalid(HytheError):
    """A format that cannot be read, or that asks for what is not there."""


class _Missing:
    """What a map answers for a key that it has not."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING = _Missing()


class Strict(dict[str, Any]):
    """A map whose keys are fields: asking for another is an error, not `<no value>`."""


class NilList(list[Any]):
    """A list that is not there: Go prints it as an empty one, and its JSON is null."""


class NilMap(dict[str, Any]):
    """A map that is not there, likewise."""


def truth(value: Any) -> bool:
    """Go's: empty and zero are false."""
    return value is not MISSING and bool(value)


def shown(value: Any) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{shown(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- functions


def to_json(value: Any) -> str:
    """Compact, and with Go's escapes, so that it may stand in a page."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if value is MISSING or isinstance(value, NilList | NilMap):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, MISSING)
        elif value is None or value is MISSING:
            raise TemplateInvalid('template: :1: executing "" at <index>: index of nil pointer')
        elif not 0 <= key < len(value):
            raise TemplateInvalid(f'template: :1: executing "" at <index>: index out of range: {key}')
        else:
            value = ord(value[key]) if isinstance(value, str) else value[key]
    return value


def _printf(format: str, *values: Any) -> str:
    waiting = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        value = waiting.pop(0)
        if verb == "q":
            return f"%{flags}s" % json.dumps(shown(value), ensure_ascii=False)
        if verb in "dxXocbefgEG" and isinstance(value, int | float):
            return format_number(flags, verb, value)
        return f"%{flags}s" % shown(value)

    return re.sub(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])", one, format)


def format_number(flags: str, verb: str, value: float) -> str:
    """One number by printf's rules."""
    return f"%{flags}s" % f"{value:b}" if verb == "b" else f"%{flags}{verb}" % value


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "split": lambda text, separator: text.split(separator),
    "join": lambda values, separator: separator.join(map(shown, values or ())),
    "title": lambda text: re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].upper(), text),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": _truncate,
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "print": lambda *values: "".join(map(shown, values)),
    "printf": _printf,
    "len": len,
    "index": _index,
    "slice": lambda value, *ends: value[slice(ends[0] if ends else None, ends[1] if len(ends) > 1 else None)],
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "not": lambda value: not truth(value),
    "and": _and,
    "or": _or,
}
