"""The check of support, and refusals: the envelope, wrong methods and paths, hostile addresses."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.oci import (
    blob,
    blob_path,
    digest_of,
    failure,
    manifest_path,
    octets,
    push_image,
    referrers_path,
    tags_path,
    uploads_path,
)
from tests.support.server import Server

Ask = Callable[[httpx.Client, str], httpx.Response]

DIGEST = digest_of(b"nothing has this digest")


class TestSupport:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_the_registry_says_which_protocol_it_speaks(self, http: httpx.Client, method: str) -> None:
        response = http.request(method, "/v2/")
        assert response.status_code == 200
        assert response.headers["Docker-Distribution-API-Version"] == "registry/2.0"

    def test_the_slash_may_be_missing(self, http: httpx.Client) -> None:
        response = http.get("/v2")
        if response.is_redirect:
            assert response.url.join(response.headers["Location"]).path == "/v2/"
        else:
            assert response.status_code == 200
            assert response.headers["Docker-Distribution-API-Version"] == "registry/2.0"

    def test_it_needs_no_particular_accept(self, http: httpx.Client) -> None:
        for accept in ("text/html", "application/json", "nonsense"):
            assert http.get("/v2/", headers={"Accept": accept}).status_code == 200


CASES: dict[str, tuple[Ask, int, str]] = {
    "an unknown blob": (
        lambda http, name: http.get(blob_path(name, DIGEST)),
        404,
        "BLOB_UNKNOWN",
    ),
    "an unknown session": (
        lambda http, name: http.get(f"{uploads_path(name)}00000000-0000-4000-8000-000000000000"),
        404,
        "BLOB_UPLOAD_UNKNOWN",
    ),
    "bytes under a wrong digest": (
        lambda http, name: http.post(uploads_path(name), params={"digest": DIGEST}, content=b"x"),
        400,
        "DIGEST_INVALID",
    ),
    "a manifest without its blobs": (
        lambda http, name: http.put(
            manifest_path(name, "new"),
            json={
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "a/b", "digest": DIGEST, "size": 1},
                "layers": [],
            },
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        ),
        404,
        "MANIFEST_BLOB_UNKNOWN",
    ),
    "a manifest that is none": (
        lambda http, name: http.put(
            manifest_path(name, "new"),
            content=b"nonsense",
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        ),
        400,
        "MANIFEST_INVALID",
    ),
    "an unknown manifest": (
        lambda http, name: http.get(manifest_path(name, "missing")),
        404,
        "MANIFEST_UNKNOWN",
    ),
    "an impossible name": (
        lambda http, name: http.get(tags_path(f"{name}/Upper")),
        400,
        "NAME_INVALID",
    ),
    "an unknown name": (
        lambda http, name: http.get(tags_path(f"{name}/unknown")),
        404,
        "NAME_UNKNOWN",
    ),
    "a chunk of another size": (
        lambda http, name: http.patch(
            http.post(uploads_path(name)).headers["Location"], content=b"xx", headers=octets(0, 1)
        ),
        400,
        "SIZE_INVALID",
    ),
    "a method that is not there": (
        lambda http, name: http.post(tags_path(name)),
        405,
        "UNSUPPORTED",
    ),
}


class TestEnvelope:
    @pytest.mark.parametrize("case", CASES)
    def test_every_refusal_has_its_code(self, http: httpx.Client, repository: str, case: str) -> None:
        push_image(http, repository, "latest")
        ask, status, code = CASES[case]
        response = ask(http, repository)
        assert failure(response) == (status, code)
        assert response.headers["Content-Length"] == str(len(response.content))
        assert response.json()["errors"][0]["message"]

    @pytest.mark.parametrize("case", CASES)
    def test_a_refusal_tells_nothing_about_the_inside(
        self, server: Server, http: httpx.Client, repository: str, case: str
    ) -> None:
        push_image(http, repository, "latest")
        text = CASES[case][0](http, repository).text
        for word in ("Traceback", "sqlite", "site-packages", ".py", str(server.directory)):
            assert word not in text

    def test_a_head_is_refused_without_a_body(self, http: httpx.Client, repository: str) -> None:
        for path in (blob_path(repository, DIGEST), manifest_path(repository, "missing")):
            response = http.head(path)
            assert response.status_code == 404
            assert response.content == b""


class TestMethods:
    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "/v2/", {"GET"}),
            ("DELETE", "/v2/", {"GET"}),
            ("POST", "/v2/_catalog", {"GET"}),
            ("DELETE", "/v2/_catalog", {"GET"}),
            ("POST", "/v2/x/tags/list", {"GET"}),
            ("PUT", "/v2/x/tags/list", {"GET"}),
            ("DELETE", "/v2/x/tags/list", {"GET"}),
            ("POST", f"/v2/x/referrers/{DIGEST}", {"GET"}),
            ("DELETE", f"/v2/x/referrers/{DIGEST}", {"GET"}),
            ("POST", f"/v2/x/blobs/{DIGEST}", {"GET", "HEAD", "DELETE"}),
            ("PUT", f"/v2/x/blobs/{DIGEST}", {"GET", "HEAD", "DELETE"}),
            ("PATCH", f"/v2/x/blobs/{DIGEST}", {"GET", "HEAD", "DELETE"}),
            ("POST", "/v2/x/manifests/latest", {"GET", "HEAD", "PUT", "DELETE"}),
            ("PATCH", "/v2/x/manifests/latest", {"GET", "HEAD", "PUT", "DELETE"}),
            ("GET", "/v2/x/blobs/uploads/", {"POST"}),
            ("PUT", "/v2/x/blobs/uploads/", {"POST"}),
            ("DELETE", "/v2/x/blobs/uploads/", {"POST"}),
            (
                "POST",
                "/v2/x/blobs/uploads/00000000-0000-4000-8000-000000000000",
                {"GET", "PATCH", "PUT", "DELETE"},
            ),
        ],
    )
    def test_a_method_that_is_not_there_is_405_and_the_answer_says_which_are(
        self, http: httpx.Client, method: str, path: str, allowed: set[str]
    ) -> None:
        response = http.request(method, path)
        assert failure(response) == (405, "UNSUPPORTED")
        offered = {each.strip() for each in response.headers["Allow"].split(",")}
        assert allowed <= offered
        assert method not in offered

    @pytest.mark.parametrize("path", ["/v2/", "/v2/x/manifests/latest", f"/v2/x/blobs/{DIGEST}"])
    @pytest.mark.parametrize("method", ["PROPFIND", "TRACE", "LOCK"])
    def test_a_method_of_another_protocol_is_refused(self, http: httpx.Client, method: str, path: str) -> None:
        assert http.request(method, path).status_code in {400, 405, 501}


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v2/x",
            "/v2/x/",
            "/v2/x/y/z",
            "/v2/x/tags",
            "/v2/x/tags/",
            "/v2/x/tags/all",
            "/v2/x/blobs",
            "/v2/x/blobs/",
            "/v2/x/manifests",
            "/v2/x/manifests/",
            "/v2/x/referrers",
            "/v2/x/referrers/",
            "/v2/x/nothing/y",
            "/v2//tags/list",
            "/v2/_catalog/x",
            "/v2/manifests/latest",
            "/v2/tags/list",
            f"/v2/blobs/{DIGEST}",
            "/v2/x/blobs/a/b",
            "/v2/x/manifests/a/b",
            "/v2/x/blobs/uploads/00000000-0000-4000-8000-000000000000/more",
            "/v3/",
        ],
    )
    def test_a_path_that_leads_nowhere_is_404(self, http: httpx.Client, path: str) -> None:
        response = http.get(path)
        assert response.status_code == 404 or failure(response) == (400, "NAME_INVALID")
        if path.startswith("/v2"):
            failure(response)

    @pytest.mark.parametrize(
        "piece",
        ["%00", "%ff", "%2e%2e", "%2E%2E%2F", "..;", "%5C", "%0d%0a", "%u0041", "%", "%zz", "~", "*", "$x"],
    )
    @pytest.mark.parametrize(
        "path",
        [
            "/v2/{}/tags/list",
            "/v2/x/{}/tags/list",
            "/v2/x/manifests/{}",
            "/v2/x/blobs/{}",
            "/v2/x/blobs/uploads/{}",
            "/v2/x/referrers/{}",
            "/v2/{}",
            "/{}",
        ],
    )
    def test_no_address_is_a_fault_of_the_server(self, http: httpx.Client, path: str, piece: str) -> None:
        response = http.get(path.format(piece))
        assert 300 <= response.status_code < 500
        if path.startswith("/v2/x/"):
            failure(response)

    @pytest.mark.parametrize("length", [1000, 10_000, 60_000])
    def test_a_long_address_is_no_fault_of_the_server(self, http: httpx.Client, length: int) -> None:
        for path in (f"/v2/{'a' * length}/tags/list", f"/v2/{'a/' * (length // 2)}b/tags/list"):
            assert 400 <= http.get(path).status_code < 500

    @pytest.mark.parametrize(
        "query", ["n=%ff", "n=%00", "last=%ff", "last=%00", "n", "=", "&&&", "n=1&n=2", "%", "n=%"]
    )
    def test_no_query_is_a_fault_of_the_server(self, http: httpx.Client, repository: str, query: str) -> None:
        push_image(http, repository, "latest")
        for path in (tags_path(repository), "/v2/_catalog", referrers_path(repository, DIGEST)):
            assert http.get(f"{path}?{query}").status_code in {200, 400}

    @pytest.mark.parametrize(
        "query", ["digest=%ff", "digest=%00", "mount=%ff", "mount=%00&from=%ff", "digest", "%"]
    )
    def test_no_query_of_an_upload_is_a_fault_of_the_server(
        self, http: httpx.Client, repository: str, query: str
    ) -> None:
        response = http.post(f"{uploads_path(repository)}?{query}", content=blob().data)
        assert response.status_code in {202, 400}

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": b"\xff\xfe"},
            {"Content-Type": ";;;"},
            {"Content-Type": "a" * 10_000},
            {"Accept": b"\xff\xfe"},
            {"Authorization": b"Basic \xff"},
            {"Authorization": "nonsense"},
            {"Authorization": "Bearer " + "a" * 10_000},
            {"X-Forwarded-Host": "evil.example.com\\@x", "X-Forwarded-Proto": "javascript"},
        ],
        ids=lambda headers: next(iter(headers)),
    )
    def test_no_header_is_a_fault_of_the_server(
        self, http: httpx.Client, repository: str, headers: dict[str, str | bytes]
    ) -> None:
        content = push_image(http, repository, "latest")
        path = manifest_path(repository, "latest")
        assert http.get(path, headers=headers).status_code < 500  # type: ignore[arg-type]
        sent = {"Content-Type": content.media_type, **headers}
        assert http.put(path, content=content.data, headers=sent).status_code < 500  # type: ignore[arg-type]
