"""The `Accept` header: what is stored comes, save for a docker client too old to know an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest

from tests.support.oci import (
    DOCKER_CONFIG,
    DOCKER_IMAGE,
    DOCKER_LIST,
    DOCKER_SCHEMA1,
    OCI_IMAGE,
    OCI_INDEX,
    Content,
    blob,
    config,
    docker_image,
    docker_list,
    index,
    manifest_path,
    platform,
    push_blob,
    push_image,
    push_manifest,
)

Index = Callable[..., Content]


def push_docker_image(http: httpx.Client, repository: str, architecture: str = "amd64") -> Content:
    made = push_blob(http, repository, config(architecture, DOCKER_CONFIG))
    return push_manifest(http, repository, docker_image(made, [push_blob(http, repository, blob())]))


def push_platforms(
    http: httpx.Client, repository: str, build: Index, *platforms: tuple[str, str]
) -> tuple[Content, dict[tuple[str, str], Content]]:
    """Push an index of docker images, tagged `latest`, and return it and its children by platform."""
    children = {(os, arch): push_docker_image(http, repository, arch) for os, arch in platforms}
    described = [each.descriptor(platform=platform(arch, os)) for (os, arch), each in children.items()]
    return push_manifest(http, repository, build(described), "latest"), children


def assert_is(response: httpx.Response, content: Content) -> None:
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == content.media_type
    assert response.headers["Docker-Content-Digest"] == content.digest
    assert response.headers["Content-Length"] == str(len(content.data))
    assert response.request.method == "HEAD" or response.content == content.data


@dataclass(frozen=True)
class Offered:
    """An index in a repository, tagged `latest`, and the images that it offers."""

    repository: str
    content: Content
    children: dict[tuple[str, str], Content]

    @property
    def path(self) -> str:
        return manifest_path(self.repository, "latest")


@pytest.fixture(scope="module", params=[index, docker_list], ids=["index", "list"])
def offered(http: httpx.Client, request: pytest.FixtureRequest) -> Offered:
    """An index or a list with four platforms, that for linux on amd64 neither first nor last."""
    repository = f"negotiation/{request.param.__name__.replace('_', '-')}"
    platforms = [("windows", "amd64"), ("linux", "arm64"), ("linux", "amd64"), ("linux", "386")]
    return Offered(repository, *push_platforms(http, repository, request.param, *platforms))


@pytest.fixture(scope="module")
def stored(http: httpx.Client) -> Content:
    """An image tagged `latest` in the repository negotiation/image."""
    return push_image(http, "negotiation/image", "latest")


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "",
        "application/json",
        "text/html",
        OCI_INDEX,
        DOCKER_IMAGE,
        f"{OCI_IMAGE};q=0",
        f"{DOCKER_SCHEMA1}, {DOCKER_IMAGE}",
        "nonsense;;;,,,",
        "a/" * 3000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_image_comes_as_it_is_whatever_the_client_accepts(
    http: httpx.Client, stored: Content, method: str, accept: str
) -> None:
    for reference in ("latest", stored.digest):
        path = manifest_path("negotiation/image", reference)
        assert_is(http.request(method, path, headers={"Accept": accept}), stored)


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        OCI_INDEX,
        DOCKER_LIST,
        f"{DOCKER_IMAGE}, {DOCKER_LIST}",
        f"{DOCKER_IMAGE},{OCI_INDEX},{OCI_IMAGE}",
        f"{DOCKER_IMAGE}, */*",
        f"{DOCKER_IMAGE}, */*;q=0.1",
        f"{DOCKER_SCHEMA1}, {DOCKER_IMAGE}, {DOCKER_LIST};q=0.5",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_index_comes_to_every_client_that_may_know_it(
    http: httpx.Client, offered: Offered, method: str, accept: str
) -> None:
    response = http.request(method, offered.path, headers={"Accept": accept})
    assert_is(response, offered.content)


def test_a_client_that_says_nothing_gets_what_is_stored(http: httpx.Client, offered: Offered) -> None:
    request = http.build_request("GET", offered.path)
    del request.headers["Accept"]
    assert_is(http.send(request), offered.content)


def test_types_may_be_listed_in_several_headers(http: httpx.Client, offered: Offered) -> None:
    headers = [("Accept", each) for each in (DOCKER_IMAGE, OCI_IMAGE, DOCKER_LIST, OCI_INDEX)]
    assert_is(http.get(offered.path, headers=headers), offered.content)


@pytest.mark.parametrize(
    "accept", [DOCKER_IMAGE, f"{DOCKER_IMAGE};q=0.9", f"{DOCKER_SCHEMA1}, {DOCKER_IMAGE}", DOCKER_IMAGE.upper()]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_docker_client_that_knows_only_schema_2_gets_the_image_for_linux_on_amd64(
    http: httpx.Client, offered: Offered, method: str, accept: str
) -> None:
    response = http.request(method, offered.path, headers={"Accept": accept})
    assert_is(response, offered.children["linux", "amd64"])


def test_asked_for_by_digest_an_index_is_never_exchanged(http: httpx.Client, offered: Offered) -> None:
    path = manifest_path(offered.repository, offered.content.digest)
    assert_is(http.get(path, headers={"Accept": DOCKER_IMAGE}), offered.content)


@pytest.mark.parametrize("build", [index, docker_list], ids=["index", "list"])
def test_where_there_is_no_image_for_linux_on_amd64_no_other_is_passed_off_as_it(
    http: httpx.Client, repository: str, build: Index
) -> None:
    content, _ = push_platforms(http, repository, build, ("linux", "arm64"), ("windows", "amd64"))
    response = http.get(manifest_path(repository, "latest"), headers={"Accept": DOCKER_IMAGE})
    if response.status_code != 404:
        assert_is(response, content)


def test_an_exchanged_index_leaves_other_clients_theirs(http: httpx.Client, offered: Offered) -> None:
    for _ in range(2):
        response = http.get(offered.path, headers={"Accept": DOCKER_IMAGE})
        assert_is(response, offered.children["linux", "amd64"])
        response = http.get(offered.path, headers={"Accept": f"{DOCKER_LIST}, {OCI_INDEX}"})
        assert_is(response, offered.content)


def test_the_entity_tag_belongs_to_what_was_served(http: httpx.Client, offered: Offered) -> None:
    known = http.get(offered.path, headers={"Accept": f"{DOCKER_LIST}, {OCI_INDEX}"}).headers["ETag"]
    response = http.get(offered.path, headers={"Accept": DOCKER_IMAGE, "If-None-Match": known})
    assert_is(response, offered.children["linux", "amd64"])
