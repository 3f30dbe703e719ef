"""Many clients at once, on several workers: nobody sees a fault, half a thing, or what was before an answer."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.model.doors import WAYS, Answer, Blob, Door, doors, push_blob
from tests.support.oci import OCI_CONFIG, OCI_IMAGE, OCI_INDEX, OCI_LAYER, digest_of, encode
from tests.support.server import Server

THREADS = 8
ROUNDS = 1000
WAIT_SECONDS = 120


@dataclass
class Crowd:
    """A server, a connection for each thread, and one to each worker to look at what is left."""

    members: list[Door]
    witnesses: list[Door]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def repository(self, name: str) -> str:
        """A repository that nobody had before."""
        return f"race/{name}/r{next(self.numbers)}"

    def rush(self, act: Callable[[int, Door], None]) -> None:
        """Let every member do *act* at the same moment; the first thing that goes wrong is raised."""
        together = threading.Barrier(len(self.members))

        def start(place: int) -> None:
            together.wait(WAIT_SECONDS)
            act(place, self.members[place])

        with ThreadPoolExecutor(len(self.members)) as pool:
            for done in [pool.submit(start, place) for place in range(len(self.members))]:
                done.result(WAIT_SECONDS)


@pytest.fixture(scope="session")
def crowds(two_workers: Server, three_workers: Server) -> Iterator[dict[int, Crowd]]:
    with ExitStack() as stack:
        made = {}
        for server, workers in ((two_workers, 2), (three_workers, 3)):
            found = stack.enter_context(doors(server, each=-(-THREADS // workers) + 1))
            made[workers] = Crowd(found[:THREADS], found[-workers:])
            assert len({door.worker for door in made[workers].witnesses}) == workers
        yield made


@pytest.fixture(params=[2, 3], ids=["two workers", "three workers"])
def crowd(request: pytest.FixtureRequest, crowds: dict[int, Crowd]) -> Crowd:
    return crowds[request.param]


def random_blob(chance: random.Random, size_bytes: int) -> Blob:
    return Blob(chance.randbytes(size_bytes), chance.choice(["sha256", "sha256", "sha512"]))


def blob_path(repository: str, digest: str) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def manifest_path(repository: str, reference: str) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def image(config: Blob, layers: Sequence[Blob], mark: object) -> bytes:
    def descriptor(blob: Blob, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": blob.digest, "size": len(blob.data)}

    return encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": descriptor(config, OCI_CONFIG),
            "layers": [descriptor(layer, OCI_LAYER) for layer in layers],
            "annotations": {"org.example.mark": str(mark)},
        }
    )


def put(door: Door, repository: str, reference: str, data: bytes, media_type: str = OCI_IMAGE) -> Answer:
    return door.ask("PUT", manifest_path(repository, reference), data, Content_Type=media_type)


def assert_is(answer: Answer, data: bytes) -> None:
    """The answer is these bytes, whole."""
    assert answer.status == 200
    assert answer.body == data
    assert answer.headers["content-length"] == str(len(data))


def assert_whole_or_absent(answer: Answer, data: bytes) -> bool:
    if answer.status == 404:
        return False
    assert_is(answer, data)
    return True


def agreed(crowd: Crowd, path: str) -> Answer:
    """What every worker says, which is the same."""
    answers = [witness.ask("GET", path) for witness in crowd.witnesses]
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    return answers[0]


def tags_of(crowd: Crowd, repository: str) -> list[str]:
    found = agreed(crowd, f"/v2/{repository}/tags/list").json["tags"]
    assert found == sorted(found)
    return list(found)


class TestBlobs:
    @pytest.mark.parametrize("size_bytes", [100, 70_000, 1_200_000])
    def test_all_who_push_the_same_blob_at_once_succeed(self, crowd: Crowd, size_bytes: int) -> None:
        repository = crowd.repository("same-blob")
        chance = random.Random(size_bytes)
        for _ in range(4 if size_bytes > 1_000_000 else 8):
            blob = random_blob(chance, size_bytes)

            def push(place: int, door: Door, blob: Blob = blob) -> None:
                answer = push_blob(door.ask, repository, blob, WAYS[place % len(WAYS)])
                assert answer.status == 201, answer.body
                assert_is(door.ask("GET", blob_path(repository, blob.digest)), blob.data)

            crowd.rush(push)
            assert_is(agreed(crowd, blob_path(repository, blob.digest)), blob.data)

    def test_all_who_push_it_to_repositories_of_their_own_have_it(self, crowd: Crowd) -> None:
        chance = random.Random(1)
        for size_bytes in (100, 70_000):
            blob = random_blob(chance, size_bytes)
            names = [crowd.repository("own") for _ in range(THREADS)]

            def push(place: int, door: Door, blob: Blob = blob, names: list[str] = names) -> None:
                assert push_blob(door.ask, names[place], blob, WAYS[place % len(WAYS)]).status == 201
                # Mount what another one may or may not have pushed yet.
                source = names[(place + 1) % THREADS]
                mounted = crowd.repository("mounted")
                asked = f"/v2/{mounted}/blobs/uploads/?mount={blob.digest}&from={source}"
                answer = door.ask("POST", asked)
                assert answer.status in (201, 202)
                whole = assert_whole_or_absent(door.ask("GET", blob_path(mounted, blob.digest)), blob.data)
                assert whole is (answer.status == 201)

            crowd.rush(push)
            for name in names:
                assert_is(agreed(crowd, blob_path(name, blob.digest)), blob.data)

    @pytest.mark.parametrize("size_bytes", [100, 70_000])
    def test_pushing_what_others_delete_gives_a_whole_blob_or_none(self, crowd: Crowd, size_bytes: int) -> None:
        repository = crowd.repository("deleted-blob")
        chance = random.Random(size_bytes)
        blobs = [random_blob(chance, size_bytes) for _ in range(3)]

        def push_and_delete(place: int, door: Door) -> None:
            mine = random.Random(place)
            for _ in range(15):
                blob = mine.choice(blobs)
                path = blob_path(repository, blob.digest)
                if mine.random() < 0.5:
                    assert push_blob(door.ask, repository, blob, mine.choice(WAYS)).status == 201
                else:
                    assert door.ask("DELETE", path).status in (202, 404)
                assert_whole_or_absent(door.ask("GET", path), blob.data)

        crowd.rush(push_and_delete)
        for blob in blobs:
            path = blob_path(repository, blob.digest)
            assert_whole_or_absent(agreed(crowd, path), blob.data)
            assert push_blob(crowd.witnesses[0].ask, repository, blob, "two requests").status == 201
            assert_is(agreed(crowd, path), blob.data)

    @pytest.mark.parametrize("size_bytes", [300, 200_000, 2_000_000])
    def test_one_upload_in_many_hands_ends_whole_or_not_at_all(self, crowd: Crowd, size_bytes: int) -> None:
        """Everybody appends to, asks, finishes and cancels the same upload: a client that repeats itself badly."""
        repository = crowd.repository("one-upload")
        chance = random.Random(size_bytes)
        for round_ in range(6):
            blob = random_blob(chance, size_bytes)
            half = len(blob.data) // 2
            first = crowd.members[0].ask("POST", f"/v2/{repository}/blobs/uploads/").headers["location"]
            location = crowd.members[1].ask("PATCH", first, blob.data[:half]).headers["location"]
            finished: list[int] = []

            def handle(
                place: int,
                door: Door,
                location: str = location,
                blob: Blob = blob,
                half: int = half,
                finished: list[int] = finished,
                cancels: bool = round_ % 2 == 1,
            ) -> None:
                rest = blob.data[half:]
                if place < 3:
                    answer = door.ask("PUT", f"{location}?digest={blob.digest}", rest)
                    assert answer.status in (201, 400, 404, 409, 416), answer.body
                    finished.append(answer.status)
                elif place < 5:
                    between = f"{half}-{len(blob.data) - 1}"
                    answer = door.ask("PATCH", location, rest, Content_Range=between)
                    assert answer.status in (202, 404, 409, 416), answer.body
                elif place == 7 and cancels:
                    assert door.ask("DELETE", location).status in (204, 404)
                else:
                    answer = door.ask("GET", location)
                    assert answer.status in (204, 404), answer.body

            crowd.rush(handle)
            found = agreed(crowd, blob_path(repository, blob.digest))
            if 201 in finished:
                assert_is(found, blob.data)
            else:
                assert found.status == 404


class TestTags:
    def test_a_tag_that_all_push_at_once_is_what_one_of_them_pushed(self, crowd: Crowd) -> None:
        repository = crowd.repository("same-tag")
        config = Blob(b"{}")
        assert push_blob(crowd.members[0].ask, repository, config, "one request").status == 201
        pushed: set[bytes] = set()
        for round_ in range(8):
            mine = {place: image(config, [], (round_, place)) for place in range(THREADS)}
            pushed.update(mine.values())

            def push(place: int, door: Door, mine: dict[int, bytes] = mine) -> None:
                assert put(door, repository, "latest", mine[place]).status == 201
                answer = door.ask("GET", manifest_path(repository, "latest"))
                assert answer.status == 200
                assert answer.body in pushed

            crowd.rush(push)
            found = agreed(crowd, manifest_path(repository, "latest"))
            assert found.body in mine.values()
            assert found.headers["docker-content-digest"] == digest_of(found.body)
            for data in mine.values():
                assert_is(agreed(crowd, manifest_path(repository, digest_of(data))), data)
        assert tags_of(crowd, repository) == ["latest"]

    def test_whatever_others_delete_every_tag_resolves_and_all_that_is_visible_is_whole(
        self, crowd: Crowd
    ) -> None:
        repository = crowd.repository("pushed-and-deleted")
        chance = random.Random(7)
        blobs = [random_blob(chance, size) for size in (2, 300, 70_000)]
        config, *layers = blobs
        for blob in blobs:
            assert push_blob(crowd.members[0].ask, repository, blob, "two requests").status == 201
        images = [image(config, layers[: number % 3], number) for number in range(12)]
        by_digest = {digest_of(data): data for data in images}
        tags = ("a", "b", "c")

        def mingle(place: int, door: Door) -> None:
            mine = random.Random(place)
            for _ in range(30):
                data, tag = mine.choice(images), mine.choice(tags)
                whole = digest_of(data)
                done = mine.choice(
                    [
                        partial(put, door, repository, tag, data),
                        partial(put, door, repository, f"{whole}?tag=a&tag=b", data),
                        partial(door.ask, "DELETE", manifest_path(repository, tag)),
                        partial(door.ask, "DELETE", manifest_path(repository, whole)),
                    ]
                )()
                assert done.status in (201, 202) or done.code == "MANIFEST_UNKNOWN"
                answer = door.ask("GET", manifest_path(repository, tag))
                assert answer.status in (200, 404)
                if answer.status == 200:
                    digest = answer.headers["docker-content-digest"]
                    assert_is(answer, by_digest[digest])
                assert_whole_or_absent(door.ask("GET", manifest_path(repository, whole)), data)

        crowd.rush(mingle)
        listed = tags_of(crowd, repository)
        for tag in set(tags) - set(listed):
            assert agreed(crowd, manifest_path(repository, tag)).status == 404
        for tag in listed:
            found = agreed(crowd, manifest_path(repository, tag))
            digest = found.headers["docker-content-digest"]
            assert_is(found, by_digest[digest])
            assert_is(agreed(crowd, manifest_path(repository, digest)), by_digest[digest])
        for blob in blobs:
            assert_is(agreed(crowd, blob_path(repository, blob.digest)), blob.data)

    def test_no_manifest_is_let_in_whose_children_were_deleted_before(self, crowd: Crowd) -> None:
        """An index names an image that others push and delete: it comes in, or is told what is missing."""
        repository = crowd.repository("children")
        config = Blob(b"{}")
        assert push_blob(crowd.members[0].ask, repository, config, "one request").status == 201
        child = image(config, [], "child")
        descriptor = {"mediaType": OCI_IMAGE, "digest": digest_of(child), "size": len(child)}

        def act(place: int, door: Door) -> None:
            for number in range(15):
                if place < 3:
                    assert put(door, repository, "child", child).status == 201
                elif place < 5:
                    path = manifest_path(repository, digest_of(child))
                    assert door.ask("DELETE", path).status in (202, 404)
                else:
                    document = {
                        "schemaVersion": 2,
                        "mediaType": OCI_INDEX,
                        "manifests": [descriptor],
                        "annotations": {"mark": f"{place} {number}"},
                    }
                    answer = put(door, repository, f"index{place}", encode(document), OCI_INDEX)
                    assert answer.status == 201 or answer.code == "MANIFEST_BLOB_UNKNOWN", answer.body

        crowd.rush(act)
        for tag in tags_of(crowd, repository):
            found = agreed(crowd, manifest_path(repository, tag))
            assert found.headers["docker-content-digest"] == digest_of(found.body)


class Things:
    """A tag, a manifest and a blob, what each shall be now, and requests that change that."""

    def __init__(self, crowd: Crowd) -> None:
        self.repository = crowd.repository("stale")
        config, self.blob = Blob(b"{}"), Blob(self.repository.encode())
        for blob in (config, self.blob):
            assert push_blob(crowd.members[0].ask, self.repository, blob, "one request").status == 201
        self.images = [image(config, [], (self.repository, number)) for number in range(2)]
        self.tag_path = manifest_path(self.repository, "latest")
        self.image_paths = [manifest_path(self.repository, digest_of(data)) for data in self.images]
        self.blob_path = blob_path(self.repository, self.blob.digest)
        self.expected: dict[str, bytes | None] = dict.fromkeys([self.tag_path, *self.image_paths])
        self.expected[self.blob_path] = self.blob.data

    def push_first(self, door: Door) -> None:
        self._push(door, 0)

    def push_second(self, door: Door) -> None:
        self._push(door, 1)

    def _push(self, door: Door, number: int) -> None:
        data = self.images[number]
        assert put(door, self.repository, "latest", data).status == 201
        self.expected[self.tag_path] = self.expected[self.image_paths[number]] = data

    def untag(self, door: Door) -> None:
        assert door.ask("DELETE", self.tag_path).status == 202
        self.expected[self.tag_path] = None

    def delete_first(self, door: Door) -> None:
        """Its tag goes with it."""
        assert door.ask("DELETE", self.image_paths[0]).status == 202
        self.expected[self.image_paths[0]] = None
        if self.expected[self.tag_path] == self.images[0]:
            self.expected[self.tag_path] = None

    def delete_blob(self, door: Door) -> None:
        assert door.ask("DELETE", self.blob_path).status == 202
        self.expected[self.blob_path] = None

    def push_blob(self, door: Door) -> None:
        assert push_blob(door.ask, self.repository, self.blob, "one request").status == 201
        self.expected[self.blob_path] = self.blob.data

    def look(self, door: Door, path: str) -> None:
        expected = self.expected[path]
        answer = door.ask("GET", path)
        assert answer.status == (404 if expected is None else 200), path
        assert expected is None or answer.body == expected


def test_what_was_answered_on_one_connection_is_seen_at_once_on_every_other(crowds: dict[int, Crowd]) -> None:
    """1,000 times, while others ask for the same and somebody overwrites something else."""
    search_for_stale_answers(crowds[3], ROUNDS)


def search_for_stale_answers(crowd: Crowd, rounds: int) -> None:
    """Change something through one witness, and look through all others, so many times.

    Others ask for the same meanwhile, so that caches are emptied, and filled again, at the moment of each write.
    """
    things, others = Things(crowd), Things(crowd)
    *asking, overwriting = crowd.members
    steps = [
        (things.push_first, things.tag_path),
        (things.push_second, things.tag_path),
        (things.untag, things.tag_path),
        (things.push_first, things.tag_path),
        (things.delete_first, things.tag_path),
        (things.delete_blob, things.blob_path),
        (things.push_first, things.image_paths[0]),
        (things.push_blob, things.blob_path),
        (things.push_second, things.tag_path),
        (things.delete_first, things.image_paths[0]),
    ]
    with ThreadPoolExecutor(1) as pool:
        for number in range(rounds):
            step, path = steps[number % len(steps)]
            writer = number % len(crowd.witnesses)
            busy = asking[number % len(asking)]
            overwrite = [others.push_first, None, others.push_second, None][number % 4]
            overwritten = pool.submit(overwrite, overwriting) if overwrite else None
            busy.begin([("HEAD", path)] * (number % 10))
            step(crowd.witnesses[writer])
            for place, door in enumerate(crowd.witnesses):
                if place != writer:
                    things.look(door, path)
            busy.end()
            if overwritten is not None:
                overwritten.result(WAIT_SECONDS)
    for path in things.expected:
        for door in crowd.witnesses:
            things.look(door, path)
