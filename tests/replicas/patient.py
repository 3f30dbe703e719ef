"""Clients that push images in chunks and pull them, and do not give up when something in between dies.

They do what a good client does: ask where the upload stands and go on from there, and never believe that
something happened which was not answered. What they were promised they write down.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.oci import (
    EMPTY,
    Content,
    blob,
    blob_path,
    image,
    manifest_path,
    octets,
    uploads_path,
    with_query,
)

PATIENCE_SECONDS = 60.0
AGAIN_AFTER_SECONDS = 0.05  # sooner than they are told to: tests shall be short
CHUNK_BYTES = 4 << 20
TROUBLE = (502, 503, 504)


@dataclass
class Image:
    """What was acknowledged."""

    layer: Content
    manifest: Content
    tag: str


@dataclass
class Patient:
    """One client in a thread. `may_fall_back`: the database may forget the last chunks, as in a power cut."""

    number: int
    repository: str
    http: httpx.Client
    sizes: tuple[int, ...]
    stopping: threading.Event
    may_fall_back: bool = False
    pushed: list[Image] = field(default_factory=list)
    answers: Counter[int | str] = field(default_factory=Counter)
    begun: int = 0
    forgotten: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Push and pull until it is told to stop, or finds a fault."""
        try:
            self.push(EMPTY)
            for turn in itertools.count():
                if self.stopping.is_set():
                    return
                layer = blob(self.sizes[turn % len(self.sizes)])
                self.push(layer)
                self._tag(Image(layer, image(EMPTY, [layer]), f"p{self.number}-{turn}"))
                self.pull(self.pushed[turn // 2])
        except Exception as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    def push(self, content: Content) -> None:
        """Push a blob, beginning anew only when the upload is not known any more."""
        while not self._push(content):
            self.forgotten += 1

    def _push(self, content: Content) -> bool:
        self.begun += 1
        session = _path(self._until("POST", uploads_path(self.repository), (202,)))
        acknowledged = 0
        while True:
            standing = self._until("GET", session, (204, 404))
            if standing.status_code == 404:
                return False
            start = int(standing.headers["Range"].removeprefix("0-")) + 1
            start = 0 if start == 1 else start
            assert start <= len(content.data)
            assert start >= acknowledged or self.may_fall_back, (
                f"{acknowledged} bytes were taken, {start} are left"
            )
            if start == len(content.data):
                break
            piece = content.data[start : start + CHUNK_BYTES]
            answer = self._once("PATCH", session, content=piece, headers=octets(start, len(piece)))
            if answer is not None and answer.status_code == 202:
                acknowledged = start + len(piece)
            elif answer is not None and answer.status_code not in (404, 409, 416):
                raise AssertionError(f"PATCH: {answer.status_code} {answer.text}")
        url = with_query(session, digest=content.digest)
        wanted = (201, 404, 400) if self.may_fall_back else (201, 404)  # 400: what had come is gone since
        return self._until("PUT", url, wanted).status_code == 201

    def _tag(self, made: Image) -> None:
        path = manifest_path(self.repository, made.tag)
        headers = {"Content-Type": made.manifest.media_type}
        self._until("PUT", path, (201,), content=made.manifest.data, headers=headers)
        self.pushed.append(made)

    def pull(self, made: Image) -> None:
        """See that an image is there, byte for byte."""
        for path, content in (
            (manifest_path(self.repository, made.tag), made.manifest),
            (blob_path(self.repository, made.layer.digest), made.layer),
        ):
            assert self._until("GET", path, (200,)).content == content.data, f"{path} has other bytes"

    # --- asking

    def _until(self, method: str, path: str, wanted: tuple[int, ...], **options: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._once(method, path, **options)
            if answer is not None:
                assert answer.status_code in wanted, f"{method} {path}: {answer.status_code} {answer.text}"
                return answer
            assert time.monotonic() < deadline, f"{method} {path}: nothing but trouble for a minute"

    def _once(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """An answer, None when there was none or one that says to come again."""
        try:
            answer = self.http.request(method, path, **options)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
        else:
            self.answers[answer.status_code] += 1
            if answer.status_code not in TROUBLE:
                return answer
            assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0
            assert answer.json()["errors"][0]["code"]
        time.sleep(AGAIN_AFTER_SECONDS)
        return None


def _path(answer: httpx.Response) -> str:
    return httpx.URL(answer.headers["Location"]).raw_path.decode()
