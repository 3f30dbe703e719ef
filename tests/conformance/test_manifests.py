"""Pushing and pulling manifests: exact bytes, names, headers, conditions, sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import httpx
import pytest

from tests.conformance.kinds import KINDS, Kind, oci_image, oci_index
from tests.support.oci import (
    ALGORITHMS,
    DOCKER_IMAGE,
    OCI_IMAGE,
    Content,
    artifact,
    blob,
    config,
    digest_of,
    failure,
    image,
    index,
    location,
    manifest_path,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
    referrers_path,
    tags_path,
)

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

LIMIT = 4_194_304
PASSING = {"date", "connection", "keep-alive", "x-request-id"}


def lasting(response: httpx.Response) -> dict[str, str]:
    """The headers of an answer without those of the moment."""
    return {name: value for name, value in response.headers.items() if name not in PASSING}


def assert_is(response: httpx.Response, content: Content) -> None:
    """The answer is this manifest, to the byte, and says so."""
    assert response.status_code == 200, response.text
    assert response.content == content.data
    assert response.headers["Content-Type"] == content.media_type
    assert response.headers["Content-Length"] == str(len(content.data))
    assert response.headers["Docker-Content-Digest"] == content.digest


Ready = Callable[[Kind], tuple[str, Content]]


@pytest.fixture(scope="module")
def ready(http: httpx.Client) -> Ready:
    """Gives a kind's repository, with all that the manifest needs pushed, and the manifest itself, not pushed."""

    @cache
    def make(kind: Kind) -> tuple[str, Content]:
        repository = f"kinds/{kind.__name__.replace('_', '-')}"
        return repository, kind(http, repository)

    return make


