"""One, two and three replicas behind nginx, on PostgreSQL and an S3 store, and what their time went to.

All run on one machine: with more replicas the figures grow until its cores are used up, and the table beside them
says by whom. So a figure says what a replica costs, and what bounds it, rather than what a cluster does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import machine
from tests.bench.load import LoadError
from tests.bench.rows import Library, Row, fill, make_library, table
from tests.bench.servers import Registry, cpu_seconds
from tests.support import postgres, s3
from tests.support.replicas import Replicas
from tests.support.server import Settings

ROWS = ("manifest-by-tag", "small-blob", "push-small", "push-images")
LARGE_BYTES = 32 << 20
PARTIES = ("servers", "nginx", "PostgreSQL", "store", "client")

Say = Callable[[str], None]


@dataclass
class Cell:
    """One row with so many replicas: a figure of each round, and each party's seconds of the cores."""

    figures: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTIES, 0.0))
    error: str = ""

    @property
    def shares(self) -> dict[str, float]:
        """What each party had of all that was used."""
        total = sum(self.seconds.values()) or 1.0
        return {party: spent / total for party, spent in self.seconds.items()}

    def shown(self) -> str:
        """The figure for a table."""
        return "**failed**" if self.error else f"{median(self.figures):,.0f}"


@dataclass(frozen=True)
class Site:
    """What replicas share, and the processes of each party."""

    settings: Settings
    database: postgres.Postgres
    store: s3.Ceph

    def spent(self, replicas: Replicas) -> dict[str, float]:
        """Seconds of the cores that each party has used so far, but for the client."""
        assert self.database.process is not None
        return {
            "servers": sum(cpu_seconds(each.pid) for each in replicas.each),
            "nginx": cpu_seconds(replicas.nginx.pid),
            "PostgreSQL": cpu_seconds(self.database.process.pid),
            "store": sum(cpu_seconds(pid) for pid in self.store.pids),
        }


def main(counts: Sequence[int], seconds: float, rounds: int, directory: Path | None, say: Say) -> dict[str, Any]:
    """Measure and print; returns all figures. Each round takes every number of replicas in turn."""
    rows = [row for row in table(LARGE_BYTES) if row.name in ROWS]
    cells = {(row.name, count): Cell() for row in rows for count in counts}
    library = make_library(LARGE_BYTES)
    with tempfile.TemporaryDirectory(prefix="hythe-bench-", dir=directory) as name:
        facts = machine.facts(Path(name))
        site = _site()
        for round_ in range(rounds):
            for count in counts:
                with _running(site, Path(name) / f"{round_}-{count}", count) as (replicas, registry):
                    if round_ == 0 and count == counts[0]:
                        fill(registry, library)
                    for row in rows:
                        cell = cells[row.name, count]
                        _measure(row, cell, site, replicas, registry, library, seconds)
                        say(f"{row.name} with {count}: {cell.error or cell.figures[-1]}")
    print(f"{machine.line(facts)}. All on this machine; medians of {rounds} rounds of {seconds:g} s.\n")
    print(markdown(rows, counts, cells))
    return {"machine": facts, "cells": [_as_json(key, cell) for key, cell in cells.items()]}


def _site() -> Site:
    database, store = postgres.shared(), s3.shared(s3.Ceph)
    settings = {
        "index": {"url": database.url(database.database())},
        "storage": store.settings(),
        "logging": {"level": "error"},
    }
    return Site(settings, database, store)


@contextmanager
def _running(site: Site, directory: Path, count: int) -> Iterator[tuple[Replicas, Registry]]:
    replicas = Replicas(directory, site.settings, count=count)
    try:
        replicas.start()
        yield replicas, Registry(f"{count} replicas", replicas.port, replicas.nginx.pid, replicas.log_path)
        replicas.stop()
    finally:
        replicas.kill()


def _measure(
    row: Row,
    cell: Cell,
    site: Site,
    replicas: Replicas,
    registry: Registry,
    library: Library,
    seconds: float,
) -> None:
    before, client = site.spent(replicas), machine.own_seconds()
    try:
        cell.figures.append(row.measure(registry, library, seconds))
    except LoadError as error:
        cell.error = f"{error}\n{registry.log_end()}"
    for party, spent in site.spent(replicas).items():
        cell.seconds[party] += spent - before[party]
    cell.seconds["client"] += machine.own_seconds() - client


def markdown(rows: Sequence[Row], counts: Sequence[int], cells: dict[tuple[str, int], Cell]) -> str:
    """Figures by the number of replicas, and under them who used the cores with the most of them."""
    most = max(counts)
    heads = [f"{count} replica{'s' if count > 1 else ''}" for count in counts]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    lines += [
        f"| {row.title}, {row.unit} | {' | '.join(cells[row.name, count].shown() for count in counts)} |"
        for row in rows
    ]
    lines += ["", f"| of the time that was used, with {most} | {' | '.join(PARTIES)} |"]
    lines.append(f"|---|{'---:|' * len(PARTIES)}")
    for row in rows:
        shares = cells[row.name, most].shares
        lines.append(f"| {row.title} | {' | '.join(f'{shares[party]:.0%}' for party in PARTIES)} |")
    return "\n".join(lines)


def _as_json(key: tuple[str, int], cell: Cell) -> dict[str, Any]:
    name, count = key
    return {"row": name, "replicas": count, "rounds": cell.figures, "seconds": cell.seconds, "error": cell.error}
