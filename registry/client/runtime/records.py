"""What is known of containers, volumes and networks, in SQLite beside the images: functions over a connection.

A row of `uses` keeps a container's image from being removed; it comes and goes in the container's own transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.client.images.records import writing
from registry.client.runtime.processes import Process
from registry.client.runtime.spec import Spec, from_json

_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, image_id TEXT NOT NULL, spec TEXT NOT NULL,
  created_ns INTEGER NOT NULL, state TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0,
  round INTEGER NOT NULL DEFAULT 0, owner TEXT NOT NULL DEFAULT '', process TEXT NOT NULL DEFAULT '',
  monitor TEXT NOT NULL DEFAULT '', started_ns INTEGER NOT NULL DEFAULT 0, finished_ns INTEGER NOT NULL DEFAULT 0,
  exit_code INTEGER NOT NULL DEFAULT 0, oom INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
  stopped INTEGER NOT NULL DEFAULT 0, restarts INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS volumes (
  name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, labels TEXT NOT NULL, anonymous INTEGER NOT NULL
  ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS volume_uses (
  volume TEXT NOT NULL REFERENCES volumes, container TEXT NOT NULL REFERENCES containers ON DELETE CASCADE,
  PRIMARY KEY (volume, container)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS volumes_of_container ON volume_uses (container);
CREATE TABLE IF NOT EXISTS networks (
  name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_ns INTEGER NOT NULL, document TEXT NOT NULL
  ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS endpoints (
  network TEXT NOT NULL REFERENCES networks, container TEXT NOT NULL REFERENCES containers ON DELETE CASCADE,
  address TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (network, container), UNIQUE (network, address)
  ) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS endpoints_of_container ON endpoints (container);
CREATE TABLE IF NOT EXISTS health (
  container TEXT PRIMARY KEY REFERENCES containers ON DELETE CASCADE, round INTEGER NOT NULL,
  document TEXT NOT NULL) WITHOUT ROWID
"""
_COLUMNS = (
    "id, name, image_id, spec, created_ns, state, paused, round, owner, process, monitor, started_ns, "
    "finished_ns, exit_code, oom, error, stopped, restarts"
)

