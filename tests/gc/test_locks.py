"""On PostgreSQL, where transactions run at once: who decides waits for who builds; or the reverse.

Each test stops one transaction at its end, sees that the database makes the other one wait, and lets it go.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from registry.content.files import FileStore
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, candidates, claims, jobs, manifests, names, sweeps, uploads
from registry.server.index.engine import Transaction
from registry.server.index.manifests import Stored
from registry.server.index.postgres import PostgresIndex
from registry.server.index.uploads import Session
from registry.server.service import collect
from registry.server.service.collect_plan import Action, Decision, Rules
from registry.server.service.policy import Policy
from registry.server.service.uploads import Uploads, _link_from
from tests.support.oci import OCI_IMAGE, OCI_INDEX, blob, config, image, index
from tests.support.postgres import Postgres

pytestmark = pytest.mark.anyio
T = TypeVar("T")
HERE, THERE = Repository("team/here"), Repository("team/there")
NOW = Rules(limit_ms=2**53, delete_untagged=True)
LAYER, CONFIG = blob(), config()
CHILD = image(CONFIG, [LAYER])
TOP = index([CHILD.descriptor()])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Pair:
    """Two transactions, of which the first one ends when the second one waits for it."""

    def __init__(self, postgres: Postgres, tmp_path: Path) -> None:
        self._postgres = postgres
        self._database = postgres.database()
        self.index = PostgresIndex(postgres.url(self._database), 4)
        self.store = FileStore(tmp_path, 2)

    def close(self) -> None:
        self.index.close()
        self.store.close()

    async def run(self, first: Callable[[Transaction], Any], second: Coroutine[Any, Any, T]) -> T | Exception:
        """What became of *second*."""
        entered, leave = threading.Event(), threading.Event()

        def wait(tx: Transaction) -> None:
            first(tx)
            entered.set()
            leave.wait(20)

        holding = asyncio.ensure_future(self.index.write(wait))
        await asyncio.to_thread(entered.wait, 20)
        waiting = asyncio.ensure_future(second)
        try:
            while not await asyncio.to_thread(self._is_somebody_waiting):
                assert not waiting.done(), f"it did not wait: {waiting}"
        finally:
            leave.set()
        await holding
        [result] = await asyncio.gather(waiting, return_exceptions=True)
        assert not isinstance(result, BaseException) or isinstance(result, Exception)
        return result

    def _is_somebody_waiting(self) -> bool:
        statement = (
            "SELECT count(*) FROM pg_stat_activity "
            f"WHERE datname = '{self._database}' AND wait_event_type = 'Lock'"
        )
        return bool(self._postgres.execute("postgres", statement)[0][0])

    async def decide(self, action: Action, digest: str, repository: Repository | None = HERE) -> Decision:
        """A decision of the collector, which was right when it was made."""
        place = candidates.BYTES
        if repository is not None:
            place = await self.index.write(names.find_or_add, repository)
        await self.index.write(candidates.add, place, [digest], "test")
        return Decision(action, place, repository, Digest(digest), 0, "test")

    async def has_link(self, repository: Repository, digest: str) -> bool:
        return await self.index.read(blobs.size, repository, Digest(digest)) is not None


@pytest.fixture
def pair(postgres: Postgres, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(postgres, tmp_path)
    yield made
    made.close()


@pytest.fixture
async def blobs_here(pair: Pair) -> None:
    for content in (CONFIG, LAYER):
        await pair.store.put(Digest(content.digest), [content.data])
        await pair.index.write(blobs.link, HERE, Digest(content.digest), len(content.data))


def push(tx: Transaction, content: Any = CHILD, tags: tuple[str, ...] = ()) -> None:
    """A manifest push, as the service does it."""
    kind = OCI_INDEX if content is TOP else OCI_IMAGE
    document = documents.parse(content.data, kind)
    assert not manifests.absent_references(tx, HERE, document, True, True, keep=True)
    manifests.put(tx, HERE, Stored(Digest(content.digest), kind, content.data), document, [Tag(t) for t in tags])


async def test_a_layer_stays_for_a_manifest_that_is_just_being_pushed(pair: Pair, blobs_here: None) -> None:
    unlink = await pair.decide(Action.UNLINK, LAYER.digest)
    result = await pair.run(push, pair.index.write(collect._unlink, unlink, NOW))
    assert isinstance(result, collect._NotNow)
    assert await pair.has_link(HERE, LAYER.digest)


async def test_a_layer_that_just_goes_is_missing_for_a_manifest(pair: Pair, blobs_here: None) -> None:
    unlink = await pair.decide(Action.UNLINK, LAYER.digest)
    result = await pair.run(partial(collect._unlink, decision=unlink, rules=NOW), pair.index.write(push))
    assert isinstance(result, AssertionError)
    assert not await pair.has_link(HERE, LAYER.digest)


async def test_a_layer_stays_for_a_client_that_is_just_being_told_of_it(pair: Pair, blobs_here: None) -> None:
    unlink = await pair.decide(Action.UNLINK, LAYER.digest)
    past = Rules(await pair.index.read(candidates.limit_ms, 0))
    tell = partial(blobs.tell, name=HERE, digest=Digest(LAYER.digest))
    await asyncio.sleep(0.002)  # the clock goes on
    assert isinstance(await pair.run(tell, pair.index.write(collect._unlink, unlink, past)), collect._NotNow)


async def test_a_client_is_not_told_of_a_layer_that_just_goes(pair: Pair, blobs_here: None) -> None:
    unlink = await pair.decide(Action.UNLINK, LAYER.digest)
    tell = pair.index.note(blobs.tell, HERE, Digest(LAYER.digest))
    assert await pair.run(partial(collect._unlink, decision=unlink, rules=NOW), _of(tell)) is False


async def test_bytes_stay_for_a_blob_that_is_just_being_linked(pair: Pair, blobs_here: None) -> None:
    delete = await pair.decide(Action.DELETE, LAYER.digest, None)
    await pair.index.write(blobs.unlink, HERE, Digest(LAYER.digest))
    link = partial(blobs.link, name=THERE, digest=Digest(LAYER.digest), size_bytes=1)
    result = await pair.run(link, pair.index.destroy(collect._delete, pair.store, delete, NOW))
    assert isinstance(result, collect._NotNow)
    assert pair.store.has(Digest(LAYER.digest))


async def test_bytes_that_just_go_are_published_again(pair: Pair, blobs_here: None) -> None:
    delete = await pair.decide(Action.DELETE, LAYER.digest, None)
    await pair.index.write(blobs.unlink, HERE, Digest(LAYER.digest))
    service = Uploads(pair.index, pair.store, Policy(), lambda: 1000)

    async def body() -> Any:
        yield LAYER.data

    pushing = service.push_whole(THERE, Digest(LAYER.digest), None, body())
    gone = partial(collect._delete, store=pair.store, decision=delete, rules=NOW)
    assert await pair.run(gone, pushing) == len(LAYER.data)
    assert await pair.store.read(Digest(LAYER.digest)) == LAYER.data


async def test_bytes_that_no_row_names_wait_for_the_first_row(pair: Pair) -> None:
    """An orphan: the row that locks it is made for that."""
    await pair.store.put(Digest(LAYER.digest), [LAYER.data])
    delete = await pair.decide(Action.DELETE, LAYER.digest, None)
    link = partial(blobs.link, name=THERE, digest=Digest(LAYER.digest), size_bytes=1)
    result = await pair.run(link, pair.index.destroy(collect._delete, pair.store, delete, NOW))
    assert isinstance(result, collect._NotNow)
    assert pair.store.has(Digest(LAYER.digest))


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_bytes_stay_for_an_upload_that_is_just_claiming_them(pair: Pair, is_recorded: bool) -> None:
    delete = await pair.decide(Action.DELETE, LAYER.digest, None)
    if is_recorded:
        await pair.index.write(blobs.keep_bytes, LAYER.digest, 1)
    claim = partial(claims.take, digest=Digest(LAYER.digest), holder="upload")
    result = await pair.run(claim, pair.index.write(collect._condemn, delete, NOW, 60))
    assert isinstance(result, collect._NotNow)
    await pair.index.write(claims.release, "upload")
    await pair.index.write(collect._condemn, delete, NOW, 60)


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_bytes_that_were_just_condemned_cannot_be_claimed(pair: Pair, is_recorded: bool) -> None:
    delete = await pair.decide(Action.DELETE, LAYER.digest, None)
    if is_recorded:
        await pair.index.write(blobs.keep_bytes, LAYER.digest, 1)
    condemn = partial(collect._condemn, decision=delete, rules=NOW, seconds=60)
    claim = pair.index.write(claims.take, Digest(LAYER.digest), "upload")
    assert isinstance(await pair.run(condemn, _of(claim)), sweeps.BeingDeleted)


@pytest.mark.parametrize("was_first", ["closing", "cancelling"])
async def test_a_claim_goes_with_its_upload_whoever_was_first(pair: Pair, was_first: str) -> None:
    assert await pair.index.write(uploads.add, Session("upload", HERE, "anna", "sha256"), 10)
    close = partial(uploads.close, session="upload", digest=Digest(LAYER.digest))
    cancel = partial(uploads.remove, session="upload")
    if was_first == "closing":
        assert await pair.run(close, pair.index.write(cancel)) is False
    else:
        assert await pair.run(cancel, pair.index.write(close)) is None
    assert not await pair.index.read(claims.is_claimed, Digest(LAYER.digest))


async def test_a_link_stays_until_the_mount_that_builds_upon_it_is_there(pair: Pair, blobs_here: None) -> None:
    unlink = await pair.decide(Action.UNLINK, LAYER.digest)
    mount = partial(_link_from, source=HERE, target=THERE, digest=Digest(LAYER.digest))
    await pair.run(mount, pair.index.write(collect._unlink, unlink, NOW))
    assert await pair.has_link(THERE, LAYER.digest)
    delete = await pair.decide(Action.DELETE, LAYER.digest, None)
    with pytest.raises(collect._NotNow):
        await pair.index.destroy(collect._delete, pair.store, delete, NOW)


async def test_a_manifest_stays_for_a_tag_that_is_just_being_set(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(push)
    remove = await pair.decide(Action.REMOVE, CHILD.digest)
    result = await pair.run(partial(push, tags=("v1",)), pair.index.write(collect._remove, remove, NOW))
    assert isinstance(result, collect._NotNow)
    assert await pair.index.read(manifests.get, HERE, Tag("v1")) is not None


async def test_a_child_stays_for_an_index_that_is_just_being_pushed(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(push)
    remove = await pair.decide(Action.REMOVE, CHILD.digest)
    result = await pair.run(partial(push, content=TOP), pair.index.write(collect._remove, remove, NOW))
    assert isinstance(result, collect._NotNow)


async def test_a_child_that_just_goes_is_missing_for_an_index(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(push)
    remove = await pair.decide(Action.REMOVE, CHILD.digest)
    gone = partial(collect._remove, decision=remove, rules=NOW)
    result = await pair.run(gone, pair.index.write(partial(push, content=TOP)))
    assert isinstance(result, AssertionError)


async def test_a_pause_waits_for_the_deletion_that_is_under_way(pair: Pair, blobs_here: None) -> None:
    await pair.index.write(jobs.begin, "gc", "me")
    unlink = await pair.decide(Action.UNLINK, LAYER.digest)
    pausing = pair.index.write(jobs.set_paused, "gc", True)
    await pair.run(partial(collect._unlink, decision=unlink, rules=NOW), _of(pausing))
    with pytest.raises(jobs.Paused):
        await pair.index.write(jobs.require_running, "gc")


async def _of(awaitable: Awaitable[T]) -> T:
    return await awaitable
