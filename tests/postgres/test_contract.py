"""What holds of every index, SQLite's and PostgreSQL's: transactions, the epoch, and races between writers.

Two indexes of one database stand for two processes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from registry.content.store import Progress
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import ManifestUnknown
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, changes, leases, manifests, names, schema, tags, uploads
from registry.server.index.engine import Index, Transaction
from registry.server.index.manifests import Stored
from registry.server.index.uploads import Session
from tests.postgres.conftest import OpenIndex
from tests.support import oci

WEB = Repository.parse("team/web")
MANY = 24


def document(words: str = "", **fields: Any) -> tuple[Stored, Manifest]:
    """A manifest to record."""
    content = oci.image(oci.EMPTY, [], annotations={"words": words}, **fields)
    parsed = documents.parse(content.data, content.media_type)
    return Stored(Digest.parse(content.digest), content.media_type, content.data), parsed


async def put(index: Index, made: tuple[Stored, Manifest], *with_tags: str) -> list[Tag]:
    return await index.write(manifests.put, WEB, *made, [Tag.parse(tag) for tag in with_tags])


async def dangling(index: Index) -> Sequence[Any]:
    """Tags of manifests that are not there."""
    tag, manifest = schema.tag, schema.manifest
    same = sa.and_(manifest.c.repository_id == tag.c.repository_id, manifest.c.digest == tag.c.digest)
    statement = sa.select(tag.c.name).where(~sa.exists().where(same))
    return await index.read(lambda tx: tx.execute(statement).all())


class TestTransactions:
    def test_what_was_written_is_read_by_every_process(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            number = await one.write(names.find_or_add, WEB)
            assert await one.read(names.find, WEB) == await other.read(names.find, WEB) == number

        asyncio.run(run())

    def test_what_was_noted_is_read_by_every_process(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            session = Session("s", WEB, "me", "sha256", Progress(3, b"\x00state", b"parts\xff"), b"\x00tail")
            assert await one.note(uploads.add, session, 10)
            assert await other.read(uploads.get, "s") == session

        asyncio.run(run())

    def test_an_error_undoes_what_its_transaction_wrote_and_nothing_else(self, open_index: OpenIndex) -> None:
        def fail(tx: Transaction) -> None:
            names.find_or_add(tx, Repository.parse("gone/again"))
            raise ManifestUnknown("x")

        async def run() -> None:
            index = open_index()
            outcomes = await asyncio.gather(
                index.write(names.find_or_add, WEB),
                index.write(fail),
                index.note(names.find_or_add, Repository.parse("a/b")),
                return_exceptions=True,
            )
            assert isinstance(outcomes[1], ManifestUnknown)
            assert await index.read(names.find, Repository.parse("gone/again")) is None
            assert await index.read(names.find, WEB) == outcomes[0]
            assert await index.read(names.find, Repository.parse("a/b")) == outcomes[2]

        asyncio.run(run())

    def test_a_caller_who_goes_away_disturbs_nobody(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            index = open_index()
            waiting = [asyncio.ensure_future(index.write(names.find_or_add, WEB)) for _ in range(MANY)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            number = await index.read(names.find, WEB)
            assert {outcome for outcome in outcomes if isinstance(outcome, int)} == {number}

        asyncio.run(run())

    def test_a_manifest_with_very_many_tags_is_removed_with_them(self, open_index: OpenIndex) -> None:
        """What is noted of each tag is noted once, however long the statement takes."""

        async def run() -> None:
            index, made = open_index(), document()
            await put(index, made, *(f"tag{number}" for number in range(2000)))
            assert await index.write(manifests.remove, WEB, made[0].digest)
            assert await index.read(tags.page, WEB, "", 10) == []

        asyncio.run(run())


class TestEpoch:
    def test_it_moves_for_every_process_with_what_makes_answers_wrong(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            old, new = document("old"), document("new")
            await put(one, old, "latest", "stays")
            digest = Digest.of(b"blob")
            await one.write(blobs.link, WEB, digest, 4)
            wrong_after = [
                lambda: put(one, new, "latest"),
                lambda: one.write(tags.remove, WEB, Tag("latest")),
                lambda: one.write(manifests.remove, WEB, new[0].digest),
                lambda: one.write(blobs.unlink, WEB, digest),
            ]
            for change in wrong_after:
                before = await one.epoch(), await other.epoch()
                await change()
                after = await one.epoch(), await other.epoch()
                assert after[0] > before[0]
                assert after[1] > before[1]

        asyncio.run(run())

    def test_it_stands_still_for_what_only_adds(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            before = await one.epoch(), await other.epoch()
            await put(one, document("1"), "latest")
            await put(one, document("1"), "latest")
            await one.write(blobs.link, WEB, Digest.of(b"blob"), 4)
            await one.note(uploads.add, Session("s", WEB, "me", "sha256"), 10)
            assert (await one.epoch(), await other.epoch()) == before

        asyncio.run(run())

    def test_it_stands_still_for_what_was_undone(self, open_index: OpenIndex) -> None:
        def change_mind(tx: Transaction) -> None:
            changes.mark(tx)
            raise ManifestUnknown("x")

        async def run() -> None:
            one, other = open_index(), open_index()
            before = await other.epoch()
            with pytest.raises(ManifestUnknown):
                await one.write(change_mind)
            assert await other.epoch() == before

        asyncio.run(run())

    def test_changes_at_once_are_all_counted(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            await asyncio.gather(*(index.write(changes.mark) for index in [one, other] * MANY))
            assert await one.read(changes.count) == 2 * MANY

        asyncio.run(run())


class TestRaces:
    def test_a_new_repository_has_one_number_for_all_who_add_it(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            indexes = [open_index(), open_index()]
            for turn in range(10):
                name = Repository.parse(f"team/r{turn}")
                found = await asyncio.gather(*(i.write(names.find_or_add, name) for i in indexes * MANY))
                assert len(set(found)) == 1

        asyncio.run(run())

    def test_of_all_who_set_a_new_tag_one_finds_it_free(self, open_index: OpenIndex) -> None:
        """Who may not overwrite is refused by this, so it has to be exact."""

        async def run() -> None:
            indexes = [open_index(), open_index()]
            made = [document(str(number)) for number in range(8)]
            await asyncio.gather(*(put(indexes[0], one) for one in made))
            for turn in range(10):
                pushes = [put(index, one, f"t{turn}") for index, one in zip(indexes * 4, made, strict=True)]
                moved = await asyncio.gather(*pushes)
                assert sorted(map(len, moved)) == [0, *[1] * 7]

        asyncio.run(run())

    def test_a_manifest_pushed_by_many_at_once_is_there_once(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            indexes = [open_index(), open_index()]
            for turn in range(10):
                made = document(str(turn))
                await asyncio.gather(*(put(index, made, "latest") for index in indexes * 8))
                assert await indexes[0].read(manifests.get, WEB, made[0].digest) == made[0]
                assert await indexes[0].read(manifests.get, WEB, Tag("latest")) == made[0]
            count = sa.select(sa.func.count()).select_from(schema.manifest)
            assert await indexes[0].read(lambda tx: tx.execute(count).scalar()) == 10

        asyncio.run(run())

    def test_no_tag_outlives_its_manifest(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            indexes = [open_index(), open_index()]
            made = [document(str(number)) for number in range(3)]
            chosen = random.Random(1)

            async def push_and_delete(index: Index) -> None:
                for _ in range(40):
                    one = chosen.choice(made)
                    if chosen.random() < 0.5:
                        await index.write(manifests.remove, WEB, one[0].digest)
                    else:
                        await put(index, one, *chosen.sample(["a", "b", "c"], chosen.randint(1, 3)))

            await asyncio.gather(*(push_and_delete(index) for index in indexes * 4))
            assert await dangling(indexes[0]) == []

        asyncio.run(run())

    def test_one_of_all_who_go_on_with_an_upload_does(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            indexes = [open_index(), open_index()]
            was = Session("s", WEB, "me", "sha256")
            await indexes[0].note(uploads.add, was, 10)
            tails = [bytes([number]) for number in range(MANY)]
            won = await asyncio.gather(
                *(
                    index.note(uploads.advance, was, Progress(), tail)
                    for index, tail in zip(itertools.cycle(indexes), tails, strict=False)
                )
            )
            assert sum(won) == 1
            now = await indexes[1].read(uploads.get, "s")
            assert now is not None
            assert now.tail == tails[won.index(True)]

        asyncio.run(run())


class TestOrder:
    def test_names_and_tags_come_in_byte_order(self, open_index: OpenIndex) -> None:
        parts = ["b", "a", "a-b", "a_b", "a.b", "a/b", "ab", "a0"]
        mixed = ["b", "B", "a", "A", "a-b", "a.b", "a_b", "aB", "a0", "0a", "_a"]

        async def run() -> None:
            index = open_index()
            made = document()
            for part in parts:
                await index.write(manifests.put, Repository.parse(f"x/{part}"), *made, [])
            await put(index, made, *mixed)
            assert await index.read(names.page, "x/", 100) == sorted(f"x/{part}" for part in parts)
            assert await index.read(tags.page, WEB, "", 100) == sorted(mixed)
            assert await index.read(tags.page, WEB, "_", 2) == ["_a", "a"]

        asyncio.run(run())


class TestLeases:
    def test_a_lease_has_one_holder_who_may_take_it_again(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            assert await one.write(leases.acquire, "work", "one", 60)
            assert await one.write(leases.acquire, "work", "one", 60)
            assert not await other.write(leases.acquire, "work", "other", 60)
            assert not await other.write(leases.renew, "work", "other", 60)
            assert await one.write(leases.renew, "work", "one", 60)
            assert await other.write(leases.acquire, "other work", "other", 60)

        asyncio.run(run())

    def test_one_of_all_who_ask_at_once_gets_it(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            indexes = [open_index(), open_index()]
            for turn in range(5):
                asked = [
                    index.write(leases.acquire, f"work{turn}", str(number), 60)
                    for number, index in enumerate(indexes * 8)
                ]
                assert sum(await asyncio.gather(*asked)) == 1

        asyncio.run(run())

    def test_a_lease_of_the_dead_is_taken_when_its_time_is_over(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            assert await one.write(leases.acquire, "work", "one", 0.3)
            assert not await other.write(leases.acquire, "work", "other", 60)
            async with asyncio.timeout(10):
                while not await other.write(leases.acquire, "work", "other", 60):
                    await asyncio.sleep(0.02)
            assert not await one.write(leases.renew, "work", "one", 60)
            await one.write(leases.release, "work", "one")  # which is another's now
            assert await other.write(leases.renew, "work", "other", 60)

        asyncio.run(run())

    def test_a_lease_that_was_released_is_free_at_once(self, open_index: OpenIndex) -> None:
        async def run() -> None:
            one, other = open_index(), open_index()
            assert await one.write(leases.acquire, "work", "one", 60)
            await one.write(leases.release, "work", "one")
            assert await other.write(leases.acquire, "work", "other", 60)

        asyncio.run(run())
