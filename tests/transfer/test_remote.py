"""Repositories of real registries: ours, and Debian's docker-registry, which lacks what newer ones have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown, DigestInvalid, ManifestUnknown, SizeInvalid
from registry.oci.reference import ImageName, Tag
from registry.transfer import lists
from registry.transfer.copy import Choice, Event, copy
from registry.transfer.remote import Remote, fallback_tag
from registry.transfer.target import Pieces, Read, from_bytes, read_all
from tests.support import images
from tests.support.server import Server
from tests.transfer.conftest import MakeWay
from tests.transfer.memory import Memory
from tests.transfer.test_copy import small_image

Body = Callable[[Callable[[str], Remote]], Awaitable[None]]
OCTETS = "application/octet-stream"
V1 = Tag("v1")


@pytest.fixture(params=["ours", "debian"])
def host(request: pytest.FixtureRequest) -> str:
    """A registry that the session shares."""
    if request.param == "debian":
        found: str = request.getfixturevalue("debian_host")
        return found
    server: Server = request.getfixturevalue("server")
    return server.host


@pytest.fixture
def inside(host: str, make_way: MakeWay) -> Callable[[Body], None]:
    """Run a test's coroutine with a function that opens repositories of the registry."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with make_way() as way:
                await body(lambda name: way.target(ImageName.parse(f"{host}/{name}")))

        asyncio.run(main())

    return run


def in_pieces(data: bytes, size: int = 100_000) -> Read:
    """Content that comes in pieces."""

    async def read(start: int) -> Pieces:
        for place in range(start, len(data), size):
            yield data[place : place + size]

    return read


