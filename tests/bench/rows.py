"""What is measured: the rows of the registry's table of figures, and the content that they read.

A row's `measure` prepares what it needs, verifies that the server answers rightly, lets the clock run, and
verifies afterwards that what was pushed is there. Only the middle is timed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

from tests.bench.content import (
    ACCEPT,
    ACCEPTED_TYPES,
    KB,
    MB,
    Blob,
    Image,
    blob_path,
    blobs,
    images,
    manifest_path,
    push_blob,
    push_image,
)
from tests.bench.load import Answer, Flow, LoadError, Request, ask, download, download_digest, run, single
from tests.bench.servers import Registry
from tests.bench.wrk import wrk

TAGS = 101
REPOSITORIES = 40  # with so many the peer's catalogue is as slow, beside its tags list, as when the bar was set
GET_CONNECTIONS = 32
FILL_CONNECTIONS = 8
WARM_SHARE = 0.1
SAMPLE = 40
LAYERS = 20
LAYER_BYTES = 4 * KB
SMALL_BYTES = 2 * KB
BLOB_REQUESTS = 3
IMAGE_REQUESTS = (LAYERS + 1) * 4 + 1
TAGS_REPOSITORY = "bench/tags"
LARGE_REPOSITORY = "bench/large"
MOST_SMALL_BLOBS_PER_SECOND = 2000
MOST_IMAGES_PER_SECOND = 300
MOST_LARGE_MB_PER_SECOND = 2000


@dataclass(frozen=True, slots=True)
class Library:
    """What both servers are filled with, the same bytes under the same names.

    `tagged` has an image of one small layer for each tag of `TAGS_REPOSITORY`.
    """

    tagged: tuple[tuple[str, Image], ...]
    repositories: tuple[str, ...]
    large: Blob


def make_library(large_bytes: int) -> Library:
    """New content, unlike any other library's."""
    made = images(1, SMALL_BYTES, TAGS)
    tagged = tuple((f"v1.{number}", image) for number, image in enumerate(made))
    others = (f"bench/app-{number}" for number in range(REPOSITORIES - 2))
    [large] = blobs(large_bytes, 1)
    return Library(tagged, (TAGS_REPOSITORY, LARGE_REPOSITORY, *others), large)


def fill(registry: Registry, library: Library) -> None:
    """Push the library over HTTP."""
    run(
        registry.port,
        (push_image(TAGS_REPOSITORY, tag, image) for tag, image in library.tagged),
        FILL_CONNECTIONS,
    )
    tag, image = library.tagged[0]
    others = (name for name in library.repositories if name != TAGS_REPOSITORY)
    run(registry.port, (push_image(name, tag, image) for name in others), FILL_CONNECTIONS)
    run(registry.port, [push_blob(LARGE_REPOSITORY, library.large)], 1)


