"""The containers of a store: opening, finding, and seeing to it that the records are true."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from registry.client.images import place as places
from registry.client.images.store import Store
from registry.client.images.unpack import rights
from registry.client.runtime import ending, place, processes, records
from registry.client.runtime import engine as engines
from registry.client.runtime.engine import Engine
from registry.client.runtime.errors import ContainerConflict, ContainerUnknown
from registry.client.runtime.place import Place
from registry.client.runtime.records import Container


class Machine:
    """What containers need: the store of their images, their directories, their records, the engine."""

    def __init__(self, store: Store, environment: Mapping[str, str]) -> None:
        self.store = store
        self.db: sqlite3.Connection = store.db
        self.environment = environment
        self.place = Place(store.place.root, place.run_root(store.place.root, environment))
        self.is_rootless = rights.is_mapped()  # an ordinary user, who is root of a namespace only
        place.prepare(self.place)
        records.prepare(self.db)

    @cached_property
    def engine(self) -> Engine:
        """The engine of this machine; HYTHE_ENGINE names another."""
        return engines.find(self.environment.get("HYTHE_ENGINE", ""), self.place.engine())

    def engine_of(self, container: Container) -> Engine:
        """The engine that a container was made with."""
        return engines.find(container.spec.engine, self.place.engine()) if container.spec.engine else self.engine

    def find(self, text: str) -> Container:
        """The container that a person means, as it truly is. Raises ContainerUnknown."""
        found = records.find(self.db, text)
        if len(found) > 1:
            raise ContainerConflict(f"Multiple IDs found with provided prefix: {text}")
        settled = ending.settle(self, found[0]) if found else None
        if settled is None:
            raise ContainerUnknown(text)
        return settled

    def every(self) -> list[Container]:
        """All containers as they truly are, the newest first."""
        for container in records.unsettled(self.db):
            ending.settle(self, container)
        self._forget_exits()
        if os.listdir(self.store.place.sub("trash")):  # of a removal that was killed
            places.empty(self.store.place, "trash")
        return records.every(self.db)

    def _forget_exits(self) -> None:
        """Exit codes that were left for whoever waits on a container that is gone by now."""
        for path in self.place.exits().iterdir():
            with contextlib.suppress(FileNotFoundError):
                old = processes.now_ns() - path.stat().st_mtime_ns > 60 * 10**9
                if old and records.get(self.db, path.name) is None:
                    os.unlink(path)


def bundle_file(machine: Machine, container: Container, name: str) -> Path:
    """A file of a running container's bundle."""
    return machine.place.bundle(container.id) / name
