"""Paths of the distribution API: read from their end, whatever a repository is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import NameInvalid
from registry.server.web.routes import Kind, Route, find

DIGEST = "sha256:" + "0" * 64
UPLOAD = "0123abcd-0000-4000-8000-000000000000"

# Names that look like parts of a path.
NAMES = [
    "a",
    "team/web",
    "a/manifests/b",
    "a/blobs/b",
    "blobs/uploads",
    "a/blobs/uploads",
    "uploads",
    "blobs",
    "manifests",
    "tags",
    "tags/list",
    "a/tags/list",
    "referrers",
    "v2",
    "v2/v2",
    "list",
    "a/blobs",
    "a/uploads",
    "blobs/uploads/blobs/uploads",
    "a/referrers/" + "0" * 64,
]
every_name = pytest.mark.parametrize("name", NAMES)


def at(path: str) -> tuple[Kind, str, str] | None:
    route = find(path)
    return None if route is None else (route.kind, route.repository, route.last)


class TestEveryName:
    @every_name
    @pytest.mark.parametrize("last", ["latest", DIGEST, "manifests", "list", "uploads", "%2e", "a:b", "ä", " "])
    def test_has_manifests(self, name: str, last: str) -> None:
        assert at(f"/v2/{name}/manifests/{last}") == (Kind.MANIFEST, name, last)

    @every_name
    def test_has_blobs(self, name: str) -> None:
        assert at(f"/v2/{name}/blobs/{DIGEST}") == (Kind.BLOB, name, DIGEST)
        assert at(f"/v2/{name}/blobs/nonsense") == (Kind.BLOB, name, "nonsense")

    @every_name
    def test_has_uploads_also_when_a_proxy_took_the_last_slash(self, name: str) -> None:
        assert at(f"/v2/{name}/blobs/uploads/") == (Kind.UPLOADS, name, "")
        assert at(f"/v2/{name}/blobs/uploads") == (Kind.UPLOADS, name, "")

    @every_name
    @pytest.mark.parametrize("last", [UPLOAD, "x", "uploads", "latest"])
    def test_has_each_upload(self, name: str, last: str) -> None:
        assert at(f"/v2/{name}/blobs/uploads/{last}") == (Kind.UPLOAD, name, last)

    @every_name
    def test_has_tags(self, name: str) -> None:
        assert at(f"/v2/{name}/tags/list") == (Kind.TAGS, name, "list")

    @every_name
    def test_has_referrers(self, name: str) -> None:
        assert at(f"/v2/{name}/referrers/{DIGEST}") == (Kind.REFERRERS, name, DIGEST)


def test_the_base_and_the_catalogue_have_no_repository() -> None:
    assert find("/v2/") == Route(Kind.BASE)
    assert find("/v2/_catalog") == Route(Kind.CATALOGUE)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/a",
        "/v2/a/",
        "/v2//",
        "/v2/_catalog/",
        "/v2/a/_catalog",
        "/v2/a/manifests",
        "/v2/a/manifests/",
        "/v2/manifests/latest",
        "/v2//manifests/latest",
        "/v2/blobs/" + DIGEST,
        "/v2/a/blobs/",
        "/v2/a/blobs",
        "/v2/blobs/uploads/",
        "/v2/blobs/uploads",
        "/v2/blobs/uploads/" + UPLOAD,
        "/v2/a/uploads/" + UPLOAD,
        "/v2/a/tags",
        "/v2/a/tags/",
        "/v2/a/tags/list/",
        "/v2/a/tags/other",
        "/v2/tags/list",
        "/v2/a/referrers",
        "/v2/a/referrers/",
        "/v2/referrers/" + DIGEST,
        "/v2/a/layers/x",
        "/v2/a/Manifests/latest",
        "/v2/a/manifests/latest/",
        "/v2/a/blobs/uploads/x/y",
    ],
)
def test_a_path_that_is_none_of_the_apis_has_no_route(path: str) -> None:
    assert find(path) is None


@pytest.mark.parametrize(
    "name",
    [
        "A",
        "-a",
        "a//b",
        "a/",
        "/a",
        "../a",
        "a/../b",
        "a/..",
        "_a",
        "a b",
        "a\0",
        "a:b",
        "ä",
        "x" * 256,
        ".",
        "%61",
    ],
)
@pytest.mark.parametrize(
    "path",
    ["manifests/latest", "blobs/" + DIGEST, "blobs/uploads/", "blobs/uploads/x", "tags/list", "referrers/x"],
)
def test_a_name_outside_of_the_grammar_is_refused_everywhere_and_each_time(name: str, path: str) -> None:
    for _ in range(2):
        with pytest.raises(NameInvalid):
            find(f"/v2/{name}/{path}")


@given(
    st.lists(
        st.sampled_from(["a", "blobs", "uploads", "manifests", "tags", "list", "", "_catalog", "A"]), max_size=8
    )
)
def test_any_path_has_one_route_or_none_and_that_gives_the_path_back(parts: list[str]) -> None:
    path = "/v2/" + "/".join(parts)
    try:
        route = find(path)
    except NameInvalid:
        return
    if route is None:
        return
    rebuilt = {
        Kind.BASE: "/v2/",
        Kind.CATALOGUE: "/v2/_catalog",
        Kind.MANIFEST: f"/v2/{route.repository}/manifests/{route.last}",
        Kind.BLOB: f"/v2/{route.repository}/blobs/{route.last}",
        Kind.UPLOADS: f"/v2/{route.repository}/blobs/uploads/",
        Kind.UPLOAD: f"/v2/{route.repository}/blobs/uploads/{route.last}",
        Kind.TAGS: f"/v2/{route.repository}/tags/list",
        Kind.REFERRERS: f"/v2/{route.repository}/referrers/{route.last}",
    }[route.kind]
    assert path in (rebuilt, rebuilt.removesuffix("/"))


def test_a_path_of_any_length_is_read() -> None:
    name = "a/" * 100 + "a"
    assert at(f"/v2/{name}/manifests/{'x' * 100_000}") == (Kind.MANIFEST, name, "x" * 100_000)
    with pytest.raises(NameInvalid):
        find("/v2/" + "a/" * 100_000 + "manifests/x")
