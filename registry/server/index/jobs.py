"""How the work in the background stands: a row for each kind, read by `status` on whichever machine."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.errors import RegistryError
from registry.server.index import audit, dialects
from registry.server.index.schema import job


class Paused(RegistryError):
    """The operator stopped this work for a while."""

    code = "UNAVAILABLE"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is paused; `hythe admin {name} resume` lets it go on")


@dataclass(frozen=True, slots=True)
class Job:
    """The last or present run: who does it, since when, until when (None: it runs, or broke off), and figures."""

    name: str
    paused: bool = False
    holder: str = ""
    started_ms: int | None = None
    updated_ms: int | None = None
    finished_ms: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)


_GET = sa.select(job).where(job.c.name == bindparam("job_name"))
# Whoever pauses waits for the transactions that asked before, and stops those that ask after.
_PAUSED = sa.select(job.c.paused).where(job.c.name == bindparam("job_name")).with_for_update(read=True)


@functools.cache
def _upsert(dialect: str, *columns: str) -> sa.Insert:
    make = dialects.upsert(dialect)(job)
    empty = {"name": bindparam("job_name"), "paused": sa.false(), "holder": "", "detail": "{}"}
    given = {name: dialects.clock_ms() if name.endswith("_ms") else bindparam(name) for name in columns}
    return make.values(**{**empty, **given}).on_conflict_do_update(
        index_elements=["name"], set_={name: make.excluded[name] for name in columns}
    )


def get(tx: sa.Connection, name: str) -> Job:
    """How a kind of work stands."""
    row = tx.execute(_GET, {"job_name": name}).first()
    return Job(name) if row is None else Job(**{**row._mapping, "detail": json.loads(row.detail)})


def set_paused(tx: sa.Connection, name: str, paused: bool) -> None:
    """Stop a kind of work, or let it go on; when the transaction is over, nothing of it is under way."""
    tx.execute(_upsert(tx.dialect.name, "paused"), {"job_name": name, "paused": paused})


def pause(tx: sa.Connection, name: str, paused: bool, actor: str, address: str) -> None:
    """As `set_paused`, with its line in the audit log."""
    set_paused(tx, name, paused)
    audit.write(tx, actor, address, f"{name}.{'pause' if paused else 'resume'}", name)


def refuse_paused(tx: sa.Connection, name: str) -> None:
    """Raise Paused when a kind of work is paused."""
    if get(tx, name).paused:
        raise Paused(name)


def require_running(tx: sa.Connection, name: str) -> None:
    """As `refuse_paused`, in a transaction that writes: nobody can pause the work until it ends."""
    if tx.execute(_PAUSED, {"job_name": name}).scalar():
        raise Paused(name)


def begin(tx: sa.Connection, name: str, holder: str) -> None:
    """Record that a run begins."""
    columns = ("holder", "started_ms", "updated_ms", "detail")
    tx.execute(_upsert(tx.dialect.name, *columns), {"job_name": name, "holder": holder, "detail": "{}"})
    tx.execute(job.update().where(job.c.name == name).values(finished_ms=None))


def progress(tx: sa.Connection, name: str, detail: dict[str, Any], finished: bool = False) -> None:
    """Record how far a run has come."""
    columns = ("updated_ms", "detail", *(["finished_ms"] if finished else []))
    tx.execute(_upsert(tx.dialect.name, *columns), {"job_name": name, "detail": json.dumps(detail)})
