"""Mounting a blob from another repository."""

from __future__ import annotations

import httpx
import pytest

from tests.support.oci import (
    ALGORITHMS,
    blob,
    blob_path,
    config,
    failure,
    finish,
    image,
    location,
    push_blob,
    put_manifest,
    uploads_path,
)

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def mount(http: httpx.Client, repository: str, digest: str, source: str | None = None) -> httpx.Response:
    parameters = {"mount": digest} | ({"from": source} if source else {})
    return http.post(uploads_path(repository), params=parameters)


@every_algorithm
@pytest.mark.parametrize("named", [True, False], ids=["from a repository", "from anywhere"])
def test_a_blob_of_another_repository_is_mounted_without_its_bytes(
    http: httpx.Client, repository: str, algorithm: str, named: bool
) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    content = push_blob(http, source, blob(5000, algorithm=algorithm))
    assert http.head(blob_path(target, content.digest)).status_code == 404
    response = mount(http, target, content.digest, source if named else None)
    assert response.status_code == 201
    assert response.headers["Docker-Content-Digest"] == content.digest
    assert f"/{target}/" in location(response)
    assert http.get(location(response)).content == content.data
    assert http.get(blob_path(target, content.digest)).content == content.data


@every_algorithm
@pytest.mark.parametrize("named", [True, False], ids=["from a repository", "from anywhere"])
def test_a_mount_of_what_is_not_there_opens_an_ordinary_session(
    http: httpx.Client, repository: str, algorithm: str, named: bool
) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    push_blob(http, source, blob())
    content = blob(algorithm=algorithm)
    response = mount(http, target, content.digest, source if named else None)
    assert response.status_code == 202
    assert response.headers["Range"] == "0-0"
    assert response.headers["Docker-Upload-UUID"]
    done = finish(http, location(response), content.digest, content.data)
    assert done.status_code == 201
    assert http.get(blob_path(target, content.digest)).content == content.data


def test_a_failed_mount_can_be_cancelled(http: httpx.Client, repository: str) -> None:
    response = mount(http, repository, blob().digest, f"{repository}/source")
    assert response.status_code == 202
    assert http.delete(location(response)).status_code == 204
    assert failure(http.get(location(response))) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_named_source_that_lacks_the_blob_gives_nothing_though_a_third_repository_has_it(
    http: httpx.Client, repository: str
) -> None:
    content = push_blob(http, f"{repository}/third", blob())
    push_blob(http, f"{repository}/source", blob())
    target = f"{repository}/target"
    response = mount(http, target, content.digest, f"{repository}/source")
    assert response.status_code == 202
    assert http.head(blob_path(target, content.digest)).status_code == 404
    assert finish(http, location(response), content.digest, content.data).status_code == 201


@pytest.mark.parametrize("source", ["no/such/repository", "Not A Name", "../..", "%00", "a" * 300])
def test_a_source_that_does_not_exist_is_no_error(http: httpx.Client, repository: str, source: str) -> None:
    content = push_blob(http, f"{repository}/other", blob())
    response = mount(http, f"{repository}/target", content.digest, source)
    assert response.status_code == 202 or failure(response)[0] == 400
    assert http.head(blob_path(f"{repository}/target", content.digest)).status_code == 404


@pytest.mark.parametrize("digest", ["sha256:baddigeststring", "nonsense", "md5:" + "0" * 32])
def test_a_malformed_digest_mounts_nothing(http: httpx.Client, repository: str, digest: str) -> None:
    response = mount(http, repository, digest, f"{repository}/source")
    assert response.status_code == 202 or failure(response) == (400, "DIGEST_INVALID")


def test_a_mount_from_the_repository_itself_succeeds(http: httpx.Client, repository: str) -> None:
    content = push_blob(http, repository, blob())
    assert mount(http, repository, content.digest, repository).status_code == 201
    assert http.get(blob_path(repository, content.digest)).content == content.data


def test_a_mount_may_be_repeated(http: httpx.Client, repository: str) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    content = push_blob(http, source, blob())
    assert [mount(http, target, content.digest, source).status_code for _ in range(2)] == [201, 201]


def test_a_mount_needs_no_slash_at_the_end(http: httpx.Client, repository: str) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    content = push_blob(http, source, blob())
    path = uploads_path(target).rstrip("/")
    response = http.post(path, params={"mount": content.digest, "from": source})
    assert response.status_code == 201
    assert http.get(location(response)).content == content.data


def test_a_mounted_blob_outlives_its_source(http: httpx.Client, repository: str) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    content = push_blob(http, source, blob())
    assert mount(http, target, content.digest, source).status_code == 201
    assert http.delete(blob_path(source, content.digest)).status_code == 202
    assert http.head(blob_path(source, content.digest)).status_code == 404
    assert http.get(blob_path(target, content.digest)).content == content.data


def test_a_deleted_blob_can_no_longer_be_mounted(http: httpx.Client, repository: str) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    content = push_blob(http, source, blob())
    assert http.delete(blob_path(source, content.digest)).status_code == 202
    assert mount(http, target, content.digest, source).status_code == 202
    assert mount(http, target, content.digest).status_code == 202


def test_a_manifest_may_name_mounted_blobs(http: httpx.Client, repository: str) -> None:
    source, target = f"{repository}/source", f"{repository}/target"
    blobs = [push_blob(http, source, each) for each in (config(), blob())]
    for each in blobs:
        assert mount(http, target, each.digest, source).status_code == 201
    assert put_manifest(http, target, image(blobs[0], blobs[1:]), "latest").status_code == 201
