"""What a client was promised, and whether a registry keeps it: the judge of tests that kill servers.

Every push goes through a `Ledger`, which writes down what was tried before the request and what was
acknowledged after it. `check` then holds a server to both, and to this: whatever is visible is whole.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.oci import (
    Content,
    blob_path,
    digest_of,
    location,
    manifest_path,
    octets,
    tags_path,
    uploads_path,
    with_query,
)

ABSENT = None
_Name = tuple[str, str]  # a repository, and a digest or tag in it


@dataclass
class _Entry:
    """One name: what it may show (a digest, or ABSENT), and the bytes of each."""

    allowed: set[str | None]
    bodies: dict[str, bytes] = field(default_factory=dict)


class Refused(AssertionError):
    """A request that should have been answered otherwise."""

    def __init__(self, response: httpx.Response) -> None:
        request = response.request
        super().__init__(f"{request.method} {request.url}: {response.status_code} {response.text}")
        self.response = response


class Ledger:
    """Pushes and deletes over *http*, and remembers. Set `http` to go on with another server."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self._blobs: dict[_Name, _Entry] = {}
        self._manifests: dict[_Name, _Entry] = {}
        self._tags: dict[_Name, _Entry] = {}
        self._open: tuple[str, str, Content] | None = None  # the upload that was begun last

    def copy(self, http: httpx.Client) -> Ledger:
        """A ledger with the same past and a future of its own."""
        other = Ledger(http)
        other._blobs, other._manifests, other._tags = copy.deepcopy((self._blobs, self._manifests, self._tags))
        return other

    # --- what a client does

    def request(self, method: str, url: str, expect: int, **options: Any) -> httpx.Response:
        """A request that must be answered with the status *expect*. Raises Refused, and httpx's TransportError."""
        response = self.http.request(method, url, **options)
        if response.status_code != expect:
            raise Refused(response)
        return response

    def begin(self, repository: str, content: Content) -> str:
        """Open an upload for *content* and return its location."""
        session = location(self.request("POST", uploads_path(repository), 202))
        self._open = (repository, session, content)
        return session

    def standing(self) -> httpx.Response:
        """What the registry says of the upload that was begun last."""
        assert self._open is not None
        return self.http.get(self._open[1])

    def resume(self) -> bool:
        """Go on with the upload that was begun last, from where the registry says that it stands.

        False when the registry does not know it any more, and the client is to begin anew.
        """
        if self._open is None:
            return False
        repository, session, content = self._open
        standing = self.standing()
        assert standing.status_code in (204, 404), f"{standing.status_code} {standing.text}"
        if standing.status_code == 404:
            return False
        last = int(standing.headers["Range"].removeprefix("0-"))
        start = last + 1 if last else 0
        assert start <= len(content.data)
        more = content.data[start:]
        sent = self.http.patch(session, content=more, headers=octets(start, len(more))) if more else standing
        if sent.status_code == 404:  # it was published already, and only not recorded
            return False
        assert sent.status_code in (202, 204), f"{sent.status_code} {sent.text}"
        self.finish(repository, session, content)
        return True

    def patch(self, session: str, data: bytes | Iterator[bytes], start: int | None = None) -> str:
        """Send more of an upload and return where it goes on."""
        length = len(data) if isinstance(data, bytes) else 0
        return location(self.request("PATCH", session, 202, content=data, headers=octets(start, length)))

    def finish(
        self, repository: str, session: str, content: Content, last: bytes = b"", start: int | None = None
    ) -> None:
        """Close an upload, perhaps with the bytes that are still missing."""
        with self._changing(self._blobs, (repository, content.digest), content.digest, content.data):
            url = with_query(session, digest=content.digest)
            self.request("PUT", url, 201, content=last, headers=octets(start, len(last)))

    def push_whole(self, repository: str, content: Content) -> None:
        """Push a blob in one request."""
        with self._changing(self._blobs, (repository, content.digest), content.digest, content.data):
            url = with_query(uploads_path(repository), digest=content.digest)
            self.request("POST", url, 201, content=content.data, headers=octets())

    def push(self, repository: str, content: Content) -> None:
        """Push a small blob in two requests."""
        self.finish(repository, self.begin(repository, content), content, content.data)

    def mount(self, repository: str, source: str, content: Content) -> None:
        """Link a blob of another repository."""
        with self._changing(self._blobs, (repository, content.digest), content.digest, content.data):
            self.request(
                "POST", with_query(uploads_path(repository), mount=content.digest, **{"from": source}), 201
            )

    def put_manifest(self, repository: str, content: Content, reference: str | None = None, *tags: str) -> None:
        """Push a manifest under *reference* (None: its digest), *tags* with it."""
        moved = [*tags, *([reference] if reference and ":" not in reference else [])]
        changes = [_Change(self._manifests, (repository, content.digest), content.digest, content.data)]
        changes += [_Change(self._tags, (repository, tag), content.digest, content.data) for tag in moved]
        for change in changes:
            change.begin()
        url = manifest_path(repository, reference or content.digest)
        self.request(
            "PUT",
            str(httpx.URL(url, params=[("tag", tag) for tag in tags])) if tags else url,
            201,
            content=content.data,
            headers={"Content-Type": content.media_type},
        )
        for change in changes:
            change.acknowledge()

    def delete_blob(self, repository: str, digest: str) -> None:
        """Delete a blob; one that an earlier try deleted already is fine."""
        with self._changing(self._blobs, (repository, digest), ABSENT):
            self._delete(blob_path(repository, digest))

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete a tag; one that an earlier try deleted already is fine."""
        with self._changing(self._tags, (repository, tag), ABSENT):
            self._delete(manifest_path(repository, tag))

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete a manifest and the tags that point to it."""
        changes = [_Change(self._manifests, (repository, digest), ABSENT)]
        for name, entry in self._tags.items():
            if name[0] == repository and digest in entry.allowed:
                changes.append(_Change(self._tags, name, ABSENT))
        for change in changes:
            change.begin()
        self._delete(manifest_path(repository, digest))
        for change in changes:
            change.acknowledge()

    def _delete(self, url: str) -> None:
        response = self.http.delete(url)
        if response.status_code not in (202, 404):
            raise Refused(response)

    def _changing(self, entries: dict[_Name, _Entry], name: _Name, to: str | None, body: bytes = b"") -> _Change:
        return _Change(entries, name, to, body)

    # --- what must hold

    def check(self) -> None:
        """Hold the server to everything that it promised, and to showing nothing that is not whole."""
        self.check_promises()
        walk(self.http)

    def check_promises(self) -> None:
        """Hold the server to what it acknowledged to this client; others may do as they like beside."""
        _check_entries(self._blobs, lambda name: self._fetch(blob_path(*name)))
        _check_entries(self._manifests, lambda name: self._fetch(manifest_path(*name)))
        _check_entries(self._tags, lambda name: self._fetch(manifest_path(*name)))

    def _fetch(self, url: str) -> tuple[str, bytes] | None:
        return fetch(self.http, url)


