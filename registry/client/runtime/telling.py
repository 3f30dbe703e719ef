"""Events of containers, with image, name, labels, and what belongs to the action."""

from __future__ import annotations

import sqlite3

from registry.client.images import events
from registry.client.runtime.records import Container


def note(db: sqlite3.Connection, container: Container, action: str, **more: object) -> None:
    """Write down, in the caller's transaction, what happened to a container."""
    about = {**container.spec.labels, "image": container.spec.image, "name": container.name}
    extra = {name: str(value) for name, value in more.items()}
    events.note(db, "container", action, container.id, about | extra)


def tell(db: sqlite3.Connection, container: Container, action: str, **more: object) -> None:
    """The same for what changes nothing else, in a transaction of its own."""
    with events.lightly(db):
        note(db, container, action, **more)
