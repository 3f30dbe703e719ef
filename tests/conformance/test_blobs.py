"""Pulling blobs: exact bytes, headers, HEAD, conditions, and what is not there."""

from __future__ import annotations

import gzip
import os

import httpx
import pytest

from tests.support.oci import (
    ALGORITHMS,
    Content,
    blob,
    blob_path,
    digest_of,
    failure,
    push_blob,
)

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_size = pytest.mark.parametrize("size_bytes", [0, 1, 4096, 3_000_001])

# What may differ between two answers of the same server to the same question.
PASSING = {"date", "connection", "keep-alive", "x-request-id"}


def lasting(response: httpx.Response) -> dict[str, str]:
    """The headers of an answer without those of the moment."""
    return {name: value for name, value in response.headers.items() if name not in PASSING}


class TestWhole:
    @every_algorithm
    @every_size
    def test_a_pull_gives_the_exact_bytes_and_says_what_they_are(
        self, http: httpx.Client, repository: str, algorithm: str, size_bytes: int
    ) -> None:
        content = push_blob(http, repository, blob(size_bytes, algorithm=algorithm))
        response = http.get(blob_path(repository, content.digest))
        assert response.status_code == 200
        assert response.content == content.data
        assert response.headers["Content-Length"] == str(size_bytes)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["Docker-Content-Digest"] == content.digest
        assert response.headers["Accept-Ranges"] == "bytes"

    @every_algorithm
    @every_size
    def test_head_says_what_get_says_and_sends_no_body(
        self, http: httpx.Client, repository: str, algorithm: str, size_bytes: int
    ) -> None:
        content = push_blob(http, repository, blob(size_bytes, algorithm=algorithm))
        head = http.head(blob_path(repository, content.digest))
        assert head.status_code == 200
        assert head.content == b""
        assert lasting(head) == lasting(http.get(blob_path(repository, content.digest)))

    def test_a_blob_may_be_kept_for_ever(self, http: httpx.Client, repository: str) -> None:
        content = push_blob(http, repository, blob())
        directives = http.get(blob_path(repository, content.digest)).headers["Cache-Control"]
        assert {"max-age=31536000", "immutable"} <= {each.strip() for each in directives.split(",")}

    def test_the_entity_tag_is_strong_and_belongs_to_the_digest(self, http: httpx.Client, repository: str) -> None:
        first, second = (push_blob(http, repository, blob()) for _ in range(2))
        tags = [http.get(blob_path(repository, each.digest)).headers["ETag"] for each in (first, second, first)]
        assert tags[0] == tags[2] != tags[1]
        assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)

    def test_the_server_compresses_nothing(self, http: httpx.Client, repository: str) -> None:
        for data in (b"a" * 100_000, gzip.compress(os.urandom(50_000))):
            content = push_blob(http, repository, Content(data))
            path = blob_path(repository, content.digest)
            response = http.get(path, headers={"Accept-Encoding": "gzip, br, zstd"})
            assert "Content-Encoding" not in response.headers
            assert response.headers["Content-Length"] == str(len(data))
            assert response.content == data

    @pytest.mark.parametrize("accept", ["*/*", "application/octet-stream", "application/json", "text/html;q=0"])
    def test_a_blob_comes_whatever_the_client_accepts(
        self, http: httpx.Client, repository: str, accept: str
    ) -> None:
        content = push_blob(http, repository, blob())
        response = http.get(blob_path(repository, content.digest), headers={"Accept": accept})
        assert response.content == content.data

    def test_the_same_bytes_may_be_there_under_both_algorithms(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        for algorithm in ALGORITHMS:
            push_blob(http, repository, content.under(algorithm))
        for algorithm in ALGORITHMS:
            digest = digest_of(content.data, algorithm)
            response = http.get(blob_path(repository, digest))
            assert response.content == content.data
            assert response.headers["Docker-Content-Digest"] == digest

    def test_a_mirrors_ns_parameter_is_no_hindrance(self, http: httpx.Client, repository: str) -> None:
        content = push_blob(http, repository, blob())
        response = http.get(blob_path(repository, content.digest), params={"ns": "registry.example.com"})
        assert response.content == content.data


class TestConditions:
    @pytest.mark.parametrize(
        "condition", ["{tag}", "W/{tag}", "*", '"other", {tag}', '{tag} , "other"', '"a,b",{tag}']
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_client_that_has_the_blob_is_told_so_with_304(
        self, http: httpx.Client, repository: str, condition: str, method: str
    ) -> None:
        content = push_blob(http, repository, blob())
        path = blob_path(repository, content.digest)
        tag = http.head(path).headers["ETag"]
        response = http.request(method, path, headers={"If-None-Match": condition.format(tag=tag)})
        assert response.status_code == 304
        assert response.content == b""
        assert response.headers["ETag"] == tag

    @pytest.mark.parametrize("condition", ['"other"', 'W/"other"', "", "nonsense", '"'])
    def test_a_client_that_has_something_else_gets_the_blob(
        self, http: httpx.Client, repository: str, condition: str
    ) -> None:
        content = push_blob(http, repository, blob())
        response = http.get(blob_path(repository, content.digest), headers={"If-None-Match": condition})
        assert response.status_code == 200
        assert response.content == content.data

    def test_a_condition_does_not_make_an_unknown_blob_known(self, http: httpx.Client, repository: str) -> None:
        push_blob(http, repository, blob())
        response = http.get(blob_path(repository, blob().digest), headers={"If-None-Match": "*"})
        assert failure(response) == (404, "BLOB_UNKNOWN")


class TestUnknown:
    @every_algorithm
    def test_a_blob_that_was_never_pushed_is_unknown(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        push_blob(http, repository, blob())
        path = blob_path(repository, blob(algorithm=algorithm).digest)
        assert failure(http.get(path)) == (404, "BLOB_UNKNOWN")
        head = http.head(path)
        assert head.status_code == 404
        assert head.content == b""

    def test_a_blob_of_another_repository_is_unknown_here(self, http: httpx.Client, repository: str) -> None:
        content = push_blob(http, f"{repository}/a", blob())
        push_blob(http, f"{repository}/b", blob())
        path = blob_path(f"{repository}/b", content.digest)
        assert failure(http.get(path)) == (404, "BLOB_UNKNOWN")
        assert http.head(path).status_code == 404

    def test_a_repository_that_never_was_has_no_blobs(self, http: httpx.Client, repository: str) -> None:
        status, code = failure(http.get(blob_path(repository, blob().digest)))
        assert status == 404
        assert code in {"BLOB_UNKNOWN", "NAME_UNKNOWN"}

    @pytest.mark.parametrize(
        "digest",
        [
            "sha256:baddigeststring",
            "sha256:" + "0" * 63,
            "sha256:" + "A" * 64,
            "md5:" + "0" * 32,
            "nonsense",
            "sha256:%2e%2e%2f",
            "sha256:" + "%00" * 64,
            "sha256:" + "%ff" * 64,
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_a_malformed_digest_finds_nothing(
        self, http: httpx.Client, repository: str, method: str, digest: str
    ) -> None:
        push_blob(http, repository, blob())
        response = http.request(method, blob_path(repository, digest))
        assert response.status_code in {400, 404}
        if method != "HEAD":
            failure(response)