class Row(Protocol):
    """One line of the table; `bar` is the multiple of the peer's figure that we are to reach."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def bar(self) -> float: ...

    def measure(self, registry: Registry, library: Library, seconds: float) -> float:
        """The figure, in `unit`. Raises LoadError when an answer is wrong."""
        ...


@dataclass(frozen=True, slots=True)
class Get:
    """Small GETs by wrk: *paths* in turn, all of which *check* verifies before the clock starts."""

    name: str
    title: str
    bar: float
    paths: Callable[[Library], Sequence[str]]
    check: Callable[[Library, Sequence[Answer]], None]
    unit: str = "req/s"

    def measure(self, registry: Registry, library: Library, seconds: float) -> float:
        paths = self.paths(library)
        requests = [Request("GET", path, 200, headers=ACCEPT) for path in paths]
        answers = ask(registry.port, requests)
        self.check(library, answers)
        run(registry.port, map(single, cycle(requests)), GET_CONNECTIONS, seconds * WARM_SHARE)
        summary = wrk(registry.port, paths, ACCEPTED_TYPES, GET_CONNECTIONS, seconds)
        mean_bytes = sum(answer.size_bytes for answer in answers) / len(answers)
        if summary.received_bytes < 0.98 * mean_bytes * summary.requests:
            raise LoadError(
                f"{summary.requests} answers of {mean_bytes:.0f} bytes were {summary.received_bytes} bytes"
            )
        return summary.rate


@dataclass(frozen=True, slots=True)
class Download:
    """GETs of the large blob, the bytes thrown away."""

    name: str
    title: str
    bar: float
    connections: int
    unit: str = "MB/s"

    def measure(self, registry: Registry, library: Library, seconds: float) -> float:
        blob = library.large
        _verify_blob(registry, LARGE_REPOSITORY, blob)
        request = Request("GET", blob_path(LARGE_REPOSITORY, blob), 200)
        return download(registry.port, request, blob.size_bytes, self.connections, seconds) / MB


@dataclass(frozen=True, slots=True)
class PushSmall:
    """Pushes of 1 MB blobs, counted within the window."""

    name: str
    title: str
    bar: float
    connections: int
    unit: str = "blobs/s"

    def measure(self, registry: Registry, library: Library, seconds: float) -> float:
        repository = "bench/push-small"
        warm = blobs(MB, self.connections)
        run(registry.port, (push_blob(repository, blob) for blob in warm), self.connections)
        pool = blobs(MB, max(self.connections, round(MOST_SMALL_BLOBS_PER_SECOND * seconds)))
        flows = (push_blob(repository, blob) for blob in pool)
        tally = run(registry.port, flows, self.connections, seconds)
        _verify_pushed(registry, repository, pool[: tally.finished])
        return tally.flows_per_second(BLOB_REQUESTS)


@dataclass(frozen=True, slots=True)
class PushLarge:
    """Pushes of large blobs, one at least for each connection, all of them timed to their end."""

    name: str
    title: str
    bar: float
    connections: int
    size_bytes: int
    unit: str = "MB/s"

    def measure(self, registry: Registry, library: Library, seconds: float) -> float:
        repository = "bench/push-large"
        most = round(MOST_LARGE_MB_PER_SECOND * seconds * MB / self.size_bytes)
        pool = blobs(self.size_bytes, max(self.connections, most))
        flows = (push_blob(repository, blob) for blob in pool)
        tally = run(registry.port, flows, self.connections, seconds)
        _verify_pushed(registry, repository, pool[: tally.finished])
        return tally.finished * self.size_bytes / tally.seconds / MB


@dataclass(frozen=True, slots=True)
class PushImages:
    """Pushes of images of small layers, each image over one connection, to as many repositories."""

    name: str
    title: str
    bar: float
    connections: int
    unit: str = "images/s"

    def measure(self, registry: Registry, library: Library, seconds: float) -> float:
        run_name = secrets.token_hex(4)
        warm = images(1, LAYER_BYTES, self.connections)
        run(registry.port, self._flows(f"warm-{run_name}", warm), self.connections)
        pool = images(LAYERS, LAYER_BYTES, max(self.connections, round(MOST_IMAGES_PER_SECOND * seconds)))
        tally = run(registry.port, self._flows(run_name, pool), self.connections, seconds)
        self._verify(registry, run_name, pool[: tally.finished])
        return tally.flows_per_second(IMAGE_REQUESTS)

    def _place(self, run_name: str, number: int) -> tuple[str, str]:
        """Repository and tag of an image."""
        return f"bench/image-{number % self.connections}", f"{run_name}-{number}"

    def _flows(self, run_name: str, pool: Sequence[Image]) -> list[Flow]:
        return [push_image(*self._place(run_name, number), image) for number, image in enumerate(pool)]

    def _verify(self, registry: Registry, run_name: str, pushed: Sequence[Image]) -> None:
        for number in _sample(len(pushed)):
            repository, tag = self._place(run_name, number)
            image = pushed[number]
            [answer] = ask(registry.port, [Request("GET", manifest_path(repository, tag), 200, headers=ACCEPT)])
            _verify_body(answer, image.manifest)
            _verify_pushed(registry, repository, image.blobs)


def table(large_bytes: int) -> list[Row]:
    """All rows in the order in which they run: those that read first, while the content is the library's."""
    large = f"{large_bytes // MB} MB"
    return [
        Get(
            "manifest-by-tag",
            f"manifest GET by tag, {GET_CONNECTIONS} connections",
            10,
            _tag_paths,
            _check_manifests,
        ),
        Get(
            "manifest-by-digest",
            "manifest GET by digest",
            10,
            _digest_paths,
            _check_manifests,
        ),
        Get(
            "small-blob",
            "2 KB blob GET",
            6,
            _blob_paths,
            _check_blobs,
        ),
        Get("tags", f"tags list of {TAGS}", 4, lambda _: [f"/v2/{TAGS_REPOSITORY}/tags/list"], _check_tags),
        Get("catalogue", f"catalogue of {REPOSITORIES}", 6, lambda _: ["/v2/_catalog"], _check_catalogue),
        Download("get-large-1", f"{large} blob GET, 1 connection", 1.6, 1),
        Download("get-large-4", f"{large} blob GET, 4 connections", 1.6, 4),
        PushSmall("push-small", "push 1 MB blobs, 8 at once", 5, 8),
        PushLarge("push-large-1", f"push {large} blobs, 1 at a time", 1.5, 1, large_bytes),
        PushLarge("push-large-4", f"push {large} blobs, 4 at once", 1.5, 4, large_bytes),
        PushImages("push-images", f"push images of {LAYERS} layers of 4 KB, 10 at once", 4, 10),
    ]


