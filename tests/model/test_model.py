"""The registry beside a plain dictionary: whatever is done to it, every worker says what the dictionary says."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.model.doors import WAYS, Answer, Blob, Door, Question, push_blob
from tests.support.oci import OCI_CONFIG, OCI_IMAGE, OCI_INDEX, OCI_LAYER, digest_of, encode

T = TypeVar("T")

# Names and tags whose order tells byte order from others; the names also look like parts of a path.
REPOSITORIES = ("a", "a-b", "a/blobs/uploads")
TAGS = ("a-b", "a.b", "a_b")
KINDS = ("application/vnd.example.one", "application/vnd.example.two")
MISSING = "sha256:" + "0" * 64

repositories = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(TAGS)
places = st.integers(0, 5)
seldom = st.sampled_from([False] * 4 + [True])


# A question, and what holds the answer to the dictionary.
Look = tuple[Question, Callable[[Answer], None]]


def chosen(some: Sequence[T], place: int, otherwise: T) -> T:
    """One of *some*, or something else when there are none."""
    return some[place % len(some)] if some else otherwise


@dataclass
class Pushed:
    """A manifest."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.data)


@dataclass
class Room:
    """One repository as the dictionary has it; `known` once it had anything."""

    known: bool = False
    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, Pushed] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class RegistryMachine(RuleBasedStateMachine):
    """Pushes, mounts, moves and deletions; after each, everything is looked at through both workers."""

    doors: list[Door]
    examples = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"m{os.getpid()}/{next(self.examples):06}"
        self.rooms = {name: Room() for name in REPOSITORIES}
        # Larger than an index row, and than what is stored from memory, are two of them.
        own = self.prefix.encode()
        self.blobs = [
            Blob(own),
            Blob(own + b" sha512", "sha512"),
            Blob(own + bytes(5_000)),
            Blob(own + bytes(64 << 10)),
            Blob(own + bytes(1 << 20), "sha512"),
            Blob(own + b"{}"),
        ]
        self.data = {blob.digest: blob.data for blob in self.blobs}
        self.seen: dict[str, Pushed] = {}  # every manifest that any repository ever had
        self.turn = 0

    # --- asking

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request through the next door."""
        self.turn += 1
        return self.doors[self.turn % len(self.doors)].ask(method, path, body, **headers)

    def path(self, repository: str, *rest: str) -> str:
        return "/".join(["", "v2", self.prefix, repository, *rest])

    def blob(self, place: int) -> Blob:
        return self.blobs[place]

    # --- blobs

    @initialize()
    def begin(self) -> None:
        """Something to work with, else most steps find nothing."""
        for repository in ("a", "a-b"):
            for place in (0, 3, 5):
                self.push_blob(repository, place, "one request")
            self.push_image(repository, [0, 1], None, None, "a-b")

    @rule(repository=repositories, place=places, way=st.sampled_from(WAYS))
    def push_blob(self, repository: str, place: int, way: str) -> None:
        blob = self.blob(place)
        answer = push_blob(self.ask, f"{self.prefix}/{repository}", blob, way)
        assert answer.status == 201, answer.body
        assert answer.headers["docker-content-digest"] == blob.digest
        self.has_blob(repository, blob.digest)
        self.look(repository)

    @rule(repository=repositories, place=places, wrong=places)
    def push_other_bytes(self, repository: str, place: int, wrong: int) -> None:
        location = self.ask("POST", self.path(repository, "blobs", "uploads/")).headers["location"]
        answer = self.ask("PUT", f"{location}?digest={self.blob(place).digest}", self.blob(wrong).data + b"!")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        assert self.ask("DELETE", location).status == 204
        self.look(repository)

    @rule(repository=repositories, place=places, source=st.none() | repositories | st.just("nobody"))
    def mount(self, repository: str, place: int, source: str | None) -> None:
        digest = self.blob(place).digest
        origin = f"&from={self.prefix}/{source}" if source else ""
        answer = self.ask("POST", self.path(repository, "blobs", f"uploads/?mount={digest}{origin}"))
        holders = {name for name, room in self.rooms.items() if digest in room.blobs}
        if holders and (source is None or source in holders):
            assert answer.status == 201, answer.body
            self.has_blob(repository, digest)
        else:
            assert answer.status == 202, answer.body
            assert self.ask("DELETE", answer.headers["location"]).status == 204
        self.look(repository)

    @rule(repository=repositories, place=places, absent=seldom)
    def delete_blob(self, repository: str, place: int, absent: bool) -> None:
        room = self.rooms[repository]
        digest = chosen([] if absent else sorted(room.blobs), place, self.blob(place).digest)
        answer = self.ask("DELETE", self.path(repository, "blobs", digest))
        assert answer.status == (202 if digest in room.blobs else 404), answer.body
        room.blobs.discard(digest)
        self.look(repository)

    def has_blob(self, repository: str, digest: str) -> None:
        self.rooms[repository].known = True
        self.rooms[repository].blobs.add(digest)

    # --- manifests

    def put(self, repository: str, media_type: str, document: dict[str, Any], named: set[str], where: str) -> None:
        """Push a manifest that names *named*: under a tag, `digest`, or `digest?tag=...`."""
        pushed = Pushed(media_type, encode({"schemaVersion": 2, "mediaType": media_type, **document}))
        room = self.rooms[repository]
        reference = where if where in TAGS else where.replace("digest", pushed.digest)
        answer = self.ask(
            "PUT", self.path(repository, "manifests", reference), pushed.data, Content_Type=media_type
        )
        if named - room.blobs - room.manifests.keys():
            assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN"), answer.body
        else:
            assert answer.status == 201, answer.body
            assert answer.headers["docker-content-digest"] == pushed.digest
            subject = document.get("subject", {}).get("digest")
            assert answer.headers.get("oci-subject") == subject
            room.known = True
            room.manifests[pushed.digest] = self.seen[pushed.digest] = pushed
            room.tags.update({tag: pushed.digest for tag in TAGS if tag in where})
        self.look(repository)

    def descriptor(self, digest: str, media_type: str, size: int) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest, "size": size}

    wheres = tags | st.sampled_from(["digest", "digest?tag=a-b", "digest?tag=a.b&tag=a_b"])

    @rule(
        repository=repositories,
        layers=st.lists(places, min_size=1, max_size=3),
        kind=st.none() | st.sampled_from(KINDS),
        subject=st.none() | st.integers(0, 3),
        where=wheres,
        absent=seldom,
    )
    def push_image(
        self,
        repository: str,
        layers: list[int],
        kind: str | None,
        subject: int | None,
        where: str,
        absent: bool = False,
    ) -> None:
        present = self.rooms[repository].blobs
        some = [blob for blob in self.blobs if absent or blob.digest in present]
        config, *named = [chosen(some, place, self.blob(place)) for place in layers]
        document: dict[str, Any] = {
            "config": self.descriptor(config.digest, OCI_CONFIG, len(config.data)),
            "layers": [self.descriptor(layer.digest, OCI_LAYER, len(layer.data)) for layer in named],
        }
        if kind is not None:
            document["artifactType"] = kind
        if subject is not None:
            document["subject"] = self.subject(subject)
        self.put(repository, OCI_IMAGE, document, {config.digest, *(layer.digest for layer in named)}, where)

    def subject(self, place: int) -> dict[str, Any]:
        """One of the manifests seen before, or one that never was."""
        if place < len(self.seen):
            found = list(self.seen.values())[place]
            return self.descriptor(found.digest, found.media_type, len(found.data))
        return self.descriptor(MISSING, OCI_IMAGE, 5)

    @rule(repository=repositories, children=st.lists(places, max_size=3), where=wheres, absent=seldom)
    def push_index(self, repository: str, children: list[int], where: str, absent: bool) -> None:
        present = [
            self.descriptor(child.digest, child.media_type, len(child.data))
            for child in self.rooms[repository].manifests.values()
        ]
        missing = self.descriptor(MISSING, OCI_IMAGE, 5)
        listed = [chosen([] if absent else present, place, missing) for place in children]
        self.put(repository, OCI_INDEX, {"manifests": listed}, {child["digest"] for child in listed}, where)

    @precondition(lambda self: self.seen)
    @rule(repository=repositories, place=st.integers(0, 10), tag=tags)
    def move_tag(self, repository: str, place: int, tag: str) -> None:
        room = self.rooms[repository]
        present = list(room.manifests.values())
        if not present:
            return
        pushed = present[place % len(present)]
        document = json.loads(pushed.data)
        needed = [
            *document.get("layers", ()),
            *document.get("manifests", ()),
            *filter(None, [document.get("config")]),
        ]
        del document["schemaVersion"], document["mediaType"]
        self.put(repository, pushed.media_type, document, {each["digest"] for each in needed}, tag)

    @rule(repository=repositories, tag=tags, absent=seldom)
    def delete_tag(self, repository: str, tag: str, absent: bool) -> None:
        room = self.rooms[repository]
        tag = chosen([] if absent else sorted(room.tags), TAGS.index(tag), tag)
        answer = self.ask("DELETE", self.path(repository, "manifests", tag))
        assert answer.status == (202 if tag in room.tags else 404), answer.body
        room.tags.pop(tag, None)
        self.look(repository)

    @precondition(lambda self: self.seen)
    @rule(repository=repositories, place=st.integers(0, 10), absent=seldom)
    def delete_manifest(self, repository: str, place: int, absent: bool) -> None:
        room = self.rooms[repository]
        digest = chosen(list(self.seen if absent else room.manifests), place, MISSING)
        answer = self.ask("DELETE", self.path(repository, "manifests", digest))
        assert answer.status == (202 if digest in room.manifests else 404), answer.body
        room.manifests.pop(digest, None)
        room.tags = {tag: target for tag, target in room.tags.items() if target != digest}
        self.look(repository)

    # --- looking

    def look(self, touched: str) -> None:
        """Compare everything: what was touched through two doors of both workers, the rest through one."""
        for repository in REPOSITORIES:
            for _ in range(2 if repository == touched else 1):
                self.turn += 1
                looks = [*self.looks_at(repository), self.catalogue()]
                answers = self.doors[self.turn % len(self.doors)].ask_all([question for question, _ in looks])
                for (_, expected), answer in zip(looks, answers, strict=True):
                    expected(answer)

    def looks_at(self, repository: str) -> Iterator[Look]:
        room = self.rooms[repository]
        yield self.list(repository, room)
        for tag in TAGS:
            yield self.manifest(repository, tag, room.manifests.get(room.tags.get(tag, "")))
        for digest in self.seen:
            yield self.manifest(repository, digest, room.manifests.get(digest))
        for place, blob in enumerate(self.blobs):
            # The largest one is read now and then only.
            method = "GET" if (self.turn + place) % (7 if len(blob.data) > 1 << 20 else 2) else "HEAD"
            yield self.stored(method, repository, blob, blob.digest in room.blobs)
        for subject in [*list(self.seen)[:4], MISSING]:
            yield self.referrers(repository, room, subject, (None, *KINDS)[self.turn % 3])

    def list(self, repository: str, room: Room) -> Look:
        def check(answer: Answer) -> None:
            if room.known:
                assert answer.status == 200
                assert answer.json == {"name": f"{self.prefix}/{repository}", "tags": sorted(room.tags)}
            else:
                assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")

        return ("GET", self.path(repository, "tags", "list")), check

    def manifest(self, repository: str, reference: str, expected: Pushed | None) -> Look:
        method = "GET" if self.turn % 3 else "HEAD"

        def check(answer: Answer) -> None:
            assert answer.status == (404 if expected is None else 200), (method, reference)
            if expected is not None:
                assert answer.headers["docker-content-digest"] == expected.digest
                assert answer.headers["content-type"] == expected.media_type
                assert answer.headers["content-length"] == str(len(expected.data))
                assert answer.body == (expected.data if method == "GET" else b"")

        return (method, self.path(repository, "manifests", reference)), check

    def stored(self, method: str, repository: str, blob: Blob, expected: bool) -> Look:
        def check(answer: Answer) -> None:
            assert answer.status == (200 if expected else 404), (method, len(blob.data))
            if expected:
                assert answer.headers["content-length"] == str(len(blob.data))
                assert answer.body == (blob.data if method == "GET" else b"")

        return (method, self.path(repository, "blobs", blob.digest)), check

    def referrers(self, repository: str, room: Room, subject: str, kind: str | None) -> Look:
        documents = {digest: json.loads(pushed.data) for digest, pushed in sorted(room.manifests.items())}
        entries = [
            {
                "mediaType": document["mediaType"],
                "digest": digest,
                "size": len(room.manifests[digest].data),
                "artifactType": document.get("artifactType") or document["config"]["mediaType"],
            }
            for digest, document in documents.items()
            if document.get("subject", {}).get("digest") == subject
        ]
        expected = [entry for entry in entries if kind in (None, entry["artifactType"])]

        def check(answer: Answer) -> None:
            assert answer.status == 200
            assert answer.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": expected}

        path = self.path(repository, "referrers", subject)
        return ("GET", path if kind is None else f"{path}?artifactType={kind}"), check

    def catalogue(self) -> Look:
        def check(answer: Answer) -> None:
            found = [name for name in answer.json["repositories"] if name.startswith(self.prefix + "/")]
            assert found == sorted(f"{self.prefix}/{name}" for name, room in self.rooms.items() if room.manifests)

        return ("GET", f"/v2/_catalog?n=1000&last={self.prefix}/"), check


def test_every_worker_always_says_what_the_dictionary_says(two_by_two: list[Door]) -> None:
    RegistryMachine.doors = two_by_two
    run_state_machine_as_test(
        RegistryMachine,
        settings=settings(
            max_examples=14,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
