"""Limits that an operator sets, and what a client hears that meets one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.conftest import serving
from tests.support.oci import (
    append,
    blob,
    blob_path,
    config,
    failure,
    finish,
    image,
    manifest_path,
    octets,
    patch,
    push_blob,
    put_manifest,
    start_upload,
    uploads_path,
)

BLOB_SIZE = 10_000
MANIFEST_SIZE = 2_000
UPLOADS_OPEN = 5


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with room for little."""
    limits = {
        "blob_size_bytes": BLOB_SIZE,
        "manifest_size_bytes": MANIFEST_SIZE,
        "uploads_open": UPLOADS_OPEN,
    }
    with serving(tmp_path_factory, "limited", limits=limits) as client:
        yield client


class TestBlobSize:
    def test_a_blob_as_large_as_allowed_is_accepted(self, limited: httpx.Client, repository: str) -> None:
        content = push_blob(limited, repository, blob(BLOB_SIZE))
        assert limited.get(blob_path(repository, content.digest)).content == content.data

    @pytest.mark.parametrize("announced", [True, False], ids=["announced", "unannounced"])
    @pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
    def test_a_larger_one_is_refused_with_413(
        self, limited: httpx.Client, repository: str, method: str, announced: bool
    ) -> None:
        content = blob(BLOB_SIZE + 1)
        body = content.data if announced else iter([content.data[:5000], content.data[5000:]])
        session = uploads_path(repository) if method == "POST" else start_upload(limited, repository)
        query = {} if method == "PATCH" else {"digest": content.digest}
        url = httpx.URL(session).copy_merge_params(query)
        assert failure(limited.request(method, url, content=body, headers=octets()))[0] == 413
        assert limited.head(blob_path(repository, content.digest)).status_code == 404
        if method != "POST":
            limited.delete(session)

    def test_chunks_are_counted_together(self, limited: httpx.Client, repository: str) -> None:
        content = blob(BLOB_SIZE)
        session = append(limited, start_upload(limited, repository), content.data, 0)
        assert failure(patch(limited, session, b"x", BLOB_SIZE))[0] == 413
        assert finish(limited, session, content.digest).status_code == 201


class TestManifestSize:
    @pytest.mark.parametrize(("over", "status"), [(0, 201), (1, 413)])
    def test_the_limit_is_exact(self, limited: httpx.Client, repository: str, over: int, status: int) -> None:
        made = push_blob(limited, repository, config())
        short = len(image(made, [], annotations={"padding": ""}).data)
        content = image(made, [], annotations={"padding": "x" * (MANIFEST_SIZE - short + over)})
        response = put_manifest(limited, repository, content, "latest")
        assert response.status_code == status
        if status == 413:
            failure(response)
            assert limited.head(manifest_path(repository, "latest")).status_code == 404


class TestUploadsOpen:
    def test_too_many_sessions_are_refused_until_one_ends(self, limited: httpx.Client, repository: str) -> None:
        opened: list[str] = []
        refused: httpx.Response | None = None
        while refused is None and len(opened) <= UPLOADS_OPEN:
            response = limited.post(uploads_path(repository))
            if response.status_code == 202:
                opened.append(response.headers["Location"])
            else:
                refused = response
        assert refused is not None
        assert failure(refused)[0] in {403, 429, 507}
        assert limited.delete(opened.pop()).status_code == 204
        opened.append(start_upload(limited, repository))
        for session in opened:
            assert limited.delete(session).status_code == 204


class TestRequestRate:
    def test_a_client_in_too_much_haste_is_asked_to_wait(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        with serving(tmp_path_factory, "hasty", limits={"request_rate": 2}) as client:
            answers = [client.get("/v2/") for _ in range(200)]
        assert answers[0].status_code == 200
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused
        for answer in refused:
            assert failure(answer) == (429, "TOOMANYREQUESTS")
            assert int(answer.headers["Retry-After"]) >= 1

    def test_without_a_limit_nobody_waits(self, http: httpx.Client) -> None:
        assert {http.get("/v2/").status_code for _ in range(200)} == {200}
