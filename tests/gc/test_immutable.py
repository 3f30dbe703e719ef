"""Immutable tags: made once, then neither moved nor deleted, in no way."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from registry.oci.errors import ConfigurationError
from registry.server.index import schema
from registry.server.service.immutable import TagPattern
from tests.gc.conftest import StartServer
from tests.gc.keeper import Keeper
from tests.support.oci import failure, manifest_path, push_image, push_manifest, put_manifest
from tests.support.warm import WarmServer

REPOSITORY = "team/app"


@pytest.fixture
def registry(start: StartServer) -> WarmServer:
    return start(policy={"immutable_tags": ["team/*:v*", "fixed:stable"]}, gc={"enabled": False})


@pytest.fixture
def released(http: httpx.Client) -> Iterator[str]:
    """A manifest under an immutable tag and another one; after the test both have to be as they were."""
    manifest = push_image(http, REPOSITORY, "v1")
    push_manifest(http, REPOSITORY, manifest, "latest")
    yield manifest.digest
    assert http.head(manifest_path(REPOSITORY, "v1")).headers["Docker-Content-Digest"] == manifest.digest


def refused(response: httpx.Response, verb: str) -> None:
    assert failure(response) == (403, "DENIED")
    message = response.json()["errors"][0]["message"]
    assert message == (
        "the tag v1 is immutable here (policy.immutable_tags: team/*:v*) and cannot be "
        f"{verb}; push under another tag"
    )


def test_it_can_be_made_and_pushed_again_as_it_is(http: httpx.Client) -> None:
    manifest = push_image(http, REPOSITORY, "v1")
    push_manifest(http, REPOSITORY, manifest, "v1")
    push_manifest(http, REPOSITORY, manifest, "v2")


def test_it_cannot_be_moved(http: httpx.Client, released: str) -> None:
    other = push_image(http, REPOSITORY, "other")
    refused(put_manifest(http, REPOSITORY, other, "v1"), "moved")


def test_it_cannot_be_moved_by_the_parameter_either_and_no_other_tag_is_then(
    http: httpx.Client, released: str
) -> None:
    other = push_image(http, REPOSITORY, "other")
    url = f"{manifest_path(REPOSITORY, other.digest)}?tag=latest&tag=v1&tag=new"
    refused(http.put(url, content=other.data, headers={"Content-Type": other.media_type}), "moved")
    assert http.head(manifest_path(REPOSITORY, "latest")).headers["Docker-Content-Digest"] == released
    assert http.head(manifest_path(REPOSITORY, "new")).status_code == 404


def test_it_cannot_be_deleted(http: httpx.Client, released: str) -> None:
    refused(http.delete(manifest_path(REPOSITORY, "v1")), "deleted")


def test_it_cannot_be_deleted_with_its_manifest(http: httpx.Client, released: str) -> None:
    refused(http.delete(manifest_path(REPOSITORY, released)), "deleted")
    assert http.head(manifest_path(REPOSITORY, "latest")).status_code == 200


def test_other_tags_and_repositories_are_free(http: httpx.Client, released: str) -> None:
    for repository, tag in ((REPOSITORY, "latest"), ("other/app", "v1"), ("fixed", "unstable")):
        push_image(http, repository, tag)
        push_image(http, repository, tag)
        assert http.delete(manifest_path(repository, tag)).status_code == 202


def test_a_manifest_without_such_a_tag_can_be_deleted(http: httpx.Client, released: str) -> None:
    manifest = push_image(http, REPOSITORY, "other")
    assert http.delete(manifest_path(REPOSITORY, manifest.digest)).status_code == 202


def test_one_that_is_not_there_is_unknown_rather_than_denied(http: httpx.Client, released: str) -> None:
    assert failure(http.delete(manifest_path(REPOSITORY, "v7"))) == (404, "MANIFEST_UNKNOWN")


def test_what_was_denied_is_in_the_audit_log(http: httpx.Client, keeper: Keeper, released: str) -> None:
    http.delete(manifest_path(REPOSITORY, "v1"))
    http.delete(manifest_path(REPOSITORY, released))
    put_manifest(http, REPOSITORY, push_image(http, REPOSITORY, "other"), "v1")
    denied = [(row["action"], row["target"]) for row in keeper.rows(schema.audit) if row["result"] == "denied"]
    assert denied[:2] == [
        ("tag.delete", f"{REPOSITORY}:v1"),
        ("manifest.delete", f"{REPOSITORY}@{released}"),
    ]
    assert len(denied) == 3


@pytest.mark.parametrize(
    ("pattern", "tag", "expected"),
    [
        ("team/*:v*", "v1", True),
        ("team/*:v*", "v", True),
        ("team/*:v*", "1v", False),
        ("*:*.*.*", "1.2.3", True),
        ("*:*.*.*", "1x2y3", False),
        ("team/app:latest", "latest", True),
        ("team/app:latest", "latest2", False),
        ("team/other:*", "v1", False),
        ("*:V*", "v1", False),
    ],
)
def test_patterns(pattern: str, tag: str, expected: bool) -> None:
    assert TagPattern.parse(pattern).covers(REPOSITORY, tag) is expected
    assert str(TagPattern.parse(pattern)) == pattern


@pytest.mark.parametrize("pattern", ["", "team/app", ":v1", "team/app:", "Team:v1", "team/app:v 1", "a:b:c"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        TagPattern.parse(pattern)
