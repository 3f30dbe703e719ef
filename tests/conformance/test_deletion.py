"""Deleting tags, manifests and blobs, and a registry that deletes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.conftest import serving
from tests.support.oci import (
    ALGORITHMS,
    Content,
    blob,
    blob_path,
    digest_of,
    failure,
    image,
    index,
    manifest_path,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
    start_upload,
    tags_path,
)

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def is_gone(http: httpx.Client, path: str) -> bool:
    """The next HEAD, GET and DELETE all find nothing."""
    answers = [http.request(method, path) for method in ("HEAD", "GET", "DELETE")]
    return [answer.status_code for answer in answers] == [404, 404, 404]


class TestTags:
    def test_a_deleted_tag_is_gone_and_its_manifest_stays(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        put_manifest(http, repository, content, "other")
        assert http.delete(manifest_path(repository, "latest")).status_code == 202
        assert is_gone(http, manifest_path(repository, "latest"))
        for reference in ("other", content.digest):
            assert http.get(manifest_path(repository, reference)).content == content.data
        assert http.get(tags_path(repository)).json()["tags"] == ["other"]

    def test_the_last_tag_takes_no_manifest_with_it(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        assert http.delete(manifest_path(repository, "latest")).status_code == 202
        assert http.get(manifest_path(repository, content.digest)).content == content.data

    def test_a_deleted_tag_can_be_set_again(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        assert http.delete(manifest_path(repository, "latest")).status_code == 202
        assert put_manifest(http, repository, content, "latest").status_code == 201
        assert http.get(manifest_path(repository, "latest")).content == content.data

    def test_a_tag_that_is_not_there_is_unknown(self, http: httpx.Client, repository: str) -> None:
        push_image(http, repository, "latest")
        path = manifest_path(repository, "missing")
        assert failure(http.delete(path)) == (404, "MANIFEST_UNKNOWN")


class TestManifests:
    @every_algorithm
    def test_a_deleted_manifest_is_gone_with_all_its_tags(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        content = push_image(http, repository, algorithm=algorithm)
        tagging = {"tag": ["a", "b"]}
        response = http.put(
            manifest_path(repository, content.digest),
            params=tagging,
            content=content.data,
            headers={"Content-Type": content.media_type},
        )
        assert response.status_code == 201
        push_image(http, repository, "other")
        assert http.delete(manifest_path(repository, content.digest)).status_code == 202
        for reference in (content.digest, "a", "b"):
            assert is_gone(http, manifest_path(repository, reference))
        assert http.get(tags_path(repository)).json()["tags"] == ["other"]

    def test_the_same_manifest_of_another_repository_stays(self, http: httpx.Client, repository: str) -> None:
        content = index([], annotations={"unique": repository})
        for name in ("a", "b"):
            push_manifest(http, f"{repository}/{name}", content, "latest")
        assert http.delete(manifest_path(f"{repository}/a", content.digest)).status_code == 202
        assert is_gone(http, manifest_path(f"{repository}/a", content.digest))
        for reference in (content.digest, "latest"):
            assert http.get(manifest_path(f"{repository}/b", reference)).content == content.data

    def test_a_tag_that_has_moved_on_is_not_deleted_with_the_manifest_it_left(
        self, http: httpx.Client, repository: str
    ) -> None:
        first, second = push_image(http, repository, "latest"), push_image(http, repository, "latest")
        assert http.delete(manifest_path(repository, first.digest)).status_code == 202
        assert http.get(manifest_path(repository, "latest")).content == second.data

    def test_its_blobs_stay_until_they_are_deleted_themselves(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "latest")
        assert http.delete(manifest_path(repository, content.digest)).status_code == 202
        assert put_manifest(http, repository, content, "latest").status_code == 201
        assert http.get(manifest_path(repository, "latest")).content == content.data

    def test_a_deleted_index_leaves_its_children(self, http: httpx.Client, repository: str) -> None:
        child = push_image(http, repository)
        content = push_manifest(http, repository, index([child.descriptor()]), "latest")
        assert http.delete(manifest_path(repository, content.digest)).status_code == 202
        assert http.get(manifest_path(repository, child.digest)).content == child.data

    @every_algorithm
    def test_a_manifest_that_is_not_there_is_unknown(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        push_image(http, repository, "latest")
        path = manifest_path(repository, digest_of(b"missing", algorithm))
        assert failure(http.delete(path)) == (404, "MANIFEST_UNKNOWN")

    @pytest.mark.parametrize("reference", ["latest", digest_of(b"missing")])
    def test_a_repository_that_never_was_is_404(self, http: httpx.Client, repository: str, reference: str) -> None:
        status, code = failure(http.delete(manifest_path(repository, reference)))
        assert status == 404
        assert code in {"NAME_UNKNOWN", "MANIFEST_UNKNOWN"}


class TestBlobs:
    @every_algorithm
    @pytest.mark.parametrize("size_bytes", [0, 500])
    def test_a_deleted_blob_is_gone_at_once_though_another_repository_has_it(
        self, http: httpx.Client, repository: str, algorithm: str, size_bytes: int
    ) -> None:
        content = blob(size_bytes, algorithm=algorithm)
        for name in ("a", "b"):
            push_blob(http, f"{repository}/{name}", content)
            assert http.get(blob_path(f"{repository}/{name}", content.digest)).status_code == 200
        assert http.delete(blob_path(f"{repository}/a", content.digest)).status_code == 202
        assert is_gone(http, blob_path(f"{repository}/a", content.digest))
        assert http.get(blob_path(f"{repository}/b", content.digest)).content == content.data

    def test_a_deleted_blob_is_gone_in_part_and_under_conditions_too(
        self, http: httpx.Client, repository: str
    ) -> None:
        content = push_blob(http, repository, blob())
        path = blob_path(repository, content.digest)
        tag = http.get(path).headers["ETag"]
        assert http.delete(path).status_code == 202
        for headers in ({"Range": "bytes=0-1"}, {"If-None-Match": tag}):
            assert failure(http.get(path, headers=headers)) == (404, "BLOB_UNKNOWN")

    def test_a_deleted_blob_must_be_pushed_with_its_bytes_again(self, http: httpx.Client, repository: str) -> None:
        made, layer = push_blob(http, repository, blob()), push_blob(http, repository, blob())
        assert http.delete(blob_path(repository, layer.digest)).status_code == 202
        response = put_manifest(http, repository, image(made, [layer]), "latest")
        assert failure(response) == (404, "MANIFEST_BLOB_UNKNOWN")
        push_blob(http, repository, layer)
        assert http.get(blob_path(repository, layer.digest)).content == layer.data
        assert put_manifest(http, repository, image(made, [layer]), "latest").status_code == 201

    def test_a_blob_under_one_algorithm_stays_when_its_twin_under_the_other_is_deleted(
        self, http: httpx.Client, repository: str
    ) -> None:
        content = blob()
        first, second = (push_blob(http, repository, content.under(each)) for each in ALGORITHMS)
        assert http.delete(blob_path(repository, first.digest)).status_code == 202
        assert http.get(blob_path(repository, second.digest)).content == content.data

    @every_algorithm
    def test_a_blob_that_is_not_there_is_unknown(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        push_blob(http, repository, blob())
        path = blob_path(repository, blob(algorithm=algorithm).digest)
        assert failure(http.delete(path)) == (404, "BLOB_UNKNOWN")

    def test_a_repository_that_never_was_is_404(self, http: httpx.Client, repository: str) -> None:
        status, code = failure(http.delete(blob_path(repository, blob().digest)))
        assert status == 404
        assert code in {"NAME_UNKNOWN", "BLOB_UNKNOWN"}


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server that deletes nothing."""
    with serving(tmp_path_factory, "keeping", policy={"delete_enabled": False}) as client:
        yield client