@pytest.mark.parametrize("size_bytes", [0, 1, 65_536, 65_537, 3_000_001])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_that_was_pushed_comes_back(
    inside: Callable[[Body], None], repository: str, size_bytes: int, algorithm: str
) -> None:
    data = os.urandom(size_bytes)
    blob = Descriptor(OCTETS, Digest.of(data, algorithm), size_bytes)

    async def body(open_it: Callable[[str], Remote]) -> None:
        place = open_it(repository)
        assert not await place.exists(blob)
        await place.push(blob, in_pieces(data))
        assert await place.exists(blob)
        await place.push(blob, in_pieces(data))
        assert await read_all(place, blob, 1 << 30) == data
        half = [piece async for piece in place.fetch(blob, size_bytes // 2)]
        assert b"".join(half) == data[size_bytes // 2 :]

    inside(body)


@pytest.mark.parametrize("size_bytes", [1000, 200_000])
def test_a_blob_that_is_not_what_its_digest_says_is_not_pushed(
    inside: Callable[[Body], None], repository: str, size_bytes: int
) -> None:
    data = os.urandom(size_bytes)
    wrong = Descriptor(OCTETS, Digest.of(b"else"), size_bytes)
    short = Descriptor(OCTETS, Digest.of(data), size_bytes + 1)
    long = Descriptor(OCTETS, Digest.of(data), size_bytes - 1)

    async def body(open_it: Callable[[str], Remote]) -> None:
        place = open_it(repository)
        for blob, error in ((wrong, DigestInvalid), (short, SizeInvalid), (long, SizeInvalid)):
            with pytest.raises(error):
                await place.push(blob, in_pieces(data))
            assert not await place.exists(blob)

    inside(body)


def test_images_go_up_and_come_down_with_what_refers_to_them(
    inside: Callable[[Body], None], repository: str
) -> None:
    memory, back = Memory(), Memory()
    image = small_image(7)
    root = memory.put(images.make_index([image, small_image(8, architecture="arm64")]), "v1")
    for text in (b"one", b"two"):
        memory.put(images.artifact(image, "application/signature", text))

    async def body(open_it: Callable[[str], Remote]) -> None:
        place = open_it(repository)
        await copy(memory, V1, place, V1, Choice(referrers=True))
        assert await place.resolve(V1) == root
        assert await place.resolve(root.digest) == root
        assert len(await place.referrers(Digest(image.digest))) == 2
        assert await place.referrers(Digest.of(b"nothing")) == []
        await copy(place, V1, back, V1, Choice(referrers=True))

    inside(body)
    assert back.contents == memory.contents


def test_blobs_of_a_neighbour_are_mounted(inside: Callable[[Body], None], repository: str) -> None:
    memory = Memory()
    memory.put(images.make_image([images.layer([images.Entry("x", repository.encode())])]), "v1")
    events: list[Event] = []

    async def body(open_it: Callable[[str], Remote]) -> None:
        one, two = open_it(repository + "/one"), open_it(repository + "/two")
        await copy(memory, V1, one, V1)
        await copy(one, V1, two, V1, observe=events.append)
        missing = Descriptor(OCTETS, Digest.of(b"not there"), 9)
        assert not await two.mount(missing, one.repository)

    inside(body)
    assert [event.kind for event in events if event.kind != "waiting"] == ["mounted", "mounted", "done"]


def test_our_registry_gives_a_blob_over_that_another_repository_has(
    server: Server, make_way: MakeWay, repository: str
) -> None:
    data = os.urandom(300_000)
    blob = Descriptor(OCTETS, Digest.of(data), len(data))

    async def nothing(start: int) -> Pieces:
        raise AssertionError("its bytes were sent again")
        yield b""

    async def body() -> None:
        async with make_way() as way:
            one, two = (way.target(ImageName.parse(f"{server.host}/{repository}/{n}")) for n in ("one", "two"))
            await one.push(blob, in_pieces(data))
            await two.push(blob, nothing)
            assert await read_all(two, blob, 1 << 30) == data

    asyncio.run(body())


def test_all_tags_are_listed_page_by_page(
    inside: Callable[[Body], None], repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "PAGE", 2)
    memory = Memory()
    memory.put(small_image(1), "v1")
    names = sorted(f"t{number}" for number in range(5))

    async def body(open_it: Callable[[str], Remote]) -> None:
        place = open_it(repository)
        for name in names:
            await copy(memory, V1, place, Tag(name))
        assert sorted([tag async for tag in place.tags()]) == names
        found = [each async for each in lists.catalog(place.host)]
        assert repository in found
        assert len(found) == len(set(found))

    inside(body)


def test_what_is_missing_is_named(inside: Callable[[Body], None], repository: str, host: str) -> None:
    async def body(open_it: Callable[[str], Remote]) -> None:
        place = open_it(repository)
        with pytest.raises(ManifestUnknown, match=f"{host}/{repository}:nope: not found"):
            await place.resolve(Tag("nope"))
        with pytest.raises(BlobUnknown, match="is not there"):
            await read_all(place, Descriptor(OCTETS, Digest.of(b"x"), 1))

    inside(body)


def test_referrers_of_an_old_registry_are_kept_under_the_fallback_tag(
    debian_host: str, make_way: MakeWay, repository: str
) -> None:
    memory = Memory()
    image = small_image(5)
    memory.put(image, "v1")
    memory.put(images.artifact(image, "application/signature", b"signed"))

    async def body() -> None:
        async with make_way() as way:
            place = way.target(ImageName.parse(f"{debian_host}/{repository}"))
            await copy(memory, V1, place, V1, Choice(referrers=True))
            listed = await place.resolve(fallback_tag(Digest(image.digest)))
            assert listed.media_type == media.OCI_INDEX
            data = await read_all(place, listed)
            await copy(memory, V1, place, V1, Choice(referrers=True))
            assert await read_all(place, await place.resolve(fallback_tag(Digest(image.digest)))) == data

    asyncio.run(body())


def test_a_source_that_fails_while_it_is_pushed_says_why(inside: Callable[[Body], None], repository: str) -> None:
    blob = Descriptor(OCTETS, Digest.of(b"x" * 200_000), 200_000)

    async def read(start: int) -> Pieces:
        yield b"x" * 100_000
        raise BlobUnknown("the source lost it")

    async def body(open_it: Callable[[str], Remote]) -> None:
        place = open_it(repository)
        with pytest.raises(BlobUnknown):
            await place.push(blob, read)
        assert not await place.exists(blob)
        await place.push(blob, from_bytes(b"x" * 200_000))

    inside(body)
