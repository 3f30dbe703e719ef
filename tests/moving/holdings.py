"""Everything that a registry gives to whoever pulls, to be compared with what another one gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.images import digest_of
from tests.support.peers import ALL_TYPES

Holdings = dict[tuple[str, str], str]


def of(http: httpx.Client, repositories: list[str] | None = None) -> Holdings:
    """By repository and tag or digest: the type and the digest of what is pulled, of every tag and below it."""
    found: Holdings = {}
    for repository in catalogue(http) if repositories is None else repositories:
        for tag in tags(http, repository):
            answer = _pull(http, repository, f"manifests/{tag}")
            digest = digest_of(answer.content)
            assert answer.headers["Docker-Content-Digest"] == digest
            found[repository, tag] = digest
            _walk(http, repository, digest, found)
    return found


def catalogue(http: httpx.Client) -> list[str]:
    return list(http.get("/v2/_catalog?n=1000").json()["repositories"])


def tags(http: httpx.Client, repository: str) -> list[str]:
    answer = http.get(f"/v2/{repository}/tags/list")
    return sorted(answer.json().get("tags") or []) if answer.status_code == 200 else []


def manifest(http: httpx.Client, repository: str, reference: str) -> Any:
    """A manifest, parsed."""
    return _pull(http, repository, f"manifests/{reference}").json()


def _walk(http: httpx.Client, repository: str, digest: str, found: Holdings) -> None:
    if (repository, digest) in found:
        return
    answer = _pull(http, repository, f"manifests/{digest}")
    assert digest_of(answer.content) == digest
    found[repository, digest] = answer.headers["Content-Type"]
    document = answer.json()
    for child in document.get("manifests", ()):
        _walk(http, repository, child["digest"], found)
    for descriptor in _blobs(document):
        blob = _pull(http, repository, f"blobs/{descriptor['digest']}").content
        algorithm = descriptor["digest"].partition(":")[0]
        assert _digest(blob, algorithm) == descriptor["digest"]
        found[repository, descriptor["digest"]] = str(len(blob))


def _digest(data: bytes, algorithm: str) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _blobs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "config" in document:
        yield document["config"]
    yield from document.get("layers", ())


def _pull(http: httpx.Client, repository: str, what: str) -> httpx.Response:
    answer = http.get(f"/v2/{repository}/{what}", headers={"Accept": ALL_TYPES})
    assert answer.status_code == 200, f"{repository} {what}: {answer.status_code} {answer.text}"
    return answer
