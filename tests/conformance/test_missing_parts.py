"""Manifests that name what was not pushed: refused, unless the operator wants otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conformance.conftest import serving
from tests.support.oci import (
    ALGORITHMS,
    EMPTY,
    FOREIGN_LAYERS,
    OCI_IMAGE,
    OCI_INDEX,
    Content,
    Document,
    artifact,
    blob,
    blob_path,
    config,
    docker_list,
    encode,
    failure,
    image,
    index,
    manifest_path,
    platform,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
)

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
image_or_index = pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX])


@pytest.fixture(scope="module")
def sparse_indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose indexes may lack children."""
    with serving(tmp_path_factory, "sparse-indexes", policy={"sparse": "indexes"}) as client:
        yield client


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server where anything may be missing."""
    with serving(tmp_path_factory, "sparse", policy={"sparse": "all"}) as client:
        yield client


def assert_refused(response: httpx.Response, *digests: str) -> None:
    """The manifest was refused, and at least one of the missing *digests* is named."""
    assert failure(response) == (404, "MANIFEST_BLOB_UNKNOWN")
    details = encode([error["detail"] for error in response.json()["errors"]]).decode()
    assert any(digest in details for digest in digests), details


def assert_is(response: httpx.Response, content: Content) -> None:
    assert response.status_code == 200, response.text
    assert response.content == content.data
    assert response.headers["Docker-Content-Digest"] == content.digest


class TestImages:
    @every_algorithm
    @pytest.mark.parametrize("absent", ["config", "layer", "both"])
    def test_an_image_whose_blobs_are_not_there_is_refused_and_they_are_named(
        self, http: httpx.Client, repository: str, algorithm: str, absent: str
    ) -> None:
        made, layer = config().under(algorithm), blob(algorithm=algorithm)
        missing = {"config": [made], "layer": [layer], "both": [made, layer]}[absent]
        for each in (made, layer, blob()):
            if each not in missing:
                push_blob(http, repository, each)
        response = put_manifest(http, repository, image(made, [layer]), "latest")
        assert_refused(response, *(each.digest for each in missing))
        assert http.head(manifest_path(repository, "latest")).status_code == 404
        for each in missing:
            push_blob(http, repository, each)
        assert put_manifest(http, repository, image(made, [layer]), "latest").status_code == 201

    def test_a_blob_of_another_repository_does_not_count(self, http: httpx.Client, repository: str) -> None:
        made = push_blob(http, repository, config())
        layer = push_blob(http, f"{repository}/other", blob())
        assert_refused(put_manifest(http, repository, image(made, [layer]), "latest"), layer.digest)

    def test_the_same_bytes_under_another_algorithm_do_not_count(
        self, http: httpx.Client, repository: str
    ) -> None:
        made, layer = (push_blob(http, repository, each) for each in (config(), blob()))
        other = layer.under("sha512")
        assert_refused(put_manifest(http, repository, image(made, [other]), "latest"), other.digest)

    @pytest.mark.parametrize("media_type", FOREIGN_LAYERS)
    @pytest.mark.parametrize("urls", [None, ["https://store.example.com/layer"]], ids=["bare", "with urls"])
    def test_a_layer_that_may_not_be_distributed_need_not_be_there(
        self, http: httpx.Client, repository: str, media_type: str, urls: list[str] | None
    ) -> None:
        made = push_blob(http, repository, config())
        layer = blob(media_type=media_type).descriptor(**({"urls": urls} if urls else {}))
        content = image(made, [], layers=[layer])
        assert put_manifest(http, repository, content, "latest").status_code == 201
        assert_is(http.get(manifest_path(repository, "latest")), content)

    def test_an_address_alone_does_not_excuse_an_ordinary_layer(self, http: httpx.Client, repository: str) -> None:
        made = push_blob(http, repository, config())
        layer = blob().descriptor(urls=["https://store.example.com/layer"])
        response = put_manifest(http, repository, image(made, [], layers=[layer]), "latest")
        assert_refused(response, layer["digest"])

    def test_a_config_is_never_elsewhere(self, http: httpx.Client, repository: str) -> None:
        push_blob(http, repository, blob())
        made = config().descriptor(urls=["https://store.example.com/config"])
        content = image(blob(), [], config=made)
        assert_refused(put_manifest(http, repository, content, "latest"), made["digest"])


class TestIndexes:
    @image_or_index
    @pytest.mark.parametrize("build", [index, docker_list], ids=["index", "list"])
    def test_an_index_whose_children_are_not_there_is_refused_and_they_are_named(
        self, http: httpx.Client, repository: str, media_type: str, build: Callable[[list[Document]], Content]
    ) -> None:
        child = blob(media_type=media_type)
        there = push_image(http, repository).descriptor(platform=platform("amd64"))
        content = build([there, child.descriptor(platform=platform("arm64"))])
        assert_refused(put_manifest(http, repository, content, "latest"), child.digest)
        assert http.head(manifest_path(repository, "latest")).status_code == 404

    def test_a_child_of_another_repository_does_not_count(self, http: httpx.Client, repository: str) -> None:
        push_image(http, repository)
        child = push_image(http, f"{repository}/other")
        response = put_manifest(http, repository, index([child.descriptor()]), "latest")
        assert_refused(response, child.digest)

    @pytest.mark.parametrize("referrer", ["image", "index"])
    def test_a_subject_may_always_be_absent(self, http: httpx.Client, repository: str, referrer: str) -> None:
        subject = blob(media_type=OCI_IMAGE)
        push_blob(http, repository, EMPTY)
        content = (
            artifact("a/b", subject.descriptor())
            if referrer == "image"
            else index([], subject=subject.descriptor())
        )
        response = put_manifest(http, repository, content)
        assert response.status_code == 201
        assert response.headers["OCI-Subject"] == subject.digest


class TestWhereIndexesMayBeSparse:
    @image_or_index
    def test_an_index_whose_children_are_not_there_is_accepted(
        self, sparse_indexes: httpx.Client, repository: str, media_type: str
    ) -> None:
        there = push_image(sparse_indexes, repository).descriptor(platform=platform("amd64"))
        absent = blob(media_type=media_type).descriptor(platform=platform("arm64"))
        content = index([there, absent])
        for reference in ("latest", content.digest):
            assert put_manifest(sparse_indexes, repository, content, reference).status_code == 201
            assert_is(sparse_indexes.get(manifest_path(repository, reference)), content)
        missing = sparse_indexes.get(manifest_path(repository, absent["digest"]))
        assert failure(missing) == (404, "MANIFEST_UNKNOWN")

    def test_an_image_must_still_be_whole(self, sparse_indexes: httpx.Client, repository: str) -> None:
        made = push_blob(sparse_indexes, repository, config())
        layer = blob()
        response = put_manifest(sparse_indexes, repository, image(made, [layer]), "latest")
        assert_refused(response, layer.digest)

    def test_the_child_may_come_later(self, sparse_indexes: httpx.Client, repository: str) -> None:
        made, layer = (push_blob(sparse_indexes, repository, each) for each in (config(), blob()))
        child = image(made, [layer])
        content = push_manifest(sparse_indexes, repository, index([child.descriptor()]), "latest")
        push_manifest(sparse_indexes, repository, child)
        assert_is(sparse_indexes.get(manifest_path(repository, child.digest)), child)
        assert_is(sparse_indexes.get(manifest_path(repository, "latest")), content)


class TestWhereAnythingMayBeSparse:
    def test_an_image_without_one_of_its_layers_is_accepted(self, sparse: httpx.Client, repository: str) -> None:
        made, there = (push_blob(sparse, repository, each) for each in (config(), blob()))
        absent = blob()
        content = push_manifest(sparse, repository, image(made, [there, absent]), "latest")
        assert_is(sparse.get(manifest_path(repository, "latest")), content)
        assert failure(sparse.get(blob_path(repository, absent.digest))) == (404, "BLOB_UNKNOWN")

    def test_so_is_an_index_without_its_children(self, sparse: httpx.Client, repository: str) -> None:
        content = push_manifest(sparse, repository, index([blob(media_type=OCI_IMAGE).descriptor()]), "latest")
        assert_is(sparse.get(manifest_path(repository, "latest")), content)

    def test_a_layer_of_another_repository_is_not_given_away(self, sparse: httpx.Client, repository: str) -> None:
        made = push_blob(sparse, repository, config())
        layer = push_blob(sparse, f"{repository}/other", blob())
        push_manifest(sparse, repository, image(made, [layer]), "latest")
        assert failure(sparse.get(blob_path(repository, layer.digest))) == (404, "BLOB_UNKNOWN")