class TestEveryKind:
    @every_kind
    def test_a_manifest_pushed_by_tag_comes_back_byte_for_byte(
        self, http: httpx.Client, ready: Ready, kind: Kind
    ) -> None:
        repository, content = ready(kind)
        response = put_manifest(http, repository, content, "latest")
        assert response.status_code == 201, response.text
        assert response.headers["Docker-Content-Digest"] == content.digest
        assert_is(http.get(location(response)), content)
        for reference in ("latest", content.digest):
            assert_is(http.get(manifest_path(repository, reference)), content)

    @every_kind
    @every_algorithm
    def test_a_manifest_pushed_by_digest_comes_back_byte_for_byte(
        self, http: httpx.Client, ready: Ready, kind: Kind, algorithm: str
    ) -> None:
        repository, made = ready(kind)
        content = made.under(algorithm)
        response = put_manifest(http, repository, content)
        assert response.status_code == 201, response.text
        assert response.headers["Docker-Content-Digest"] == content.digest
        assert_is(http.get(location(response)), content)
        assert_is(http.get(manifest_path(repository, content.digest)), content)

    @every_kind
    def test_head_says_what_get_says_and_sends_no_body(self, http: httpx.Client, ready: Ready, kind: Kind) -> None:
        repository, made = ready(kind)
        content = push_manifest(http, repository, made, "latest")
        for reference in ("latest", content.digest):
            head = http.head(manifest_path(repository, reference))
            assert head.status_code == 200
            assert head.content == b""
            assert lasting(head) == lasting(http.get(manifest_path(repository, reference)))

    @every_kind
    def test_a_subject_is_echoed_and_only_a_subject(self, http: httpx.Client, ready: Ready, kind: Kind) -> None:
        repository, content = ready(kind)
        subject = content.document.get("subject", {}).get("digest")
        for reference in ("latest", content.digest):
            response = put_manifest(http, repository, content, reference)
            assert response.headers.get("OCI-Subject") == subject

    @every_algorithm
    def test_images_and_indexes_made_of_one_algorithm_throughout(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        children = [push_image(http, repository, algorithm=algorithm).descriptor() for _ in range(2)]
        content = push_manifest(http, repository, index(children).under(algorithm))
        for each in (content.digest, *(child["digest"] for child in children)):
            response = http.get(manifest_path(repository, each))
            assert response.headers["Docker-Content-Digest"] == each

    @every_algorithm
    def test_the_subject_may_have_a_digest_of_either_algorithm(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        subject = push_image(http, repository, algorithm=algorithm)
        push_blob(http, repository, Content(b"{}"))
        response = put_manifest(http, repository, artifact("a/b", subject.descriptor()))
        assert response.headers["OCI-Subject"] == subject.digest


class TestContentType:
    def test_its_parameters_are_ignored(self, http: httpx.Client, repository: str) -> None:
        content = oci_image(http, repository)
        for media_type in (f"{OCI_IMAGE}; charset=utf-8", f"{OCI_IMAGE};foo=bar"):
            response = http.put(
                manifest_path(repository, "latest"),
                content=content.data,
                headers={"Content-Type": media_type},
            )
            assert response.status_code == 201
            assert_is(http.get(manifest_path(repository, "latest")), content)

    def test_without_it_the_document_may_say_what_it_is(self, http: httpx.Client, repository: str) -> None:
        content = oci_image(http, repository)
        response = http.put(manifest_path(repository, "latest"), content=content.data)
        if response.status_code == 201:
            assert_is(http.get(manifest_path(repository, "latest")), content)
        else:
            assert failure(response)[0] in {400, 415}

    def test_a_body_of_unannounced_length_is_as_good(self, http: httpx.Client, repository: str) -> None:
        content = oci_image(http, repository)
        response = http.put(
            manifest_path(repository, "latest"),
            content=iter([content.data[:100], content.data[100:]]),
            headers={"Content-Type": content.media_type},
        )
        assert response.status_code == 201
        assert_is(http.get(manifest_path(repository, "latest")), content)


class TestTags:
    @pytest.mark.parametrize(
        "tag",
        [
            "a",
            "_",
            "0",
            "A",
            "__",
            "1.2.3",
            "v1.0-rc.1_amd64",
            "a..b--c__d",
            "a.",
            "a-",
            "a" * 128,
            "_" + "." * 127,
        ],
    )
    def test_a_tag_within_the_grammar_is_accepted(self, http: httpx.Client, repository: str, tag: str) -> None:
        content = push_image(http, repository, tag)
        assert_is(http.get(manifest_path(repository, tag)), content)
        assert http.get(tags_path(repository)).json()["tags"] == [tag]

    @pytest.mark.parametrize(
        "tag",
        [
            ".hidden",
            "-dash",
            "a" * 129,
            "a" * 5000,
            "a+b",
            "a b",
            "a%00",
            "%ff",
            "ä",
            "a@b",
            "a%0A",
            "٣",
            "*",
            "~",
            "'",
        ],
    )
    def test_a_tag_outside_the_grammar_is_refused(self, http: httpx.Client, repository: str, tag: str) -> None:
        content = oci_image(http, repository)
        response = put_manifest(http, repository, content, tag)
        assert failure(response)[0] in ({400} if len(tag) < 5000 else {400, 414})
        assert http.get(manifest_path(repository, tag)).status_code in {400, 404, 414}

    def test_tags_differ_by_case(self, http: httpx.Client, repository: str) -> None:
        lower, upper = push_image(http, repository, "latest"), push_image(http, repository, "LATEST")
        assert_is(http.get(manifest_path(repository, "latest")), lower)
        assert_is(http.get(manifest_path(repository, "LATEST")), upper)

    def test_a_tag_moves_and_the_manifest_it_left_stays(self, http: httpx.Client, repository: str) -> None:
        first, second = push_image(http, repository, "latest"), push_image(http, repository, "latest")
        assert_is(http.get(manifest_path(repository, "latest")), second)
        assert_is(http.get(manifest_path(repository, first.digest)), first)
        assert http.get(tags_path(repository)).json()["tags"] == ["latest"]

    def test_a_manifest_may_have_many_tags(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository)
        for tag in ("one", "two", "three"):
            assert put_manifest(http, repository, content, tag).status_code == 201
        for tag in ("one", "two", "three"):
            assert_is(http.get(manifest_path(repository, tag)), content)

    def test_pushing_the_same_again_succeeds(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        for reference in ("latest", content.digest, "latest"):
            assert put_manifest(http, repository, content, reference).status_code == 201

    def test_a_manifest_under_a_second_media_type_keeps_to_the_bytes(
        self, http: httpx.Client, repository: str
    ) -> None:
        made, layer = (push_blob(http, repository, each) for each in (config(), blob()))
        bare = image(made, [layer], mediaType=None)
        push_manifest(http, repository, bare, "oci")
        response = put_manifest(http, repository, Content(bare.data, DOCKER_IMAGE), "docker")
        if response.status_code != 201:
            assert failure(response)[0] == 400
        assert http.get(manifest_path(repository, "oci")).content == bare.data


class TestTagParameters:
    """`PUT …/manifests/<digest>?tag=…&tag=…`, of the `dev` text."""

    @staticmethod
    def put(http: httpx.Client, repository: str, content: Content, tags: list[str]) -> httpx.Response:
        return http.put(
            manifest_path(repository, content.digest),
            params=[("tag", tag) for tag in tags],
            content=content.data,
            headers={"Content-Type": content.media_type},
        )

    @staticmethod
    def accepted(response: httpx.Response) -> list[str]:
        values = response.headers.get_list("OCI-Tag", split_commas=True)
        return sorted(value.strip() for value in values)

    @every_algorithm
    @pytest.mark.parametrize("count", [1, 2, 10, 40])
    def test_every_tag_is_set_and_named_in_the_answer(
        self, http: httpx.Client, repository: str, algorithm: str, count: int
    ) -> None:
        content = oci_index(http, repository).under(algorithm)
        tags = sorted(f"v1.{n}" for n in range(count))
        response = self.put(http, repository, content, tags)
        assert response.status_code == 201, response.text
        assert self.accepted(response) == tags
        assert response.headers["Docker-Content-Digest"] == content.digest
        assert http.get(tags_path(repository)).json()["tags"] == tags
        for tag in (tags[0], tags[-1]):
            assert_is(http.get(manifest_path(repository, tag)), content)
            head = http.head(manifest_path(repository, tag))
            assert head.headers["Docker-Content-Digest"] == content.digest

    def test_without_tags_the_answer_names_none(self, http: httpx.Client, repository: str) -> None:
        response = put_manifest(http, repository, oci_image(http, repository))
        assert "OCI-Tag" not in response.headers

    def test_a_tag_may_be_named_twice(self, http: httpx.Client, repository: str) -> None:
        response = self.put(http, repository, oci_image(http, repository), ["a", "b", "a"])
        assert response.status_code == 201
        assert set(self.accepted(response)) == {"a", "b"}
        assert http.get(tags_path(repository)).json()["tags"] == ["a", "b"]

    def test_tags_that_exist_move(self, http: httpx.Client, repository: str) -> None:
        push_image(http, repository, "latest")
        content = oci_image(http, repository)
        assert self.accepted(self.put(http, repository, content, ["latest", "v2"])) == ["latest", "v2"]
        assert_is(http.get(manifest_path(repository, "latest")), content)

    def test_more_tags_may_be_set_on_a_manifest_that_is_there(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "first")
        assert self.accepted(self.put(http, repository, content, ["second"])) == ["second"]
        assert http.get(tags_path(repository)).json()["tags"] == ["first", "second"]

    @pytest.mark.parametrize("bad", [".hidden", "a" * 129, "a/b", "", "sha256:" + "0" * 64, "a,b"])
    def test_a_tag_outside_the_grammar_is_not_set(self, http: httpx.Client, repository: str, bad: str) -> None:
        push_image(http, repository, "there")
        response = self.put(http, repository, oci_image(http, repository), ["good", bad])
        if response.status_code != 201:
            assert failure(response)[0] == 400
            assert http.get(tags_path(repository)).json()["tags"] == ["there"]
        else:
            assert self.accepted(response) == ["good"]
            assert http.get(tags_path(repository)).json()["tags"] == ["good", "there"]

    def test_a_wrong_digest_sets_no_tag(self, http: httpx.Client, repository: str) -> None:
        push_image(http, repository, "latest")
        content = oci_image(http, repository)
        response = http.put(
            manifest_path(repository, digest_of(b"something else")),
            params={"tag": "latest"},
            content=content.data,
            headers={"Content-Type": content.media_type},
        )
        assert failure(response) == (400, "DIGEST_INVALID")
        assert http.get(manifest_path(repository, "latest")).content != content.data

    def test_more_tags_than_an_address_can_hold_are_refused_or_set(
        self, http: httpx.Client, repository: str
    ) -> None:
        content = push_image(http, repository)
        tags = [f"{n:0>100}" for n in range(200)]
        response = self.put(http, repository, content, tags)
        assert response.status_code in {201, 400, 414, 431}
        if response.status_code == 201:
            assert set(http.get(tags_path(repository)).json()["tags"]) == set(self.accepted(response))


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "a",
            "0",
            "a/b/c/d/e/f/g/h",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "a.b_c__d-e/f.g",
            "x/manifests",
            "manifests/latest",
            "x/blobs/uploads",
            "x/tags/list",
            "x/referrers",
            "v2",
            "v2/x/manifests/y",
            "blobs",
            "n" * 150 + "/" + "m" * 50,
        ],
    )
    def test_a_name_within_the_grammar_can_be_pushed_to_and_pulled_from(
        self, http: httpx.Client, name: str
    ) -> None:
        content = push_image(http, name, "latest")
        assert_is(http.get(manifest_path(name, "latest")), content)
        assert_is(http.get(manifest_path(name, content.digest)), content)
        layer = content.document["layers"][0]["digest"]
        assert http.get(f"/v2/{name}/blobs/{layer}").status_code == 200
        listed = http.get(tags_path(name)).json()
        assert listed == {"name": name, "tags": ["latest"]}
        assert http.get(referrers_path(name, content.digest)).status_code == 200

    @pytest.mark.parametrize(
        "name",
        [
            "Upper",
            "a/Upper",
            "-a",
            "a-",
            "a.",
            ".a",
            "_a",
            "a___b",
            "a..b",
            "a._b",
            "a-_b",
            "a/-b",
            "a//b",
            "a%20b",
            pytest.param("a%00b", marks=pytest.mark.direct),
            "%ff",
            "ä",
            "a:b",
            "a@b",
            "a+b",
            pytest.param("..%2F..%2Fetc", marks=pytest.mark.direct),
            "a%2F..%2Fb",
            "n" * 256,
            "n/" * 500 + "n",
        ],
    )
    def test_a_name_outside_the_grammar_is_refused_everywhere(self, http: httpx.Client, name: str) -> None:
        digest = digest_of(b"")
        for method, path in (
            ("PUT", f"/v2/{name}/manifests/latest"),
            ("GET", f"/v2/{name}/manifests/latest"),
            ("DELETE", f"/v2/{name}/manifests/latest"),
            ("GET", f"/v2/{name}/blobs/{digest}"),
            ("POST", f"/v2/{name}/blobs/uploads/"),
            ("GET", f"/v2/{name}/tags/list"),
            ("GET", f"/v2/{name}/referrers/{digest}"),
        ):
            status, code = failure(http.request(method, path))
            assert (status, code) == (400, "NAME_INVALID") or status == 404


class TestUnknown:
    @pytest.mark.parametrize("reference", ["missing", digest_of(b"missing"), digest_of(b"missing", "sha512")])
    def test_a_manifest_that_is_not_there_is_unknown(
        self, http: httpx.Client, repository: str, reference: str
    ) -> None:
        push_image(http, repository, "latest")
        assert failure(http.get(manifest_path(repository, reference))) == (404, "MANIFEST_UNKNOWN")
        head = http.head(manifest_path(repository, reference))
        assert head.status_code == 404
        assert head.content == b""

    @pytest.mark.parametrize("reference", ["latest", digest_of(b"missing")])
    def test_a_repository_that_never_was_has_no_manifests(
        self, http: httpx.Client, repository: str, reference: str
    ) -> None:
        status, code = failure(http.get(manifest_path(repository, reference)))
        assert status == 404
        assert code in {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}
        assert http.head(manifest_path(repository, reference)).status_code == 404

    def test_a_manifest_of_another_repository_is_unknown_here(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, f"{repository}/a", "latest")
        push_image(http, f"{repository}/b", "other")
        for reference in ("latest", content.digest):
            path = manifest_path(f"{repository}/b", reference)
            assert failure(http.get(path)) == (404, "MANIFEST_UNKNOWN")

    @pytest.mark.parametrize(
        "digest",
        [
            "sha256:baddigeststring",
            "sha256:" + "0" * 63,
            "md5:" + "0" * 32,
            "sha256:" + "A" * 64,
            "a:b",
            "sha256:",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
    def test_a_malformed_digest_is_refused(
        self, http: httpx.Client, repository: str, method: str, digest: str
    ) -> None:
        content = oci_image(http, repository)
        response = http.request(
            method,
            manifest_path(repository, digest),
            content=content.data if method == "PUT" else None,
            headers={"Content-Type": content.media_type} if method == "PUT" else None,
        )
        assert response.status_code in ({400} if method == "PUT" else {400, 404})
        if method == "PUT":
            assert failure(response)[1] in {"DIGEST_INVALID", "MANIFEST_INVALID"}


class TestConditions:
    def test_a_client_that_has_the_manifest_is_told_so_with_304(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        for reference in ("latest", content.digest):
            path = manifest_path(repository, reference)
            tag = http.get(path).headers["ETag"]
            for condition in (tag, f"W/{tag}", f'"other", {tag}'):
                response = http.get(path, headers={"If-None-Match": condition})
                assert response.status_code == 304
                assert response.content == b""

    def test_a_moved_tag_is_noticed(self, http: httpx.Client, repository: str) -> None:
        path = manifest_path(repository, "latest")
        push_image(http, repository, "latest")
        condition = {"If-None-Match": http.get(path).headers["ETag"]}
        content = push_image(http, repository, "latest")
        assert_is(http.get(path, headers=condition), content)

    def test_what_a_tag_points_to_may_not_be_kept_for_ever(self, http: httpx.Client, repository: str) -> None:
        push_image(http, repository, "latest")
        caching = http.get(manifest_path(repository, "latest")).headers.get("Cache-Control", "")
        assert "immutable" not in caching
        assert "max-age=31536000" not in caching

    def test_a_mirrors_ns_parameter_is_no_hindrance(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        path = manifest_path(repository, "latest")
        assert_is(http.get(path, params={"ns": "registry.example.com"}), content)


class TestSize:
    @staticmethod
    def sized(http: httpx.Client, repository: str, size_bytes: int) -> Content:
        made = push_blob(http, repository, config())
        short = len(image(made, [], annotations={"padding": ""}).data)
        return image(made, [], annotations={"padding": "x" * (size_bytes - short)})

    def test_four_mebibytes_are_accepted(self, http: httpx.Client, repository: str) -> None:
        content = self.sized(http, repository, LIMIT)
        assert len(content.data) == LIMIT
        assert put_manifest(http, repository, content, "latest").status_code == 201
        assert_is(http.get(manifest_path(repository, "latest")), content)

    @pytest.mark.parametrize("size_bytes", [LIMIT + 1, 3 * LIMIT])
    @pytest.mark.parametrize("announced", [True, False], ids=["announced", "unannounced"])
    def test_more_is_refused_with_413(
        self, http: httpx.Client, repository: str, size_bytes: int, announced: bool
    ) -> None:
        content = self.sized(http, repository, size_bytes)
        pieces = (content.data[at : at + 65536] for at in range(0, size_bytes, 65536))
        response = http.put(
            manifest_path(repository, "latest"),
            content=content.data if announced else pieces,
            headers={"Content-Type": content.media_type},
        )
        assert failure(response)[0] == 413
        assert http.head(manifest_path(repository, "latest")).status_code == 404

    def test_an_index_may_have_a_thousand_children(self, http: httpx.Client, repository: str) -> None:
        child = push_image(http, repository).descriptor()
        content = index([{**child, "annotations": {"n": str(n)}} for n in range(1000)])
        assert put_manifest(http, repository, content, "latest").status_code == 201
        assert_is(http.get(manifest_path(repository, "latest")), content)