# A container's states. Those in which a command is at work have an owner, and are settled when that is dead.
CREATING, CREATED, STARTING, RUNNING, EXITED, REMOVING = (
    "creating", "created", "starting", "running", "exited", "removing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it was recorded. `round` counts its starts.

    `stopped` is 1 when somebody wanted its end, 2 when the machine was stopped.
    """

    id: str
    name: str
    image_id: str
    spec: Spec
    created_ns: int
    state: str
    paused: bool
    round: int
    owner: Process | None
    process: Process | None
    monitor: Process | None
    started_ns: int
    finished_ns: int
    exit_code: int
    oom: bool
    error: str
    stopped: int
    restarts: int


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables that are not there."""
    if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'health'").fetchone()[0] == 0:
        with writing(db):
            for statement in _SCHEMA.split(";"):
                db.execute(statement)


def _text(process: Process | None) -> str:
    return "" if process is None else f"{process.pid} {process.start} {process.boot}"


def _process(text: str) -> Process | None:
    if not text:
        return None
    pid, start, boot = text.split(" ")
    return Process(int(pid), int(start), boot)


def _container(row: Sequence[Any]) -> Container:
    return Container(
        row[0], row[1], row[2], from_json(row[3]), row[4], row[5], bool(row[6]), row[7], _process(row[8]),
        _process(row[9]), _process(row[10]), row[11], row[12], row[13], bool(row[14]), row[15], row[16],
        row[17],
    )  # fmt: skip


# --- containers


def add(
    db: sqlite3.Connection, identity: str, name: str, image_id: str, spec: Spec, owner: Process, now: int
) -> None:
    """Note a container that is being made. Raises sqlite3.IntegrityError for a name that is taken."""
    db.execute(
        "INSERT INTO containers (id, name, image_id, spec, created_ns, state, owner) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (identity, name, image_id, spec.to_json(), now, CREATING, _text(owner)),
    )
    db.execute("INSERT INTO uses VALUES (?, ?, 0)", (identity, image_id))


def change(db: sqlite3.Connection, identity: str, **values: Any) -> None:
    """Set columns of a container."""
    plain = {
        name: value.to_json() if isinstance(value, Spec) else _text(value) if name in _PROCESSES else value
        for name, value in values.items()
    }
    columns = ", ".join(f"{name} = ?" for name in plain)
    db.execute(f"UPDATE containers SET {columns} WHERE id = ?", (*plain.values(), identity))  # noqa: S608 -- ours
    if "state" in plain:
        running = plain["state"] in (STARTING, RUNNING)
        db.execute("UPDATE uses SET running = ? WHERE holder = ?", (running, identity))


_PROCESSES = ("owner", "process", "monitor")


def remove(db: sqlite3.Connection, identity: str) -> None:
    """Forget a container."""
    db.execute("DELETE FROM containers WHERE id = ?", (identity,))
    db.execute("DELETE FROM uses WHERE holder = ?", (identity,))


def get(db: sqlite3.Connection, identity: str) -> Container | None:
    """A container by its whole id."""
    row = db.execute(f"SELECT {_COLUMNS} FROM containers WHERE id = ?", (identity,)).fetchone()  # noqa: S608
    return None if row is None else _container(row)


def find(db: sqlite3.Connection, text: str) -> list[Container]:
    """What a person means: a whole id, else a name, else the beginning of an id (perhaps of several)."""
    for where in ("id = ?", "name = ?"):
        rows = db.execute(f"SELECT {_COLUMNS} FROM containers WHERE {where}", (text.removeprefix("/"),))  # noqa: S608
        found = [_container(row) for row in rows]
        if found:
            return found
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM containers WHERE substr(id, 1, ?) = ?",  # noqa: S608 -- all ours
        (len(text), text),
    )
    return [_container(row) for row in rows] if text else []


def every(db: sqlite3.Connection) -> list[Container]:
    """All containers, the newest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM containers ORDER BY created_ns DESC")  # noqa: S608 -- all ours
    return [_container(row) for row in rows]


def unsettled(db: sqlite3.Connection) -> list[Container]:
    """Containers whose state says that a process lives."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM containers WHERE state NOT IN (?, ?)", (CREATED, EXITED))  # noqa: S608
    return [_container(row) for row in rows]


# --- volumes


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume: files that outlive containers."""

    name: str
    created_ns: int
    labels: str
    anonymous: bool


def add_volume(db: sqlite3.Connection, volume: Volume) -> bool:
    """Note a volume; False when it is there already."""
    row = (volume.name, volume.created_ns, volume.labels, volume.anonymous)
    return bool(db.execute("INSERT OR IGNORE INTO volumes VALUES (?, ?, ?, ?)", row).rowcount)


def volumes(db: sqlite3.Connection) -> list[Volume]:
    """All volumes by name."""
    rows = db.execute("SELECT name, created_ns, labels, anonymous FROM volumes ORDER BY name")
    return [Volume(row[0], row[1], row[2], bool(row[3])) for row in rows]


def use_volume(db: sqlite3.Connection, volume: str, container: str) -> None:
    """Note that a container has a volume."""
    db.execute("INSERT OR IGNORE INTO volume_uses VALUES (?, ?)", (volume, container))


def volume_users(db: sqlite3.Connection, volume: str) -> list[str]:
    """The ids of the containers that have a volume."""
    return [row[0] for row in db.execute("SELECT container FROM volume_uses WHERE volume = ?", (volume,))]


def volumes_of(db: sqlite3.Connection, container: str) -> list[str]:
    """The names of a container's volumes."""
    return [row[0] for row in db.execute("SELECT volume FROM volume_uses WHERE container = ?", (container,))]


def remove_volume(db: sqlite3.Connection, name: str) -> None:
    """Forget a volume. Raises sqlite3.IntegrityError when a container has it."""
    db.execute("DELETE FROM volumes WHERE name = ?", (name,))
