"""`hythe events`: what happens to containers, images, networks and volumes, as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import filters, local, templates
from registry.cli.flags import LIST, TEXT, Flag, Stop, Words
from registry.cli.templates import Strict
from registry.client.images import events
from registry.client.images.events import Event
from registry.client.images.store import Store
from registry.oci.errors import HytheError

_EVENTS = Words(
    "events",
    "[OPTIONS]",
    "Get real time events of containers, images, networks and volumes",
    (
        Flag("filter", "f", LIST, "Filter output based on conditions provided"),
        Flag("format", "", TEXT, "Format the output: json, or a Go template", ""),
        Flag("since", "", TEXT, "Show all events created since timestamp", ""),
        Flag("until", "", TEXT, "Stream events until this timestamp", ""),
    ),
    0,
    0,
)
_KINDS = ("container", "image", "network", "volume")
_KEYS = (*_KINDS, "event", "label", "type")
_LOOK_SECONDS = 0.05


def run(words: Sequence[str]) -> int:
    """Run `events` and return its exit status; without --until it ends by a signal."""
    try:
        options = _EVENTS.read(words)
    except Stop as stop:
        return stop.status
    since = filters.moment(options.since) if options.since else None
    until = filters.moment(options.until) if options.until else None
    wanted = _filters(options)
    with local.opened(files=False) as store:
        show = _printer(options.format)
        for event in _events(store, since, until):
            if all(any(_meant(store, event, key, value) for value in values) for key, values in wanted.items()):
                print(show(event), flush=True)
    return 0


def _filters(options: SimpleNamespace) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in options.filter:
        key, equals, value = text.partition("=")
        if not equals:
            raise HytheError(f"bad format of filter (expected name=value): {text}")
        if key not in _KEYS:
            raise HytheError(f"invalid filter '{key}'")
        wanted.setdefault(key, []).append(value)
    return wanted


def _events(store: Store, since: float | None, until: float | None) -> Iterator[Event]:
    """Those of the past when they are asked for, then those that come."""
    begun, number, seen = time.time(), 0, None
    first = since if since is not None else begun
    while True:
        over = until is not None and time.time() >= until  # asked before reading: what came before it is read
        changed = events.changed(store.db)
        if changed != seen:
            seen = changed
            for event in events.after(store.db, number):
                number = event.number
                moment = event.time_ns / 1e9
                if moment >= first and (until is None or moment <= until):
                    yield event
        if over:
            return
        time.sleep(_LOOK_SECONDS if until is None else max(0.0, min(_LOOK_SECONDS, until - time.time())))


def _meant(store: Store, event: Event, key: str, value: str) -> bool:
    about = event.attributes
    if key == "type":
        return event.kind == value
    if key == "event":
        return value in (event.action, event.action.partition(":")[0])
    if key == "label":
        name, equals, wanted = value.partition("=")
        return name in about and (not equals or about[name] == wanted)
    if key == "image":
        names = (event.actor, about.get("name", "")) if event.kind == "image" else (about.get("image", ""),)
        return any(value in (name, name.partition(":")[0], name.partition("@")[0]) for name in names)
    if event.kind != key:
        return bool(value) and about.get(key) == value
    return bool(value) and (event.actor.startswith(value) or about.get("name") == value)


def _printer(format: str) -> Any:
    if not format:
        return _line
    if format in ("json", "{{json .}}"):
        return lambda event: json.dumps(_document(event), ensure_ascii=False, separators=(",", ":"))
    template = templates.parse(format)
    return lambda event: template.render(Strict(_fields(event)))


def _line(event: Event) -> str:
    seconds, rest = divmod(event.time_ns, 10**9)
    moment = time.localtime(seconds)
    zone = time.strftime("%z", moment)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{rest:09d}"
    stamp += "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    about = ", ".join(f"{name}={value}" for name, value in sorted(event.attributes.items()))
    return f"{stamp} {event.kind} {event.action} {event.actor}{f' ({about})' if about else ''}"


def _fields(event: Event) -> dict[str, Any]:
    """As templates know them."""
    old = event.kind in ("container", "image")  # fields that docker keeps for its first clients
    return {
        "Status": event.action if old else "",
        "ID": event.actor if old else "",
        "From": event.attributes.get("image", "") if event.kind == "container" else "",
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": dict(sorted(event.attributes.items()))},
        "Scope": "local",
        "Time": event.time_ns // 10**9,
        "TimeNano": event.time_ns,
    }


def _document(event: Event) -> dict[str, Any]:
    """As JSON has them: the oldest in small letters, and left out where they are empty."""
    small = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope"}
    small |= {"Time": "time", "TimeNano": "timeNano"}
    return {small.get(name, name): value for name, value in _fields(event).items() if value != ""}