def _tag_paths(library: Library) -> list[str]:
    return [manifest_path(TAGS_REPOSITORY, tag) for tag, _ in library.tagged]


def _digest_paths(library: Library) -> list[str]:
    return [manifest_path(TAGS_REPOSITORY, image.manifest.digest) for _, image in library.tagged]


def _blob_paths(library: Library) -> list[str]:
    return [blob_path(TAGS_REPOSITORY, image.blobs[0]) for _, image in library.tagged]


def _check_manifests(library: Library, answers: Sequence[Answer]) -> None:
    for (_, image), answer in zip(library.tagged, answers, strict=True):
        _verify_body(answer, image.manifest)


def _check_blobs(library: Library, answers: Sequence[Answer]) -> None:
    for (_, image), answer in zip(library.tagged, answers, strict=True):
        _verify_body(answer, image.blobs[0])


def _check_tags(library: Library, answers: Sequence[Answer]) -> None:
    _check_names(answers, "tags", [tag for tag, _ in library.tagged])


def _check_catalogue(library: Library, answers: Sequence[Answer]) -> None:
    _check_names(answers, "repositories", library.repositories)


def _check_names(answers: Sequence[Answer], key: str, expected: Sequence[str]) -> None:
    """Each answer is a whole list of the names, no page of it."""
    for answer in answers:
        if answer.header("link") or sorted(json.loads(answer.body)[key]) != sorted(expected):
            raise LoadError(f"not the {len(expected)} {key} that were pushed:\n{answer.shown()}")


def _verify_body(answer: Answer, blob: Blob) -> None:
    if f"sha256:{hashlib.sha256(answer.body).hexdigest()}" != blob.digest:
        raise LoadError(f"not the bytes of {blob.digest}:\n{answer.shown()}")


def _verify_pushed(registry: Registry, repository: str, pushed: Sequence[Blob]) -> None:
    """A sample of the blobs has its length, and the last one its bytes."""
    sample = [pushed[index] for index in _sample(len(pushed))]
    answers = ask(registry.port, [Request("HEAD", blob_path(repository, blob), 200) for blob in sample])
    for blob, answer in zip(sample, answers, strict=True):
        if answer.header("content-length") != str(blob.size_bytes):
            raise LoadError(f"not the {blob.size_bytes} bytes of {blob.digest}:\n{answer.shown()}")
    _verify_blob(registry, repository, pushed[-1])


def _verify_blob(registry: Registry, repository: str, blob: Blob) -> None:
    request = Request("GET", blob_path(repository, blob), 200)
    found = download_digest(registry.port, request, blob.size_bytes)
    if found != blob.digest:
        raise LoadError(f"GET {request.target}: the bytes have the digest {found}")


def _sample(count: int) -> range:
    """At most SAMPLE indices, spread over *count*."""
    return range(0, count, -(-count // SAMPLE) or 1)
