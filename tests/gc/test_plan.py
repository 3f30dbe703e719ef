"""The plan and what carries it out, against a naive mark and sweep over a model of the same registry."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, manifests, schema, tags
from registry.server.index.engine import EmbeddedIndex
from registry.server.index.manifests import Stored
from registry.server.service.collect import Choices
from tests.gc.keeper import QUICK, collect_all, everything
from tests.support.oci import OCI_IMAGE, OCI_INDEX

REPOSITORIES = [Repository("a"), Repository("b")]
TAGS = [Tag("one"), Tag("two")]


class Memory:
    """Of a content store what a collection needs."""

    settle_seconds = 1000.0

    def __init__(self, is_near: bool = True) -> None:
        self.is_near = is_near
        self.digests: set[str] = set()

    def has(self, digest: Digest) -> bool:
        return digest in self.digests

    def take_away(self, digest: Digest) -> None:
        self.digests.discard(digest)

    async def free(self) -> None:
        """There is nothing to wait for."""


@dataclass
class Place:
    """A repository of the model; a manifest is what it names and its subject."""

    links: set[str] = field(default_factory=set)
    manifests: dict[str, tuple[frozenset[str], str | None]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def sweep(self, delete_untagged: bool) -> None:
        """Keep what a tag leads to: through lists of children, and from subjects to what refers to them."""
        marked = set(self.tags.values()) if delete_untagged else set(self.manifests)
        while True:
            reached = {name for each in marked for name in self.manifests[each][0] if name in self.manifests}
            reached |= {name for name, (_, subject) in self.manifests.items() if subject in marked}
            if reached <= marked:
                break
            marked |= reached
        self.manifests = {name: each for name, each in self.manifests.items() if name in marked}
        named = {name for names, _ in self.manifests.values() for name in names}
        self.links &= named


@dataclass
class World:
    """A registry of both kinds: index and store, and the model of them."""

    index: EmbeddedIndex
    delete_untagged: bool
    store: Memory = field(default_factory=Memory)
    places: dict[Repository, Place] = field(default_factory=lambda: {name: Place() for name in REPOSITORIES})

    async def push_blob(self, where: int, number: int, _: int) -> None:
        repository = REPOSITORIES[where]
        digest = Digest.of(b"blob %d" % number)
        self.store.digests.add(digest)
        await self.index.write(blobs.link, repository, digest, 10)
        self.places[repository].links.add(digest)

    async def mount(self, where: int, number: int, _: int) -> None:
        if Digest.of(b"blob %d" % number) in self.places[REPOSITORIES[1 - where]].links:
            await self.push_blob(where, number, 0)

    async def push_image(self, where: int, number: int, how: int) -> None:
        """With some layers, perhaps a subject (which need not be there), perhaps a tag."""
        place = self.places[REPOSITORIES[where]]
        layers = sorted(place.links)[: 1 + number % 3]
        if layers:
            subject = self._some_manifest(place, how // 3) if how % 3 == 0 else None
            body = {
                "config": _descriptor(layers[0]),
                "layers": [_descriptor(each) for each in layers],
                "annotations": {"number": str(number % 4)},
            }
            await self._push(where, OCI_IMAGE, body, set(layers), subject, how)

    async def push_index(self, where: int, number: int, how: int) -> None:
        """Of manifests that are there, other indexes among them, perhaps with one of its children as subject."""
        place = self.places[REPOSITORIES[where]]
        children = sorted(place.manifests)[number % 3 :][:2]
        if children:
            subject = children[0] if how % 3 == 0 else None
            body = {"manifests": [_descriptor(each, OCI_IMAGE) for each in children]}
            await self._push(where, OCI_INDEX, body, set(children), subject, how)

    async def _push(
        self, where: int, kind: str, body: dict[str, Any], names: set[str], subject: str | None, how: int
    ) -> None:
        if subject is not None:
            body["subject"] = _descriptor(subject, OCI_IMAGE)
        payload = json.dumps({"schemaVersion": 2, "mediaType": kind, **body}).encode()
        document = documents.parse(payload, kind)
        stored = Stored(Digest.of(payload), kind, payload)
        with_tags = [TAGS[how % 2]] if how % 4 < 2 else []
        self.store.digests.add(stored.digest)
        await self.index.write(manifests.put, REPOSITORIES[where], stored, document, with_tags)
        place = self.places[REPOSITORIES[where]]
        place.manifests[stored.digest] = frozenset(names), subject
        place.tags.update(dict.fromkeys(with_tags, stored.digest))

    def _some_manifest(self, place: Place, number: int) -> str:
        known = [*sorted(place.manifests), Digest.of(b"not here")]
        return known[number % len(known)]

    async def delete_tag(self, where: int, number: int, _: int) -> None:
        tag = TAGS[number % 2]
        await self.index.write(tags.remove, REPOSITORIES[where], tag)
        self.places[REPOSITORIES[where]].tags.pop(tag, None)

    async def delete_manifest(self, where: int, number: int, _: int) -> None:
        place = self.places[REPOSITORIES[where]]
        if place.manifests:
            digest = sorted(place.manifests)[number % len(place.manifests)]
            await self.index.write(manifests.remove, REPOSITORIES[where], Digest(digest))
            del place.manifests[digest]
            place.tags = {name: to for name, to in place.tags.items() if to != digest}

    async def delete_blob(self, where: int, number: int, _: int) -> None:
        digest = Digest.of(b"blob %d" % number)
        await self.index.write(blobs.unlink, REPOSITORIES[where], digest)
        self.places[REPOSITORIES[where]].links.discard(digest)

    async def collect(self, *_: int) -> None:
        choices = Choices(0, QUICK, self.delete_untagged)
        await collect_all(self.index, self.store, choices)  # type: ignore[arg-type]
        for place in self.places.values():
            place.sweep(self.delete_untagged)
        await self.compare()

    async def compare(self) -> None:
        ids = {row["name"]: row["id"] for row in await self.index.read(everything, schema.repository)}
        for name, place in self.places.items():
            here = ids.get(name)
            assert await self._digests(schema.blob_link, here) == place.links
            assert await self._digests(schema.manifest, here) == set(place.manifests)
        every = {each for place in self.places.values() for each in (*place.links, *place.manifests)}
        assert self.store.digests == every
        assert {row["digest"] for row in await self.index.read(everything, schema.blob)} == every

    async def _digests(self, table: Any, repository_id: int | None) -> set[str]:
        rows = await self.index.read(everything, table)
        return {row["digest"] for row in rows if row["repository_id"] == repository_id}


def _descriptor(digest: str, media_type: str = "application/octet-stream") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": 10}


NAMES = (
    *("push_blob",) * 4,
    *("push_image", "push_index") * 3,
    *("mount", "delete_tag", "delete_manifest", "delete_blob", "collect"),
)
Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 1), st.integers(0, 5), st.integers(0, 11)), max_size=30
)
# An index and its child that refer to each other: nothing but each other keeps them.
CYCLE: list[Step] = [
    ("push_blob", 0, 0, 0),
    ("push_image", 0, 0, 1),
    ("push_index", 0, 0, 0),
    ("collect", 0, 0, 0),
    ("delete_tag", 0, 0, 0),
    ("collect", 0, 0, 0),
    ("delete_tag", 0, 1, 0),
]
# A tag that moves when all that came before is settled.
MOVED: list[Step] = [
    ("push_blob", 0, 0, 0),
    ("push_image", 0, 0, 1),
    ("collect", 0, 0, 0),
    ("push_image", 0, 1, 1),
]


@pytest.fixture
def fresh(migrated: Path, tmp_path: Path) -> Callable[[], EmbeddedIndex]:
    """Open an index with nothing in it."""

    def make() -> EmbeddedIndex:
        for path in tmp_path.iterdir():
            path.unlink()
        return EmbeddedIndex(Path(shutil.copy(migrated, tmp_path / "index.sqlite3")))

    return make


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, delete_untagged=st.booleans(), is_near=st.booleans())
@example(steps=CYCLE, delete_untagged=True, is_near=True)
@example(steps=MOVED, delete_untagged=True, is_near=False)
def test_what_is_left_is_what_a_mark_and_sweep_leaves(
    fresh: Callable[[], EmbeddedIndex], steps: Sequence[Step], delete_untagged: bool, is_near: bool
) -> None:
    async def live() -> None:
        index = fresh()
        try:
            world = World(index, delete_untagged, Memory(is_near))
            for name, *arguments in steps:
                await getattr(world, name)(*arguments)
            await world.collect()
        finally:
            index.close()

    asyncio.run(live())
