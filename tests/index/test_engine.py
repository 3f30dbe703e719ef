"""The embedded index: reads at once, writes in batches, and an epoch that tells caches what is over."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from registry.content.store import Progress
from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown, Unavailable
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, changes, manifests, names, tags, uploads
from registry.server.index.engine import EmbeddedIndex, Transaction
from registry.server.index.manifests import Stored
from registry.server.index.uploads import Session
from tests.index import elsewhere

pytestmark = pytest.mark.anyio

TEAM = Repository("team/web")
LATEST = Tag("latest")
ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")


@pytest.fixture
async def index(path: Path) -> AsyncIterator[EmbeddedIndex]:
    made = EmbeddedIndex(path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def another_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


class Blocker:
    """A transaction that keeps the writing thread until it is let go, so that others wait together."""

    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index
        self._entered, self._released = threading.Event(), threading.Event()

    def _wait(self, tx: Transaction) -> None:
        self._entered.set()
        assert self._released.wait(30)

    async def __aenter__(self) -> Blocker:
        self._task = asyncio.create_task(self._index.write(self._wait))
        assert await asyncio.to_thread(self._entered.wait, 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # those who shall wait get to their place in the queue
        self._released.set()
        await self._task


async def together(index: EmbeddedIndex, *functions: Callable[[Transaction], Any]) -> list[Any]:
    """Results, or errors, of transactions that are all in one batch."""
    async with Blocker(index):
        tasks = [asyncio.create_task(index.write(function)) for function in functions]
    return await asyncio.gather(*tasks, return_exceptions=True)


def add(name: str) -> Callable[[Transaction], int]:
    return lambda tx: names.find_or_add(tx, Repository(name))


def known(tx: Transaction, *wanted: str) -> list[bool]:
    return [names.find(tx, Repository(name)) is not None for name in wanted]


def put(
    tx: Transaction, digest: Digest, *with_tags: str, media_type: str = media.OCI_MANIFEST, name: str = TEAM
) -> None:
    stored = Stored(digest, media_type, b"{}")
    document = Manifest(media_type)
    manifests.put(tx, Repository(name), stored, document, [Tag(each) for each in with_tags])


class TestTransactions:
    async def test_a_read_sees_every_write_that_was_answered(self, index: EmbeddedIndex) -> None:
        for number in range(50):
            name = Repository(f"r{number}")
            added = await index.write(names.find_or_add, name)
            assert await index.read(names.find, name) == added

    async def test_a_note_is_seen_as_a_write_is(self, index: EmbeddedIndex) -> None:
        added = await index.note(names.find_or_add, TEAM)
        assert await index.read(names.find, TEAM) == added

    async def test_a_transaction_sees_its_own_writes_and_returns_what_it_likes(self, index: EmbeddedIndex) -> None:
        def work(tx: Transaction, first: str, *, second: str) -> list[bool]:
            names.find_or_add(tx, Repository(first))
            return known(tx, first, second)

        assert await index.write(work, "a", second="b") == [True, False]

    async def test_what_a_transaction_raises_undoes_it_and_is_raised(self, index: EmbeddedIndex) -> None:
        def fail(tx: Transaction) -> None:
            names.find_or_add(tx, TEAM)
            raise BlobUnknown("sha256:x")

        for run in (index.write, index.note):
            with pytest.raises(BlobUnknown):
                await run(fail)
            assert await index.read(names.find, TEAM) is None

    async def test_what_a_read_raises_is_raised(self, index: EmbeddedIndex) -> None:
        def fail(tx: Transaction) -> None:
            raise BlobUnknown("sha256:x")

        with pytest.raises(BlobUnknown):
            await index.read(fail)

    async def test_what_is_written_is_there_after_a_restart(self, path: Path) -> None:
        first = EmbeddedIndex(path)
        await first.write(add("a"))
        await first.note(add("b"))
        first.close()
        second = EmbeddedIndex(path)
        assert await second.read(known, "a", "b") == [True, True]
        second.close()

    async def test_a_fault_of_the_database_is_an_answer_and_the_index_goes_on(self, index: EmbeddedIndex) -> None:
        for run in (index.read, index.write, index.note):
            with pytest.raises(Unavailable):
                await run(lambda tx: tx.exec_driver_sql("SELECT * FROM no_such_table"))
            await index.write(add("after"))
            assert await index.read(known, "after") == [True]

    async def test_a_broken_rule_of_the_database_is_no_unavailability(self, index: EmbeddedIndex) -> None:
        def twice(tx: Transaction) -> None:
            for _ in range(2):
                tx.exec_driver_sql("INSERT INTO repository (name, created_ms) VALUES ('a', 0)")

        with pytest.raises(sa.exc.IntegrityError):
            await index.write(twice)
        assert await index.read(known, "a") == [False]


class TestBatches:
    async def test_those_who_wait_together_share_one_commit(self, index: EmbeddedIndex, path: Path) -> None:
        def look(tx: Transaction) -> tuple[list[bool], int]:
            with closing(sqlite3.connect(path)) as outside:
                [(committed,)] = outside.execute("SELECT count(*) FROM repository WHERE name = 'a'").fetchall()
            return known(tx, "a"), committed

        results = await together(index, add("a"), look)
        assert results[1] == ([True], 0)
        assert await index.read(known, "a") == [True]

    async def test_an_error_in_one_does_not_undo_the_others(self, index: EmbeddedIndex) -> None:
        def fail(tx: Transaction) -> None:
            names.find_or_add(tx, Repository("failed"))
            raise BlobUnknown("sha256:x")

        def collide(tx: Transaction) -> None:
            names.find_or_add(tx, Repository("collided"))
            tx.exec_driver_sql("INSERT INTO repository (name, created_ms) VALUES ('before', 0)")

        results = await together(index, add("before"), fail, add("between"), collide, add("after"))
        assert [type(result) for result in results] == [int, BlobUnknown, int, sa.exc.IntegrityError, int]
        found = await index.read(known, "before", "failed", "between", "collided", "after")
        assert found == [True, False, True, False, True]

    async def test_a_fault_of_the_database_is_everybodys_and_nothing_is_half_done(
        self, index: EmbeddedIndex
    ) -> None:
        results = await together(
            index, add("before"), lambda tx: tx.exec_driver_sql("SELECT * FROM no_such_table"), add("after")
        )
        assert [type(result) for result in results] == [Unavailable, Unavailable, Unavailable]
        assert await index.read(known, "before", "after") == [False, False]
        await index.write(add("before"))
        assert await index.read(known, "before") == [True]

    async def test_one_who_goes_away_while_waiting_disturbs_nobody(self, index: EmbeddedIndex) -> None:
        async with Blocker(index):
            tasks = [asyncio.create_task(index.write(add(f"r{number}"))) for number in range(6)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 3
        assert await index.read(known, "r1", "r3", "r5") == [True, True, True]
        await index.write(add("later"))

    async def test_one_who_goes_away_from_a_write_that_fails_disturbs_nobody(self, index: EmbeddedIndex) -> None:
        def fail(tx: Transaction) -> None:
            raise BlobUnknown("sha256:x")

        async with Blocker(index):
            tasks = [asyncio.create_task(index.write(fail)) for _ in range(4)]
            await asyncio.sleep(0)
            tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] + [BlobUnknown] * 3

    async def test_more_than_one_batch_takes_are_all_done_in_their_order(self, index: EmbeddedIndex) -> None:
        order: list[int] = []

        def note(number: int) -> Callable[[Transaction], None]:
            return lambda tx: order.append(number)

        await together(index, *map(note, range(300)))
        assert order == list(range(300))

    async def test_a_durable_write_among_notes_is_durable(self, index: EmbeddedIndex) -> None:
        """The batch is flushed when one of it asks for that, and the next batch of notes is not."""

        def flushes(tx: Transaction) -> int:
            return int(tx.exec_driver_sql("PRAGMA synchronous").scalar_one())

        full, normal = 2, 1
        assert await index.note(flushes) == normal
        assert await index.write(flushes) == full
        assert await index.note(flushes) == normal
        async with Blocker(index):
            tasks = [asyncio.create_task(run(flushes)) for run in (index.note, index.write, index.note)]
        assert await asyncio.gather(*tasks) == [full, full, full]

    async def test_closing_finishes_the_writes_that_wait(self, path: Path) -> None:
        index = EmbeddedIndex(path)
        entered, released = threading.Event(), threading.Event()

        def block(tx: Transaction) -> None:
            entered.set()
            assert released.wait(30)

        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(index.write(block))]
        assert await asyncio.to_thread(entered.wait, 30)
        tasks += [asyncio.create_task(index.write(add(f"r{number}"))) for number in range(5)]
        await asyncio.sleep(0)
        closing_ = asyncio.create_task(asyncio.to_thread(index.close))
        released.set()
        await asyncio.gather(*tasks, closing_)
        second = EmbeddedIndex(path)
        assert await second.read(known, *(f"r{number}" for number in range(5))) == [True] * 5
        second.close()

    def test_a_loop_that_has_ended_does_not_stop_the_writer(self, path: Path) -> None:
        index = EmbeddedIndex(path)
        entered, released = threading.Event(), threading.Event()

        def block(tx: Transaction) -> None:
            entered.set()
            assert released.wait(30)

        async def leave() -> None:
            waiting = asyncio.create_task(index.write(block))
            assert await asyncio.to_thread(entered.wait, 30)
            waiting.cancel()

        asyncio.run(leave())
        released.set()
        asyncio.run(index.write(add("later")))
        assert asyncio.run(index.read(known, "later")) == [True]
        index.close()


def start(tx: Transaction) -> None:
    """What the tests of the epoch find: a tagged manifest, another one, a blob, an upload."""
    put(tx, ONE, "latest")
    put(tx, OTHER)
    blobs.link(tx, TEAM, ONE, 3)
    uploads.add(tx, SESSION, 10)


SESSION = Session("id", TEAM, "somebody", "sha256")


def add_upload(tx: Transaction) -> None:
    uploads.add(tx, Session("other", TEAM, "somebody", "sha256"), 10)


def advance(tx: Transaction) -> None:
    assert uploads.advance(tx, SESSION, Progress(5, b"state"), b"tail")


def finish(tx: Transaction) -> None:
    uploads.finish(tx, "id", ONE)


def forget(tx: Transaction) -> None:
    uploads.remove(tx, "id")


def add_repository(tx: Transaction) -> None:
    names.find_or_add(tx, Repository("another"))


def add_blob(tx: Transaction) -> None:
    blobs.link(tx, TEAM, OTHER, 5)


def link_again(tx: Transaction) -> None:
    blobs.link(tx, TEAM, ONE, 3)


def mount(tx: Transaction) -> None:
    blobs.link(tx, Repository("another"), ONE, 3)


def add_manifest(tx: Transaction) -> None:
    put(tx, Digest.of(b"third"), "third")


def add_tag(tx: Transaction) -> None:
    put(tx, OTHER, "other")


def push_again(tx: Transaction) -> None:
    put(tx, ONE, "latest")


def move_tag(tx: Transaction) -> None:
    put(tx, OTHER, "latest")


def remove_tag(tx: Transaction) -> None:
    assert tags.remove(tx, TEAM, LATEST)


def remove_manifest(tx: Transaction) -> None:
    assert manifests.remove(tx, TEAM, ONE)


def remove_untagged_manifest(tx: Transaction) -> None:
    assert manifests.remove(tx, TEAM, OTHER)


def unlink(tx: Transaction) -> None:
    assert blobs.unlink(tx, TEAM, ONE)


def retype(tx: Transaction) -> None:
    put(tx, ONE, media_type=media.DOCKER_MANIFEST)


def remove_nothing(tx: Transaction) -> None:
    assert not tags.remove(tx, TEAM, Tag("none"))
    assert not manifests.remove(tx, TEAM, Digest.of(b"none"))
    assert not blobs.unlink(tx, TEAM, Digest.of(b"none"))
    assert not blobs.unlink(tx, Repository("none"), ONE)


CHANGES = [move_tag, remove_tag, remove_manifest, remove_untagged_manifest, unlink, retype]
ADDITIONS = [
    add_upload,
    advance,
    finish,
    forget,
    add_repository,
    add_blob,
    link_again,
    mount,
    add_manifest,
    add_tag,
    push_again,
    remove_nothing,
]


def by_name(function: Callable[..., Any]) -> str:
    return function.__name__


class TestEpoch:
    @pytest.mark.parametrize("change", CHANGES, ids=by_name)
    async def test_it_moves_when_another_process_overwrites_or_deletes(
        self, index: EmbeddedIndex, path: Path, another_process: ProcessPoolExecutor, change: Callable[..., Any]
    ) -> None:
        await index.write(start)
        before = await index.epoch()
        another_process.submit(elsewhere.write, path, change).result(60)
        assert await index.epoch() != before

    @pytest.mark.parametrize("addition", ADDITIONS, ids=by_name)
    async def test_it_stands_still_when_another_process_only_adds(
        self, index: EmbeddedIndex, path: Path, another_process: ProcessPoolExecutor, addition: Callable[..., Any]
    ) -> None:
        await index.write(start)
        before = await index.epoch()
        another_process.submit(elsewhere.write, path, addition).result(60)
        assert await index.epoch() == before

    @pytest.mark.parametrize("change", CHANGES, ids=by_name)
    async def test_it_moves_with_this_process_too(self, index: EmbeddedIndex, change: Callable[..., Any]) -> None:
        await index.write(start)
        before = await index.epoch()
        await index.write(change)
        after = await index.epoch()
        assert after != before
        assert await index.epoch() == after

    @pytest.mark.parametrize("addition", ADDITIONS, ids=by_name)
    async def test_it_stands_still_with_this_process_too(
        self, index: EmbeddedIndex, addition: Callable[..., Any]
    ) -> None:
        await index.write(start)
        before = await index.epoch()
        await index.write(addition)
        assert await index.epoch() == before

    async def test_a_change_that_was_taken_back_does_not_move_it(self, index: EmbeddedIndex) -> None:
        def change_and_fail(tx: Transaction) -> None:
            remove_manifest(tx)
            raise BlobUnknown("sha256:x")

        await index.write(start)
        before = await index.epoch()
        with pytest.raises(BlobUnknown):
            await index.write(change_and_fail)
        assert await index.epoch() == before

    async def test_it_never_returns_to_a_number_it_had(self, index: EmbeddedIndex) -> None:
        await index.write(start)
        seen = {await index.epoch()}
        for digest in (OTHER, ONE) * 5:
            await index.write(put, digest, "latest")
            epoch = await index.epoch()
            assert epoch not in seen
            seen.add(epoch)

    async def test_two_indexes_of_one_file_agree(self, index: EmbeddedIndex, path: Path) -> None:
        other = EmbeddedIndex(path)
        await index.write(start)
        for change in (move_tag, retype, unlink):
            await other.write(change)
            assert await index.epoch() == await other.epoch()
        other.close()


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    count = 200
    started = [
        context.Process(target=elsewhere.add_many, args=(path, writer, count, barrier)) for writer in ("a", "b")
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    index = EmbeddedIndex(path)

    async def check() -> None:
        assert await index.read(changes.count) == 2 * count
        for writer in ("a", "b"):
            for number in range(count):
                own = Repository(f"{writer}/r{number}")
                for name in (own, Repository("shared")):
                    assert await index.read(blobs.size, name, Digest.of(own.encode())) == number
        shared = [f"shared/r{number}" for number in range(count)]
        assert await index.read(known, *shared) == [True] * count

    asyncio.run(check())
    index.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM repository").fetchall() == [(3 * count + 1,)]
