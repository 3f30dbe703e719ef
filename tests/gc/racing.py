"""Clients that push, mount, pull, move, delete and restore at once, and know what has to be there of it.

Everybody pushes the same few blobs, so that their bytes are deleted and published again all the time. Each client
has a repository that nobody else changes, and knows what has to be in it; one repository belongs to nobody.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.oci import (
    Content,
    blob,
    blob_path,
    config,
    image,
    index,
    manifest_path,
    uploads_path,
    with_query,
)

CLIENTS = 4
TRIES = 20
CHAOS = "race/chaos"
# Points a repository's tag to a digest that its history has.
Restore = Callable[[str, str, str], None]
BINARY = {"Content-Type": "application/octet-stream"}


@dataclass
class Pool:
    """What everybody pushes: small ones, and such as make files of their uploads."""

    configs: list[Content] = field(default_factory=lambda: [config() for _ in range(3)])
    layers: list[Content] = field(
        default_factory=lambda: [blob(size) for size in (0, 100, 1000, 70_000, 100_000, 1_200_000, 2_500_000)]
    )

    def image(self, choose: random.Random) -> tuple[Content, list[Content]]:
        """An image, perhaps one that was there before, and its blobs."""
        made, layers = choose.choice(self.configs), choose.sample(self.layers, choose.randint(1, 3))
        return image(made, layers, annotations={"which": str(choose.randint(1, 4))}), [made, *layers]


class Full(Exception):
    """The quota of the repository that belongs to nobody is used up."""


class Client(threading.Thread):
    """One client until *over*; `tags` are those that have to be there, each with all the content below it.

    With *restore*, `past` is all that was there once, each with its tag: an operator brings it back.
    """

    def __init__(
        self, number: int, url: str, pool: Pool, over: threading.Event, restore: Restore | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.repository = f"race/client{number}"
        self.tags: dict[str, list[Content]] = {}
        self.past: list[tuple[str, list[Content]]] = []
        self.error: BaseException | None = None
        self.done = 0
        self.refused = 0
        self.restored = 0
        self.full = 0
        self._restore = restore
        self._choose = random.Random(number)
        self._pool = pool
        self._over = over
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def run(self) -> None:
        actions: list[Callable[[], None]] = [
            *[self.push_image] * 4,
            *[self.pull] * 4,
            *[self.push_index] * 2,
            self.delete_tag,
            self.delete_manifest,
            self.stir,
            *[self.restore] * (2 if self._restore else 0),
        ]
        try:
            while not self._over.is_set():
                self._choose.choice(actions)()
                self.done += 1
        except BaseException as error:
            self.error = error
        finally:
            self._http.close()

    def _ask(self, method: str, url: str, *statuses: int, **options: Any) -> httpx.Response:
        response = self._http.request(method, url, **options)
        if response.status_code == 403 and CHAOS in url:
            raise Full(response.text)
        assert response.status_code in statuses, f"{method} {url}: {response.status_code} {response.text}"
        return response

    # --- pushing

    def push_image(self) -> None:
        manifest, blobs = self._pool.image(self._choose)
        tag = self._choose.choice(["one", "two", "three"])
        self.tags.pop(tag, None)  # until it is acknowledged, either may be seen
        if self._push(self.repository, manifest, blobs, tag):
            self._is_there(tag, [manifest, *blobs])

    def push_index(self) -> None:
        self.tags.pop("multi", None)
        children = [self._pool.image(self._choose) for _ in range(2)]
        top = index([manifest.descriptor() for manifest, _ in children])
        for _ in range(TRIES):
            if not all(self._push(self.repository, manifest, blobs, None) for manifest, blobs in children):
                return
            if self._put_manifest(self.repository, top, "multi"):
                self._is_there("multi", [top, *(each for child, blobs in children for each in (child, *blobs))])
                return

    def _is_there(self, tag: str, content: list[Content]) -> None:
        self.tags[tag] = content
        if (tag, content) not in self.past:
            self.past.append((tag, content))

    def _push(self, repository: str, manifest: Content, blobs: Sequence[Content], tag: str | None) -> bool:
        """As docker does: look, push what is not there, then the manifest; again when something went meanwhile."""
        for _ in range(TRIES):
            for content in blobs:
                self._provide(repository, content)
            if self._put_manifest(repository, manifest, tag):
                return True
        return False

    def _put_manifest(self, repository: str, manifest: Content, tag: str | None) -> bool:
        response = self._ask(
            "PUT",
            manifest_path(repository, tag or manifest.digest),
            *(201, 404),
            content=manifest.data,
            headers={"Content-Type": manifest.media_type},
        )
        if response.status_code == 404:
            self.refused += 1
            assert response.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        return response.status_code == 201

    def _provide(self, repository: str, content: Content) -> None:
        """See that a blob is there: what was begun is finished, whatever is deleted meanwhile."""
        way = self._choose.random()
        uploads = uploads_path(repository)
        if way < 0.3 and self._ask("HEAD", blob_path(repository, content.digest), 200, 404).status_code == 200:
            return
        if way < 0.5:
            source = f"race/client{self._choose.randrange(CLIENTS)}"
            query = {"mount": content.digest, "from": source}
            response = self._ask("POST", with_query(uploads, **query), 201, 202)
            if response.status_code == 201:
                return
            self._close(response.headers["Location"], content)
        elif way < 0.8:
            query = {"digest": content.digest}
            self._ask("POST", with_query(uploads, **query), 201, content=content.data, headers=BINARY)
        else:
            self._close(self._ask("POST", uploads, 202).headers["Location"], content)

    def _close(self, location: str, content: Content) -> None:
        if self._choose.random() < 0.5:
            location = self._ask("PATCH", location, 202, content=content.data, headers=BINARY).headers["Location"]
            self._ask("PUT", with_query(location, digest=content.digest), 201)
        else:
            self._ask(
                "PUT", with_query(location, digest=content.digest), 201, content=content.data, headers=BINARY
            )

    # --- the rest

    def pull(self) -> None:
        if self.tags:
            tag = self._choose.choice(sorted(self.tags))
            self.check(tag)

    def check(self, tag: str) -> None:
        """What was acknowledged is there, every byte of it."""
        top, *below = self.tags[tag]
        assert self._ask("GET", manifest_path(self.repository, tag), 200).content == top.data
        for content in below:
            path = manifest_path if content.media_type.endswith("manifest.v1+json") else blob_path
            response = self._ask("GET", path(self.repository, content.digest), 200)
            assert response.content == content.data, f"{content.digest} has other bytes"

    def delete_tag(self) -> None:
        tag = self._choose.choice(["one", "two", "three", "multi"])
        self.tags.pop(tag, None)
        self._ask("DELETE", manifest_path(self.repository, tag), 202, 404)

    def delete_manifest(self) -> None:
        if self.tags:
            gone = self.tags[self._choose.choice(sorted(self.tags))][0]
            self.tags = {tag: found for tag, found in self.tags.items() if gone not in found}
            self._ask("DELETE", manifest_path(self.repository, gone.digest), 202, 404)

    def restore(self) -> None:
        """What was there once comes back whole, whoever moved or deleted it, and whatever was collected since."""
        if self.past:
            tag, found = self._choose.choice(self.past)
            self._bring_back(tag, found)
            self.check(tag)

    def _bring_back(self, tag: str, found: list[Content]) -> None:
        assert self._restore is not None
        self._restore(self.repository, tag, found[0].digest)
        self.tags[tag] = found
        self.restored += 1

    def stir(self) -> None:
        """In the repository that everybody changes nothing is known, but nobody may be told a fault."""
        manifest, blobs = self._pool.image(self._choose)
        tag = self._choose.choice(["one", "two"])
        try:
            for content in blobs:
                self._provide(CHAOS, content)
            self._put_manifest(CHAOS, manifest, self._choose.choice([tag, None]))
        except Full:
            self.full += 1
        self._ask("DELETE", blob_path(CHAOS, self._choose.choice(blobs).digest), 202, 404)
        self._ask("DELETE", manifest_path(CHAOS, self._choose.choice([tag, manifest.digest])), 202, 404)

    def finish(self, url: str) -> None:
        """Look at everything once more."""
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as self._http:
            for tag in self.tags:
                self.check(tag)
            if self._restore:
                for tag, found in self.past:
                    self._bring_back(tag, found)
                    self.check(tag)