class _Change:
    """A change that was asked for: until it is acknowledged, both the old and the new may be seen."""

    def __init__(self, entries: dict[_Name, _Entry], name: _Name, to: str | None, body: bytes = b"") -> None:
        self._entry = entries.setdefault(name, _Entry({ABSENT}))
        self._to = to
        self._body = body

    def begin(self) -> None:
        self._entry.allowed.add(self._to)
        if self._to is not None:
            self._entry.bodies[self._to] = self._body

    def acknowledge(self) -> None:
        self._entry.allowed = {self._to}

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.acknowledge()


def _check_entries(entries: dict[_Name, _Entry], fetched: Callable[[_Name], tuple[str, bytes] | None]) -> None:
    for name, entry in entries.items():
        found = fetched(name)
        digest = ABSENT if found is None else found[0]
        assert digest in entry.allowed, f"{name} shows {digest}, not one of {entry.allowed}"
        if found is not None and digest is not None:
            assert found[1] == entry.bodies[digest], f"{name} has other bytes than were pushed"


def fetch(http: httpx.Client, url: str) -> tuple[str, bytes] | None:
    """Digest and bytes of a blob or manifest, None when it is not there; GET and HEAD must agree on it."""
    response, head = http.get(url), http.head(url)
    assert response.status_code in (200, 404), f"GET {url}: {response.status_code} {response.text}"
    assert head.status_code == response.status_code, f"{url}: HEAD {head.status_code}, GET {response.status_code}"
    if response.status_code == 404:
        return None
    digest = response.headers["Docker-Content-Digest"]
    assert digest_of(response.content, digest.partition(":")[0]) == digest, (
        f"{url} has other bytes than its digest"
    )
    assert int(head.headers["Content-Length"]) == len(response.content), url
    return digest, response.content


def walk(http: httpx.Client) -> int:
    """Follow every name that the registry shows to its bytes, and check them; returns how many there were."""
    seen: set[_Name] = set()
    for repository in http.get("/v2/_catalog?n=1000").json()["repositories"]:
        for tag in http.get(tags_path(repository)).json()["tags"]:
            found = fetch(http, manifest_path(repository, tag))
            assert found is not None, f"{repository}:{tag} is listed, but leads nowhere"
            _walk_manifest(http, repository, found, seen)
    return len(seen)


def _walk_manifest(http: httpx.Client, repository: str, found: tuple[str, bytes], seen: set[_Name]) -> None:
    digest, payload = found
    if (repository, digest) in seen:
        return
    seen.add((repository, digest))
    document = httpx.Response(200, content=payload).json()
    for child in document.get("manifests", ()):
        below = fetch(http, manifest_path(repository, child["digest"]))
        if below is not None:  # a child may be deleted on its own
            _walk_manifest(http, repository, below, seen)
    for descriptor in (document.get("config"), *document.get("layers", ())):
        if descriptor is not None:
            _check_blob(http, repository, descriptor, seen)


def _check_blob(http: httpx.Client, repository: str, descriptor: dict[str, Any], seen: set[_Name]) -> None:
    name = (repository, descriptor["digest"])
    if name in seen:
        return
    seen.add(name)
    hasher, size = hashlib.sha256(), 0
    with http.stream("GET", blob_path(*name)) as response:
        assert response.status_code == 200, f"{name} is named by a manifest, but is {response.status_code}"
        for piece in response.iter_bytes():
            hasher.update(piece)
            size += len(piece)
    assert size == descriptor["size"], name
    assert f"sha256:{hasher.hexdigest()}" == name[1], name
