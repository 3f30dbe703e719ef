"""Everybody moves, deletes and restores the same few tags at once, beside a collection, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from registry.oci.digest import Digest
from registry.oci.errors import RegistryError
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Operator
from registry.server.index import blobs, history, manifests, schema
from registry.server.index.engine import Index
from registry.server.index.history import Change
from registry.server.service import collect, lease
from registry.server.service.collect import Choices, Collector
from registry.server.service.collect_plan import Action
from registry.server.service.history import History, NothingToRestore, Wanted, _restore
from registry.server.service.policy import Policy
from registry.server.service.repository import Repositories
from tests.gc.keeper import QUICK, everything
from tests.gc.test_locks import CHILD, HERE, NOW, Pair, anyio_backend, blobs_here, pair, push
from tests.history.test_model import Store
from tests.postgres.conftest import OpenIndex, database, open_index
from tests.support.oci import OCI_IMAGE, OCI_INDEX

__all__ = ["anyio_backend", "blobs_here", "database", "open_index", "pair"]

WHO = Operator("anna", "here")
WEB = Repository("team/web")
TAGS = [Tag("one"), Tag("two")]
BLOB = Digest.of(b"blob")
WORKERS, ACTIONS = 4, 20
V1 = Tag("v1")


def made(kind: str, **body: Any) -> tuple[Digest, str, bytes]:
    payload = json.dumps({"schemaVersion": 2, "mediaType": kind, **body}).encode()
    return Digest.of(payload), kind, payload


def named(digest: str, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": 10}


LAYER = named(BLOB, "application/octet-stream")
IMAGES = [made(OCI_IMAGE, config=LAYER, layers=[], annotations={"n": str(n)}) for n in range(3)]
TOP = made(OCI_INDEX, manifests=[named(IMAGES[0][0], OCI_IMAGE)])


class Worker:
    """One of those who change the same tags; what is refused because of the others is no fault."""

    def __init__(self, number: int, index: Index, store: Store) -> None:
        self._choose = random.Random(number)
        self._repositories = Repositories(index, store, Policy())  # type: ignore[arg-type]
        self._history = History(index, Policy())

    async def run(self) -> None:
        actions = [self.push, self.push, self.delete_tag, self.delete_manifest, self.undo, self.undo, self.restore]
        for _ in range(ACTIONS):
            with contextlib.suppress(RegistryError):
                await self._choose.choice(actions)()

    async def push(self) -> None:
        digest, kind, payload = self._choose.choice([*IMAGES, TOP])
        tags = self._choose.sample(TAGS, self._choose.randint(1, 2))
        await self._repositories.pushes.push(WHO, WEB, digest, tags, kind, payload)

    async def delete_tag(self) -> None:
        await self._repositories.deletions.tag(WHO, WEB, self._choose.choice(TAGS))

    async def delete_manifest(self) -> None:
        await self._repositories.deletions.manifest(WHO, WEB, self._choose.choice([*IMAGES, TOP])[0])

    async def undo(self) -> None:
        await self._history.restore(WHO, WEB, Wanted(self._choose.choice(TAGS)))

    async def restore(self) -> None:
        digest = self._choose.choice([*IMAGES, TOP])[0]
        await self._history.restore(WHO, WEB, Wanted(self._choose.choice(TAGS), digest))


async def collect_until(over: asyncio.Event, index: Index, store: Store) -> None:
    while not over.is_set():
        async with lease.take(index, "gc") as taken:
            assert taken is not None
            await Collector(index, store, Choices(0, QUICK, True)).collect(taken)  # type: ignore[arg-type]
        await asyncio.sleep(0.01)


def test_nothing_that_was_acknowledged_is_missing_in_the_history(open_index: OpenIndex) -> None:
    async def run() -> None:
        one, other, store = open_index(), open_index(), Store()
        store.digests.add(BLOB)
        await one.write(blobs.link, WEB, BLOB, 10)
        for digest, kind, payload in [*IMAGES, TOP]:
            made = Repositories(one, store, Policy())  # type: ignore[arg-type]
            await made.pushes.push(WHO, WEB, digest, TAGS, kind, payload)
        over = asyncio.Event()
        collecting = asyncio.create_task(collect_until(over, other, store))
        workers = [Worker(number, (one, other)[number % 2], store) for number in range(WORKERS)]
        await asyncio.gather(*(worker.run() for worker in workers))
        over.set()
        await collecting
        await check(one)

    asyncio.run(run())


async def check(index: Index) -> None:
    past = sorted(await index.read(everything, schema.tag_history), key=lambda row: row["id"])
    manifests_here = {r["digest"]: r["deleted_ms"] for r in await index.read(everything, schema.manifest)}
    assert {row["digest"] for row in past} <= set(manifests_here)
    now = {row["name"]: row for row in await index.read(everything, schema.tag)}
    assert all(manifests_here[row["digest"]] is None for row in now.values())
    for tag in TAGS:
        mine = [row for row in past if row["name"] == tag]
        assert len(mine) >= 3
        for earlier, later in itertools.pairwise(mine):
            assert earlier["from_ms"] <= earlier["until_ms"]
            if earlier["action"] in ("moved", "restored"):
                assert earlier["until_ms"] == later["from_ms"], (earlier, later)
        for row in mine[-3:]:
            await History(index, Policy()).restore(WHO, WEB, Wanted(tag, Digest(row["digest"])))
    # Each move and deletion that the audit log has is one entry; pushes that moved nothing are none.
    audit = await index.read(everything, schema.audit)
    done = [(row["action"], json.loads(row["detail"])) for row in audit if row["result"] == "done"]
    moved = sum(len(detail["overwritten"]) for action, detail in done if action == "manifest.push")
    counts = {
        action: sum(row["action"] == action for row in past)
        for action in ("moved", "deleted", "deleted with its manifest")
    }
    assert counts["moved"] == moved
    assert counts["deleted"] == sum(action == "tag.delete" for action, _ in done)
    whole = sum(row["name"] == history.UNTAGGED for row in past)
    assert whole == sum(action == "manifest.delete" for action, _ in done)


def restoring(tx: sa.Connection) -> Any:
    return _restore(tx, Policy(), WHO, HERE, Wanted(V1, Digest(CHILD.digest)), None)


@pytest.mark.anyio
async def test_a_manifest_stays_that_is_just_being_restored(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(push)
    await pair.index.write(manifests.hide, HERE, Digest(CHILD.digest), Change("anna", "deleted"))
    await pair.index.write(history.forget_all_of, HERE, None)
    remove = await pair.decide(Action.REMOVE, CHILD.digest)
    result = await pair.run(restoring, pair.index.write(collect._remove, remove, NOW))
    assert isinstance(result, collect._NotNow)
    assert await pair.index.read(manifests.get, HERE, V1) is not None


@pytest.mark.anyio
async def test_a_manifest_that_just_goes_is_not_restored(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(push)
    await pair.index.write(manifests.hide, HERE, Digest(CHILD.digest), Change("anna", "deleted"))
    await pair.index.write(history.forget_all_of, HERE, None)
    remove = await pair.decide(Action.REMOVE, CHILD.digest)
    gone = partial(collect._remove, decision=remove, rules=NOW)
    wanted = Wanted(V1, Digest(CHILD.digest))
    result = await pair.run(gone, History(pair.index, Policy()).restore(WHO, HERE, wanted))
    assert isinstance(result, NothingToRestore)


@pytest.mark.anyio
async def test_a_tag_that_just_moves_keeps_what_it_leaves_in_the_history(pair: Pair, blobs_here: None) -> None:
    """The collector waits for nobody here: in one look it sees the tag, or in the next one the history."""
    await pair.index.write(partial(push, tags=("v1",)))
    remove = await pair.decide(Action.REMOVE, CHILD.digest)
    hiding = partial(
        manifests.hide, name=HERE, digest=Digest(CHILD.digest), change=Change("anna", "deleted with its manifest")
    )
    result = await pair.run(hiding, pair.index.write(collect._remove, remove, NOW))
    assert isinstance(result, collect._NotNow)
    assert (await History(pair.index, Policy()).restore(WHO, HERE, Wanted(V1))).digest == CHILD.digest


@pytest.mark.anyio
async def test_what_is_just_deleted_by_another_is_unknown(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(partial(push, tags=("v1",)))
    hiding = partial(manifests.hide, name=HERE, digest=Digest(CHILD.digest), change=Change("anna", "deleted"))
    assert await pair.run(hiding, pair.index.write(hiding)) is False
    assert len(await pair.index.read(everything, schema.tag_history)) == 2