class TestDeletionOff:
    @pytest.fixture
    def content(self, keeping: httpx.Client, repository: str) -> Content:
        return push_image(keeping, repository, "latest")

    def test_nothing_can_be_deleted(self, keeping: httpx.Client, repository: str, content: Content) -> None:
        layer = content.document["layers"][0]["digest"]
        paths = [
            manifest_path(repository, "latest"),
            manifest_path(repository, content.digest),
            blob_path(repository, layer),
        ]
        for path in paths:
            response = keeping.delete(path)
            assert failure(response) == (405, "UNSUPPORTED")
            allowed = {each.strip() for each in response.headers["Allow"].split(",")}
            assert {"GET", "HEAD"} <= allowed
            assert "DELETE" not in allowed
            assert keeping.get(path).status_code == 200

    def test_not_even_what_is_not_there(self, keeping: httpx.Client, repository: str, content: Content) -> None:
        for path in (
            manifest_path(repository, "missing"),
            manifest_path(repository, digest_of(b"missing")),
            blob_path(repository, digest_of(b"missing")),
        ):
            assert failure(keeping.delete(path))[0] in {404, 405}

    def test_an_upload_can_still_be_cancelled(self, keeping: httpx.Client, repository: str) -> None:
        assert keeping.delete(start_upload(keeping, repository)).status_code == 204

    def test_a_tag_can_still_move(self, keeping: httpx.Client, repository: str, content: Content) -> None:
        second = push_image(keeping, repository, "latest")
        assert keeping.get(manifest_path(repository, "latest")).content == second.data
        assert keeping.get(manifest_path(repository, content.digest)).content == content.data
