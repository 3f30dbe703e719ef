"""One copy between any two places: what moves, in which order, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, SizeInvalid
from registry.oci.platform import Platform, PlatformUnknown, choose
from registry.oci.reference import Tag
from registry.transfer.copy import Choice, Event, copy
from registry.transfer.plan import make_plan
from tests.support import images
from tests.support.images import Image, Index
from tests.transfer.memory import Memory

V1 = Tag("v1")


def small_image(number: int, layers: int = 2, architecture: str = "amd64") -> Image:
    """An image of tiny layers, which images of other numbers share where those are even."""
    tars = [images.layer([images.Entry("n", b"%d" % (place if place % 2 else number))]) for place in range(layers)]
    return images.make_image(tars, command=(str(number),), platform={"os": "linux", "architecture": architecture})


def test_children_come_before_parents_and_the_root_last() -> None:
    source, target = Memory(), Memory()
    index = images.make_index([small_image(1), small_image(2)])
    root = source.put(index, "v1")
    asyncio.run(copy(source, V1, target, Tag("copied")))
    assert target.contents == source.contents
    assert target.log[-1] == root.digest
    assert target.names == {"copied": root}


def test_what_is_there_is_not_copied_again() -> None:
    source, target = Memory(), Memory()
    source.put(small_image(1), "v1")
    asyncio.run(copy(source, V1, target, V1))
    before, events = list(target.log), list[Event]()
    asyncio.run(copy(source, V1, target, Tag("v2"), observe=events.append))
    assert target.log == before
    assert [event.kind for event in events] == ["present"]
    assert set(target.names) == {"v1", "v2"}


def test_a_copy_that_failed_goes_on_from_what_arrived() -> None:
    source, target = Memory(), Memory()
    image = small_image(1, layers=4)
    source.put(image, "v1")
    target.failing = {image.layers[-1].digest}
    with pytest.raises(ConnectionResetError):
        asyncio.run(copy(source, V1, target, V1, Choice(blobs_at_once=1)))
    assert not target.names
    assert image.digest not in target.contents
    arrived = set(target.log)
    target.failing, target.log = set(), []
    asyncio.run(copy(source, V1, target, V1))
    assert arrived.isdisjoint(target.log)
    assert target.contents == source.contents


@pytest.mark.parametrize(
    ("damage", "error"), [(b"!", DigestInvalid), (b"longer!!", SizeInvalid), (b"", SizeInvalid)]
)
def test_content_that_is_not_what_its_digest_says_is_not_taken(damage: bytes, error: type[Exception]) -> None:
    source, target = Memory(), Memory()
    image = small_image(1)
    source.put(image, "v1")
    blob = image.layers[0].digest
    data = source.contents[blob]
    source.contents[blob] = data[:-1] + damage if damage else data[:-1]
    with pytest.raises(error):
        asyncio.run(copy(source, V1, target, V1))
    assert blob not in target.contents
    assert not target.names


def test_one_platform_of_an_index_is_its_image_alone() -> None:
    source, target = Memory(), Memory()
    arm, amd = small_image(1, architecture="arm64"), small_image(2)
    source.put(images.make_index([arm, amd]), "v1")
    found = asyncio.run(copy(source, V1, target, V1, Choice(Platform("linux", "arm64"))))
    assert found.digest == arm.digest
    assert set(target.contents) == {blob.digest for blob in (*arm.blobs, *arm.manifests)}


def test_a_platform_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    source = Memory()
    source.put(images.make_index([small_image(1, architecture="arm64"), small_image(2)]), "v1")
    with pytest.raises(PlatformUnknown, match="linux/riscv64; there are: linux/amd64, linux/arm64"):
        asyncio.run(copy(source, V1, Memory(), V1, Choice(Platform("linux", "riscv64"))))


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/arm64", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7"),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm/v7"], "linux/arm/v5"),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("aarch64", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/amd64", ["windows/amd64"], None),
    ],
)
def test_a_variant_is_chosen_that_runs_there(wanted: str, offered: list[str], chosen: str | None) -> None:
    place = choose([Platform.parse_text(text) for text in offered], Platform.parse_text(wanted))
    assert (None if place is None else offered[place]) == chosen


@pytest.mark.parametrize("text", ["", "linux/", "a/b/c/d", "linux/amd 64", "linux", "/amd64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(PlatformUnknown):
        Platform.parse_text(text)


def test_what_refers_to_an_image_comes_along_when_it_is_wanted() -> None:
    source = Memory()
    image = small_image(1)
    source.put(image, "v1")
    signature = images.artifact(image, "application/signature", b"signed")
    source.put(signature)
    source.put(images.artifact(signature, "application/note", b"about the signature"))
    with_all, without = Memory(), Memory()
    asyncio.run(copy(source, V1, with_all, V1, Choice(referrers=True)))
    asyncio.run(copy(source, V1, without, V1))
    assert with_all.contents == source.contents
    assert signature.digest not in without.contents


def test_lists_of_referrers_that_lie_in_a_circle_end() -> None:
    source, target = Memory(), Memory()
    one, two = source.put(small_image(1), "v1"), source.put(small_image(2))
    source.lies = {one.digest: [two], two.digest: [one]}

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await copy(source, V1, target, V1, Choice(referrers=True))

    asyncio.run(bounded())
    assert set(target.contents) == set(source.contents)


def test_indexes_nested_too_deeply_are_refused() -> None:
    source = Memory()
    item: Image | Index = small_image(1)
    for _ in range(12):
        child = item.manifest
        document = {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [child.descriptor()]}
        manifest = images.Blob(images.OCI_INDEX, json.dumps(document).encode())
        source.put(item)
        item = Image(manifest, manifest, ())
    source.put(item, "v1")
    with pytest.raises(Exception, match="nested more than"):
        asyncio.run(copy(source, V1, Memory(), V1))


def test_a_plan_says_what_would_move_and_moves_nothing() -> None:
    source, target = Memory(), Memory()
    first, second = small_image(2, 3), small_image(4, 3)
    source.put(first, "v1")
    root = source.put(images.make_index([first, second]), "v2")
    asyncio.run(copy(source, V1, target, V1))
    before = dict(target.contents)
    plan = asyncio.run(make_plan(source, target, root))
    assert target.contents == before
    assert [each.digest for each in plan.present] == [first.digest]
    assert {node.descriptor.digest for node in plan.manifests} == {second.digest, root.digest}


Numbers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(Numbers, min_size=1, max_size=3), at_once=st.integers(1, 5), data=st.data())
def test_after_any_failures_a_copy_ends_with_everything(
    groups: list[list[tuple[int, int]]], at_once: int, data: st.DataObject
) -> None:
    source, target = Memory(), Memory()
    for place, group in enumerate(groups):
        source.put(images.make_index([small_image(*each) for each in group]), f"t{place}")
    pushed = sorted(source.contents)
    target.failing = set(data.draw(st.lists(st.sampled_from(pushed), max_size=4)))
    failed = 0
    for place in range(len(groups)):
        try:
            asyncio.run(copy(source, Tag(f"t{place}"), target, Tag("x"), Choice(blobs_at_once=at_once)))
        except ConnectionResetError:
            failed += 1
    assert failed or not target.failing
    target.failing = set()
    for place in range(len(groups)):
        asyncio.run(copy(source, Tag(f"t{place}"), target, Tag(f"t{place}")))
    assert target.contents == source.contents
    assert len(target.log) == len(set(target.log))


def test_blobs_move_side_by_side_and_never_more_than_asked_for() -> None:
    source = Memory()
    source.put(images.make_image([images.layer([images.Entry(f"f{n}", b"%d" % n)]) for n in range(8)]), "v1")
    at_once, most = 0, 0

    class Slow(Memory):
        async def push(self, descriptor: Descriptor, *more: object) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            for _ in range(5):
                await asyncio.sleep(0)
            at_once -= 1
            await super().push(descriptor, *more)  # type: ignore[arg-type]

    asyncio.run(copy(source, V1, Slow(), V1, Choice(blobs_at_once=3)))
    assert most == 3


def test_a_digest_is_enough_to_copy_by() -> None:
    source, target = Memory(), Memory()
    root = source.put(small_image(1))
    source.names[root.digest] = root
    asyncio.run(copy(source, Digest(root.digest), target))
    assert target.contents == source.contents
    assert not target.names
