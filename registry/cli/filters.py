"""`--filter` of the verbs that list and prune images, as docker has it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from registry.cli.listing import parse_time
from registry.client.images import records
from registry.client.images.records import Image
from registry.client.images.store import Store
from registry.oci.errors import HytheError
from registry.oci.reference import ImageName

_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_SECONDS = {"h": 3600, "m": 60, "s": 1}


class FilterInvalid(HytheError):
    """A filter that there is not, or with a value that means nothing."""


class Filters:
    """What `--filter KEY=VALUE` asks for; of one key's values any will do, of `label` all."""

    def __init__(self, store: Store, texts: Sequence[str], known: Sequence[str]) -> None:
        self._store = store
        self._wanted: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if key.endswith("!"):
                key = "label!" if key == "label!" else key
            if not equals:
                raise FilterInvalid(f"bad format of filter (expected name=value): {text}")
            if key not in known:
                raise FilterInvalid(f"invalid filter '{key}'")
            self._wanted.setdefault(key, []).append(value)

    def flag(self, key: str) -> bool | None:
        """A filter that is yes, no, or not there."""
        values = self._wanted.get(key)
        if values is None:
            return None
        if values[-1].lower() not in (*_TRUE, *_FALSE):
            raise FilterInvalid(f"invalid filter '{key}={values[-1]}'")
        return values[-1].lower() in _TRUE

    def images(self, found: Sequence[Image]) -> list[Image]:
        """The images that every filter but `dangling` and `reference` lets through."""
        since = [self._store.find(text).created for text in self._wanted.get("since", ())]
        before = [self._store.find(text).created for text in self._wanted.get("before", ())]
        until = [moment(text) for text in self._wanted.get("until", ())]
        return [
            image
            for image in found
            if all(_has(image, text) for text in self._wanted.get("label", ()))
            and not any(_has(image, text) for text in self._wanted.get("label!", ()))
            and all(parse_time(image.created) > parse_time(other) for other in since)
            and all(parse_time(image.created) < parse_time(other) for other in before)
            and all(parse_time(image.created) < other for other in until)
        ]

    def references(self) -> list[str]:
        """The patterns of `reference`."""
        return self._wanted.get("reference", [])


def _has(image: Image, text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in image.labels and (not equals or image.labels[key] == value)


def moment(text: str) -> float:
    """`24h`, `10m`, a time, or seconds since the epoch."""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time() - sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if text.replace(".", "", 1).isdigit():
        return float(text)
    found = parse_time(text)
    if found < -62e9:
        raise FilterInvalid(f"invalid filter 'until={text}': a duration like 24h or a time is expected")
    return found


def matches(store: Store, pattern: str, repository: str, tag: str) -> bool:
    """Whether a name is meant by a pattern of `reference`, as people write names; `*` stops at a slash."""
    name = ImageName.parse(repository, store.default_host)
    familiar = name.familiar_name(store.default_host)
    names = {familiar, f"{familiar}:{tag}"} if tag else {familiar}
    if not any(character in pattern for character in "*?["):
        names |= {repository, f"{repository}:{tag}"}
    expression = re.compile(_translated(pattern))
    return any(expression.fullmatch(each) for each in names)


def _translated(pattern: str) -> str:
    parts = re.split(r"(\*|\?|\[[^\]]*\])", pattern)
    special = {"*": "[^/]*", "?": "[^/]"}
    return "".join(special.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)


def names_of(store: Store) -> dict[str, tuple[list[records.Name], list[records.Name]]]:
    """Tags and digests of every image, in two queries."""
    found: dict[str, tuple[list[records.Name], list[records.Name]]] = {}
    for place, names in enumerate((records.tags(store.db), records.digests(store.db))):
        for name in names:
            found.setdefault(name.image_id, ([], []))[place].append(name)
    return found
