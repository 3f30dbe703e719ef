"""What happened to images, containers, networks and volumes, for `events`: a bounded list beside the records.

An event is written in the transaction of what it tells, so neither is there without the other.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from registry.client.images.database import writing

_KEPT = 4096
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, "
    "kind TEXT NOT NULL, action TEXT NOT NULL, actor TEXT NOT NULL, attributes TEXT NOT NULL)"
)
_INSERT = "INSERT INTO events (time_ns, kind, action, actor, attributes) VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `kind` is container, image, network or volume, `actor` its id or name."""

    number: int
    time_ns: int
    kind: str
    action: str
    actor: str
    attributes: dict[str, str]


def note(
    db: sqlite3.Connection, kind: str, action: str, actor: str, attributes: Mapping[str, str] | None = None
) -> None:
    """Write an event down, in the caller's transaction; the oldest goes when there are too many."""
    row = (time.time_ns(), kind, action, actor, json.dumps(dict(attributes or {}), separators=(",", ":")))
    try:
        number = db.execute(_INSERT, row).lastrowid
    except sqlite3.OperationalError:
        db.execute(_SCHEMA)
        number = db.execute(_INSERT, row).lastrowid
    db.execute("DELETE FROM events WHERE number <= ?", ((number or 0) - _KEPT,))


@contextmanager
def lightly(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction for what only tells and changes nothing: a power cut may take it back, a kill does not."""
    db.execute("PRAGMA synchronous = NORMAL")
    try:
        with writing(db):
            yield
    finally:
        db.execute("PRAGMA synchronous = FULL")


def after(db: sqlite3.Connection, number: int) -> list[Event]:
    """The events that came after the one of this number, in their order."""
    try:
        rows = db.execute(
            "SELECT number, time_ns, kind, action, actor, attributes FROM events WHERE number > ? ORDER BY number",
            (number,),
        ).fetchall()
    except sqlite3.OperationalError:  # nothing has ever happened
        return []
    return [Event(row[0], row[1], row[2], row[3], row[4], json.loads(row[5])) for row in rows]


def changed(db: sqlite3.Connection) -> int:
    """A number that is another one after any other process has written: asking costs a few microseconds."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])
