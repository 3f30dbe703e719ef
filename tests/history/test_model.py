"""Pushes, moves, deletions, restores, forgetting and collection, against plain lists of what there is and was."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry.oci.digest import Digest
from registry.oci.errors import RegistryError
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Operator
from registry.server.index import blobs, history, names, schema
from registry.server.index.engine import EmbeddedIndex, Index
from registry.server.index.postgres import PostgresIndex
from registry.server.service.collect import Choices
from registry.server.service.history import History, Incomplete, NothingToRestore, Wanted
from registry.server.service.policy import Policy
from registry.server.service.repository import Repositories
from tests.gc.keeper import QUICK, collect_all, everything
from tests.gc.test_plan import Memory
from tests.support.oci import OCI_IMAGE, OCI_INDEX
from tests.support.postgres import Postgres

STEP_MS = 1000
TAGS = [Tag("one"), Tag("two")]
WHO = Operator("anna", "here")
_numbers = itertools.count()


class Store(Memory):
    """A content store that also takes manifests."""

    async def put(self, digest: Digest, pieces: Sequence[bytes]) -> None:
        self.digests.add(digest)


@dataclass
class Made:
    """A manifest: the blobs and the children that it names, and what it refers to."""

    blobs: frozenset[str]
    children: frozenset[str]
    subject: str | None
    pushed_ms: int
    is_deleted: bool = False


@dataclass
class Place:
    """One repository, in plain lists. A past is a tag (or nothing), a digest, since when, until when."""

    links: set[str] = field(default_factory=set)
    manifests: dict[str, Made] = field(default_factory=dict)
    tags: dict[str, tuple[str, int]] = field(default_factory=dict)
    past: list[tuple[str, str, int, int]] = field(default_factory=list)

    def point(self, tag: str, digest: str, now: int) -> None:
        if tag in self.tags and self.tags[tag][0] == digest:
            return
        self.end(tag, now)
        self.tags[tag] = digest, now

    def end(self, tag: str, now: int) -> None:
        if tag in self.tags:
            self.past.append((tag, *self.tags.pop(tag), now))

    def delete(self, digest: str, now: int) -> None:
        for tag in sorted(tag for tag, (to, _) in self.tags.items() if to == digest):
            self.end(tag, now)
        self.past.append((history.UNTAGGED, digest, self.manifests[digest].pushed_ms, now))
        self.manifests[digest].is_deleted = True

    def undo_of(self, tag: str) -> str | None:
        present = self.tags.get(tag, ("", 0))[0]
        return next((to for name, to, *_ in reversed(self.past) if name == tag and to != present), None)

    def restore(self, digest: str, tag: str | None, now: int) -> type[RegistryError] | None:
        if digest not in self.manifests:
            return NothingToRestore
        tree, waiting = set(), [digest]
        while waiting:
            each = waiting.pop()
            if each not in tree:
                tree.add(each)
                waiting += [child for child in self.manifests[each].children if child in self.manifests]
        for name in tree:
            made = self.manifests[name]
            if (made.is_deleted or name == digest) and not (
                made.blobs <= self.links and made.children <= set(self.manifests)
            ):
                return Incomplete
        for name in tree:
            self.manifests[name].is_deleted = False
        if tag is not None:
            self.point(tag, digest, now)
        return None

    def collect(self, delete_untagged: bool) -> None:
        remembered = {digest for _, digest, *_ in self.past}
        assert remembered <= set(self.manifests), "the history names what is gone"
        self.manifests = {n: m for n, m in self.manifests.items() if not m.is_deleted or n in remembered}
        if delete_untagged:
            marked = remembered | {to for to, _ in self.tags.values()}
            while True:
                reached = {c for n in marked for c in self.manifests[n].children if c in self.manifests}
                reached |= {n for n, m in self.manifests.items() if m.subject in marked}
                if reached <= marked:
                    break
                marked |= reached
            self.manifests = {n: m for n, m in self.manifests.items() if n in marked}
        self.links &= {each for made in self.manifests.values() for each in (*made.blobs, *made.children)}


class World:
    """The registry and the model of one of its repositories."""

    def __init__(self, index: Index, delete_untagged: bool, is_alone: bool) -> None:
        self.index = index
        self.delete_untagged = delete_untagged
        self.is_alone = is_alone
        self.store = Store()
        self.repository = Repository(f"team/r{next(_numbers)}")
        self.place = Place()
        policy = Policy()
        self.repositories = Repositories(index, self.store, policy)  # type: ignore[arg-type]
        self.history = History(index, policy)
        self.now = 10**12
        self.began = self.now
        self.moments: list[tuple[int, dict[str, str]]] = []

    async def step(self, name: str, number: int, how: int) -> None:
        await getattr(self, name)(number, how)
        self.moments.append((self.now, {tag: to for tag, (to, _) in self.place.tags.items()}))
        self.now += STEP_MS
        await self.compare()

    async def push_blob(self, number: int, _: int) -> None:
        digest = Digest.of(b"blob %d" % number)
        self.store.digests.add(digest)
        await self.index.write(blobs.link, self.repository, digest, 10)
        self.place.links.add(digest)

    async def push_image(self, number: int, how: int) -> None:
        layers = sorted(self.place.links)[: 1 + number % 3]
        if layers:
            body = {
                "config": _descriptor(layers[0]),
                "layers": [_descriptor(each) for each in layers],
                "annotations": {"number": str(number % 4)},
            }
            known = sorted(self.place.manifests)
            subject = known[how % len(known)] if known and how % 5 == 0 else None
            await self._push(OCI_IMAGE, body, frozenset(layers), frozenset(), subject, how)

    async def push_index(self, number: int, how: int) -> None:
        served = [name for name, made in sorted(self.place.manifests.items()) if not made.is_deleted]
        children = served[number % 3 :][:2]
        if children:
            body = {"manifests": [_descriptor(each, OCI_IMAGE) for each in children]}
            await self._push(OCI_INDEX, body, frozenset(), frozenset(children), None, how)

    async def _push(
        self,
        kind: str,
        body: dict[str, Any],
        named: frozenset[str],
        children: frozenset[str],
        subject: str | None,
        how: int,
    ) -> None:
        if subject is not None:
            body["subject"] = _descriptor(subject, OCI_IMAGE)
        payload = json.dumps({"schemaVersion": 2, "mediaType": kind, **body}).encode()
        digest = Digest.of(payload)
        with_tags = [[], TAGS[:1], TAGS[1:], TAGS][how % 4]
        await self.repositories.pushes.push(WHO, self.repository, digest, with_tags, kind, payload)
        before = self.place.manifests.get(digest)
        pushed_ms = self.now if before is None else before.pushed_ms
        self.place.manifests[digest] = Made(named, children, subject, pushed_ms)
        for tag in with_tags:
            self.place.point(tag, digest, self.now)

    def _some(self, number: int, how: int) -> Digest:
        known = [*sorted(self.place.manifests), Digest.of(b"not here")]
        return Digest(known[(number + how) % len(known)])

    async def delete_tag(self, number: int, _: int) -> None:
        tag = TAGS[number % 2]
        if tag in self.place.tags:
            await self.repositories.deletions.tag(WHO, self.repository, tag)
            self.place.end(tag, self.now)

    async def delete_manifest(self, number: int, how: int) -> None:
        digest = self._some(number, how)
        if digest in self.place.manifests and not self.place.manifests[digest].is_deleted:
            await self.repositories.deletions.manifest(WHO, self.repository, digest)
            self.place.delete(digest, self.now)

    async def delete_blob(self, number: int, _: int) -> None:
        digest = Digest.of(b"blob %d" % number)
        await self.index.write(blobs.unlink, self.repository, digest)
        self.place.links.discard(digest)

    async def undo(self, number: int, _: int) -> None:
        tag = TAGS[number % 2]
        to = self.place.undo_of(tag)
        expected = NothingToRestore if to is None else self.place.restore(to, tag, self.now)
        await self._restore(Wanted(tag), expected)

    async def restore_to(self, number: int, how: int) -> None:
        tag, digest = TAGS[number % 2], self._some(number, how)
        await self._restore(Wanted(tag, digest), self.place.restore(digest, tag, self.now))

    async def restore_manifest(self, number: int, how: int) -> None:
        digest = self._some(number, how)
        await self._restore(Wanted(to=digest), self.place.restore(digest, None, self.now))

    async def _restore(self, wanted: Wanted, expected: type[RegistryError] | None) -> None:
        if await self.index.read(names.find, self.repository) is None:
            return
        try:
            await self.history.restore(WHO, self.repository, wanted)
        except (NothingToRestore, Incomplete) as error:
            assert type(error) is expected  # noqa: PT017
        else:
            assert expected is None

    async def forget(self, number: int, _: int) -> None:
        keep_ms = (1 + number) * 2 * STEP_MS
        await History(self.index, Policy(history_seconds=keep_ms / 1000)).forget_old()
        self.place.past = [each for each in self.place.past if each[3] >= self.now - keep_ms]
        self.began = max(self.began, self.now - keep_ms)

    async def collect(self, *_: int) -> None:
        choices = Choices(0, QUICK, self.delete_untagged)
        await collect_all(self.index, self.store, choices)  # type: ignore[arg-type]
        self.place.collect(self.delete_untagged)
        if self.is_alone:
            assert self.store.digests == {*self.place.links, *self.place.manifests}

    async def compare(self) -> None:
        here = await self.index.read(names.find, self.repository)
        rows = await self._rows(schema.manifest, here)
        assert {row["digest"]: row["deleted_ms"] is not None for row in rows} == {
            name: made.is_deleted for name, made in self.place.manifests.items()
        }
        assert {row["digest"] for row in await self._rows(schema.blob_link, here)} == self.place.links
        tags = await self._rows(schema.tag, here)
        assert {row["name"]: row["digest"] for row in tags} == {n: to for n, (to, _) in self.place.tags.items()}
        past = await self._rows(schema.tag_history, here)
        assert [(row["name"], row["digest"], row["from_ms"], row["until_ms"]) for row in past] == self.place.past

    async def look_back(self) -> None:
        """Every moment that is remembered is known as it was."""
        for moment, then in self.moments:
            for tag in TAGS:
                point = await self.index.read(history.at, self.repository, tag, moment)
                if moment >= self.began:
                    assert (None if point is None else point.digest) == then.get(tag)

    async def list(self) -> None:
        """The history is what the lists say, the latest first, also page by page."""
        if await self.index.read(names.find, self.repository) is None:
            return
        entries = await self.history.entries(self.repository)
        listed = [(each.name, each.digest, each.from_ms, each.until_ms) for each in entries]
        assert listed == self.place.past[::-1]
        pages, after = [], 0
        while page := await self.history.entries(self.repository, None, after, 2):
            pages += page
            after = page[-1].id
        assert pages == entries
        for tag in (*TAGS, history.UNTAGGED):
            of_tag = await self.history.entries(self.repository, tag)
            assert of_tag == [each for each in entries if each.name == tag]
        assert [each.is_served for each in entries] == [
            not self.place.manifests[each.digest].is_deleted for each in entries
        ]

    async def _rows(self, table: Any, here: int | None) -> list[dict[str, Any]]:
        rows = await self.index.read(everything, table)
        return [row for row in rows if row["repository_id"] == here]


def _descriptor(digest: str, media_type: str = "application/octet-stream") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": 10}


NAMES = (
    *("push_image", "push_index", "undo", "restore_to", "delete_manifest", "collect") * 2,
    *("push_blob", "delete_tag", "delete_blob", "restore_manifest", "forget"),
)
Step = tuple[str, int, int]
START: list[Step] = [("push_blob", 0, 0), ("push_blob", 1, 0), ("push_image", 0, 1), ("push_image", 1, 1)]
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 5), st.integers(0, 11)), max_size=25)
# A deleted index comes back with a child that was deleted too, after a collection.
FAMILY: list[Step] = [
    ("push_index", 0, 1),
    *[("delete_manifest", number, 0) for number in range(3)],
    ("collect", 0, 0),
    ("undo", 0, 0),
    ("collect", 0, 0),
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    """Let time pass as a world says."""

    def follow(world: World) -> None:
        monkeypatch.setattr(names, "now_ms", lambda: world.now)

    return follow


async def live(world: World, steps: Sequence[Step]) -> None:
    for name, number, how in [*START, *steps, ("collect", 0, 0)]:
        await world.step(name, number, how)
    await world.look_back()
    await world.list()
    await world.step("forget", -1, 0)
    await world.step("collect", 0, 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, delete_untagged=st.booleans())
@example(steps=FAMILY, delete_untagged=True)
@example(steps=FAMILY, delete_untagged=False)
def test_all_that_was_comes_back_and_nothing_else_is_kept(
    migrated: Path, tmp_path: Path, clock: Callable[[World], None], steps: Sequence[Step], delete_untagged: bool
) -> None:
    async def run() -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        index = EmbeddedIndex(Path(shutil.copy(migrated, tmp_path / "index.sqlite3")))
        try:
            world = World(index, delete_untagged, is_alone=True)
            clock(world)
            await live(world, steps)
        finally:
            index.close()

    asyncio.run(run())


@pytest.fixture
def on_postgres(postgres: Postgres) -> Iterator[PostgresIndex]:
    index = PostgresIndex(postgres.url(postgres.database()), 2)
    yield index
    index.close()


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, delete_untagged=st.booleans())
@example(steps=FAMILY, delete_untagged=True)
def test_all_that_was_comes_back_on_postgresql(
    on_postgres: PostgresIndex, clock: Callable[[World], None], steps: Sequence[Step], delete_untagged: bool
) -> None:
    async def run() -> None:
        world = World(on_postgres, delete_untagged, is_alone=False)
        clock(world)
        await live(world, steps)

    asyncio.run(run())
