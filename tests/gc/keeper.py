"""An operator beside a running registry: collects, walks and looks into the index, as `hythe admin gc` does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from registry.content.files import FileStore
from registry.content.s3 import S3Store
from registry.content.s3_bucket import S3Options
from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Operator
from registry.server.index import jobs, schema
from registry.server.index.engine import EmbeddedIndex, Index, Transaction
from registry.server.service import lease
from registry.server.service.collect import Choices, Collector, Tally
from registry.server.service.collect_plan import Decision
from registry.server.service.history import History, Wanted
from registry.server.service.policy import Policy
from registry.server.service.reconcile import Found, Reconciliation

T = TypeVar("T")
QUICK = 0.0  # deletions a second: as fast as can be


def everything(tx: Transaction, table: sa.Table) -> list[dict[str, Any]]:
    """All rows of a table."""
    return [dict(row._mapping) for row in tx.execute(sa.select(table))]


async def collect(index: Index, store: BlobStore, choices: Choices) -> Tally:
    """One collection under its lease."""
    async with lease.take(index, "gc") as taken:
        assert taken is not None, "somebody else collects"
        return await Collector(index, store, choices).collect(taken)


async def collect_all(index: Index, store: BlobStore, choices: Choices) -> Tally:
    """Collect until no candidate is left: what was kept by garbage becomes garbage in its turn."""
    total = Tally()
    for _ in range(100):
        tally = await collect(index, store, choices)
        assert not tally.failures
        for name in ("examined", "unlinked", "removed", "deleted", "freed_bytes"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        if not await index.read(everything, schema.candidate):
            return total
    raise AssertionError("the collection finds no end")


def store_of(
    storage: dict[str, Any], directory: Path, part_bytes: int, kind: type[S3Store] = S3Store
) -> Callable[[], S3Store]:
    """What opens the bucket of a server's settings."""
    chosen = storage["s3"]
    names = ("bucket", "prefix", "endpoint", "access_key", "secret_key")
    options = S3Options(**{name: chosen[name] for name in names}, part_bytes=part_bytes)
    return lambda: kind(options, directory, 4)


class Keeper:
    """Works on the data in *directory*, whether a server runs on them or not."""

    def __init__(
        self,
        directory: Path,
        open_index: Callable[[], Index] | None = None,
        open_store: Callable[[], BlobStore] | None = None,
    ) -> None:
        self.directory = directory
        self._open_index = open_index or (lambda: EmbeddedIndex(directory / "index.sqlite3"))
        self._open_store = open_store or (lambda: FileStore(directory, 2))

    def run(self, work: Callable[[Index, BlobStore], Awaitable[T]]) -> T:
        """Do something with the index and the store."""

        async def opened() -> T:
            index, store = self._open_index(), self._open_store()
            try:
                return await work(index, store)
            finally:
                index.close()
                store.close()

        return asyncio.run(opened())

    def collect(self, grace_seconds: float = 0, delete_untagged: bool = False, until_done: bool = True) -> Tally:
        """Collect with no pauses."""
        choices = Choices(grace_seconds, QUICK, delete_untagged)
        return self.run(lambda index, store: (collect_all if until_done else collect)(index, store, choices))

    def plan(self, grace_seconds: float = 0, delete_untagged: bool = False) -> list[Decision]:
        """What a collection would do now."""

        async def planned(index: Index, store: BlobStore) -> list[Decision]:
            collector = Collector(index, store, Choices(grace_seconds, QUICK, delete_untagged))
            return [each async for each in collector.plan()]

        return self.run(planned)

    def walk(self, delete_untagged: bool = False) -> Found:
        """Reconcile the index with the store."""

        async def walked(index: Index, store: BlobStore) -> Found:
            async with lease.take(index, "gc") as taken:
                assert taken is not None
                return await Reconciliation(index, store, delete_untagged).run(taken)

        return self.run(walked)

    def restore(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag at a manifest that its history has, as `hythe admin restore` does."""

        async def restored() -> None:
            index = self._open_index()
            try:
                wanted = Wanted(Tag(tag), Digest(digest))
                await History(index, Policy()).restore(Operator("anna", "here"), Repository(repository), wanted)
            finally:
                index.close()

        asyncio.run(restored())

    def pause(self, paused: bool) -> None:
        """Keep everybody from collecting, or let them."""
        self.run(lambda index, store: index.write(jobs.set_paused, "gc", paused))

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """All rows of a table."""
        return self.run(lambda index, store: index.read(everything, table))

    def execute(self, statement: str) -> None:
        """Change the index by hand."""
        self.run(lambda index, store: index.write(lambda tx: tx.exec_driver_sql(statement)))

    def grow_older(self, seconds: float) -> None:
        """Let time pass, for promises that were made and for what waits."""
        past = int(seconds * 1000)

        def age(tx: Transaction) -> None:
            before = everything(tx, schema.candidate)
            tx.exec_driver_sql(f"UPDATE blob_link SET linked_ms = linked_ms - {past}")  # which makes candidates
            tx.exec_driver_sql("DELETE FROM candidate")
            for row in before:
                tx.execute(schema.candidate.insert(), {**row, "since_ms": max(0, row["since_ms"] - past)})

        self.run(lambda index, store: index.write(age))

    # --- what there is

    def stored(self) -> set[str]:
        """The digests of all blobs in the store."""

        async def listed(index: Index, store: BlobStore) -> set[str]:
            return {digest async for digest in store.digests()}

        return self.run(listed)

    def leftovers(self) -> list[str]:
        """What lies beside the blobs."""
        return sorted(path.name for path in (self.directory / "uploads").iterdir())

    def needed(self) -> set[str]:
        """The digests that the index has a use for: of links and of manifests."""
        return {row["digest"] for table in (schema.blob_link, schema.manifest) for row in self.rows(table)}

    def check(self) -> None:
        """What must always hold between index and store, and nothing more when all is collected."""
        links = {(row["repository_id"], row["digest"]) for row in self.rows(schema.blob_link)}
        named = {(row["repository_id"], row["digest"]) for row in self.rows(schema.reference)}
        manifests = {(row["repository_id"], row["digest"]) for row in self.rows(schema.manifest)}
        assert named <= links | manifests, "a manifest names what is not there"
        needed, stored = self.needed(), self.stored()
        assert needed <= stored, "bytes are gone that something has"
        records = Counter(row["digest"] for row in self.rows(schema.blob))
        assert set(records) >= needed

    def check_clean(self) -> None:
        """As `check`, and there is nothing that nobody has."""
        self.check()
        links = {(row["repository_id"], row["digest"]) for row in self.rows(schema.blob_link)}
        named = {(row["repository_id"], row["digest"]) for row in self.rows(schema.reference)}
        assert links <= named, "a blob is left that no manifest names"
        assert self.stored() == self.needed() == {row["digest"] for row in self.rows(schema.blob)}
        assert self.rows(schema.candidate) == []
