"""Pushing blobs: the five ways, what each answers, and sessions that are asked, cancelled and mistaken."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from tests.support.oci import (
    ALGORITHMS,
    Content,
    append,
    blob,
    blob_path,
    digest_of,
    failure,
    finish,
    location,
    octets,
    patch,
    push_blob,
    start_upload,
    uploads_path,
    with_query,
)
from tests.support.server import Server

Way = Callable[[httpx.Client, str, Content, str], httpx.Response]

CHUNKS = 3
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
UNKNOWN = (404, "BLOB_UPLOAD_UNKNOWN")


def pieces(data: bytes) -> list[tuple[int, bytes]]:
    """*data* as chunks, each with its offset."""
    size = len(data) // CHUNKS + 1
    return [(start, data[start : start + size]) for start in range(0, len(data), size)]


def trickled(data: bytes) -> Iterator[bytes]:
    """*data* in pieces whose total the client does not announce: Transfer-Encoding is chunked."""
    for _, piece in pieces(data):
        yield piece


def whole_in_post(http: httpx.Client, repository: str, content: Content, digest: str) -> httpx.Response:
    return http.post(uploads_path(repository), params={"digest": digest}, content=content.data, headers=octets())


def whole_in_post_of_unknown_length(
    http: httpx.Client, repository: str, content: Content, digest: str
) -> httpx.Response:
    return http.post(
        uploads_path(repository), params={"digest": digest}, content=trickled(content.data), headers=octets()
    )


def post_then_put(http: httpx.Client, repository: str, content: Content, digest: str) -> httpx.Response:
    return finish(http, start_upload(http, repository), digest, content.data)


def post_then_put_of_unknown_length(
    http: httpx.Client, repository: str, content: Content, digest: str
) -> httpx.Response:
    session = with_query(start_upload(http, repository), digest=digest)
    return http.put(session, content=trickled(content.data), headers=octets())


def streamed(http: httpx.Client, repository: str, content: Content, digest: str) -> httpx.Response:
    session = append(http, start_upload(http, repository), content.data)
    return finish(http, session, digest)


def streamed_with_unknown_length(
    http: httpx.Client, repository: str, content: Content, digest: str
) -> httpx.Response:
    session = start_upload(http, repository)
    response = http.patch(session, content=trickled(content.data), headers=octets())
    assert response.status_code == 202, response.text
    return finish(http, location(response), digest)


def streamed_in_several_requests(
    http: httpx.Client, repository: str, content: Content, digest: str
) -> httpx.Response:
    session = start_upload(http, repository)
    for _, piece in pieces(content.data):
        session = append(http, session, piece)
    return finish(http, session, digest)


def in_chunks(http: httpx.Client, repository: str, content: Content, digest: str) -> httpx.Response:
    session = start_upload(http, repository)
    for start, piece in pieces(content.data):
        session = append(http, session, piece, start)
    return finish(http, session, digest)


def last_chunk_in_put(http: httpx.Client, repository: str, content: Content, digest: str) -> httpx.Response:
    session = start_upload(http, repository)
    *chunks, (last_start, last) = pieces(content.data) or [(0, b"")]
    for start, piece in chunks:
        session = append(http, session, piece, start)
    return finish(http, session, digest, last, last_start if last else None)


def streamed_and_the_rest_in_put(
    http: httpx.Client, repository: str, content: Content, digest: str
) -> httpx.Response:
    half = len(content.data) // 2
    session = append(http, start_upload(http, repository), content.data[:half])
    return finish(http, session, digest, content.data[half:])


def announced_algorithm(http: httpx.Client, repository: str, content: Content, digest: str) -> httpx.Response:
    session = start_upload(http, repository, **{"digest-algorithm": content.algorithm})
    for start, piece in pieces(content.data):
        session = append(http, session, piece, start)
    return finish(http, session, digest)


WAYS: list[Way] = [
    whole_in_post,
    whole_in_post_of_unknown_length,
    post_then_put,
    post_then_put_of_unknown_length,
    streamed,
    streamed_with_unknown_length,
    streamed_in_several_requests,
    in_chunks,
    last_chunk_in_put,
    streamed_and_the_rest_in_put,
    announced_algorithm,
]

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def status_of(http: httpx.Client, session: str) -> str:
    """The `Range` that a session reports of itself."""
    response = http.get(session)
    assert response.status_code == 204, response.text
    return response.headers["Range"]


def request_head(server: Server, method: str, url: str, *headers: str) -> bytes:
    """The first lines of a request, for those that no HTTP library would send."""
    lines = [f"{method} {httpx.URL(url).raw_path.decode()} HTTP/1.1", f"Host: {server.host}", *headers, ""]
    return "".join(f"{line}\r\n" for line in lines).encode()


class TestEveryWay:
    @every_way
    @every_algorithm
    @pytest.mark.parametrize("size_bytes", [0, 1, 2, 100_003])
    def test_the_blob_that_was_sent_can_be_pulled_where_the_answer_points(
        self, http: httpx.Client, repository: str, way: Way, algorithm: str, size_bytes: int
    ) -> None:
        content = blob(size_bytes, algorithm=algorithm)
        response = way(http, repository, content, content.digest)
        assert response.status_code == 201, response.text
        assert response.headers["Docker-Content-Digest"] == content.digest
        pulled = http.get(location(response))
        assert pulled.status_code == 200
        assert pulled.content == content.data
        assert pulled.headers["Docker-Content-Digest"] == content.digest

    @every_way
    @every_algorithm
    def test_bytes_that_do_not_match_the_digest_are_refused_and_stored_under_no_name(
        self, http: httpx.Client, repository: str, way: Way, algorithm: str
    ) -> None:
        sent, claimed = blob(3000, algorithm=algorithm), blob(3000, algorithm=algorithm)
        response = way(http, repository, sent, claimed.digest)
        assert failure(response) == (400, "DIGEST_INVALID")
        for each in (sent, claimed):
            assert http.head(blob_path(repository, each.digest)).status_code == 404

    @every_way
    def test_an_empty_body_does_not_pass_for_another_blob(
        self, http: httpx.Client, repository: str, way: Way
    ) -> None:
        response = way(http, repository, blob(0), blob(10).digest)
        assert failure(response) == (400, "DIGEST_INVALID")

    @every_way
    def test_pushing_what_is_already_there_succeeds_again(
        self, http: httpx.Client, repository: str, way: Way
    ) -> None:
        content = push_blob(http, repository, blob())
        assert way(http, repository, content, content.digest).status_code == 201
        assert http.get(blob_path(repository, content.digest)).content == content.data

    @pytest.mark.parametrize("way", [whole_in_post, post_then_put, in_chunks], ids=lambda way: way.__name__)
    @pytest.mark.parametrize(
        "digest",
        [
            "sha256:baddigeststring",
            "sha256:" + "0" * 63,
            "sha256:" + "0" * 65,
            "sha256:" + "g" * 64,
            "sha256:" + "A" * 64,
            "sha512:" + "0" * 64,
            "sha256",
            "0" * 64,
            "sha256:",
            ":" + "0" * 64,
            "sha256:../../../../etc/passwd",
            "sha256:" + "0" * 63 + "\n",
            "sha256:" + "0" * 63 + "\x00",
            "sha256:" + "٠" * 64,
        ],
    )
    def test_a_malformed_digest_is_refused(
        self, http: httpx.Client, repository: str, way: Way, digest: str
    ) -> None:
        assert failure(way(http, repository, blob(), digest)) == (400, "DIGEST_INVALID")

    @pytest.mark.parametrize("way", [whole_in_post, post_then_put, in_chunks], ids=lambda way: way.__name__)
    @pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha384", "sha3_256", "blake2b"])
    def test_an_algorithm_that_is_not_supported_is_refused(
        self, http: httpx.Client, repository: str, way: Way, algorithm: str
    ) -> None:
        content = blob()
        digest = digest_of(content.data, algorithm)
        assert failure(way(http, repository, content, digest)) == (400, "DIGEST_INVALID")


class TestOpening:
    def test_a_session_opens_with_a_location_an_id_and_nothing_received(
        self, http: httpx.Client, repository: str
    ) -> None:
        response = http.post(uploads_path(repository))
        assert response.status_code == 202
        session = response.headers["Docker-Upload-UUID"]
        assert UUID.fullmatch(session)
        assert session in response.headers["Location"]
        assert response.headers["Range"] == "0-0"
        assert response.content == b""

    def test_every_session_has_an_id_of_its_own(self, http: httpx.Client, repository: str) -> None:
        opened = {http.post(uploads_path(repository)).headers["Docker-Upload-UUID"] for _ in range(10)}
        assert len(opened) == 10

    @pytest.mark.parametrize("parameters", [{}, {"digest-algorithm": "sha512"}], ids=["plain", "algorithm"])
    def test_a_proxy_may_drop_the_slash_at_the_end(
        self, http: httpx.Client, repository: str, parameters: dict[str, str]
    ) -> None:
        response = http.post(uploads_path(repository).rstrip("/"), params=parameters)
        assert response.status_code == 202
        content = blob()
        assert finish(http, location(response), content.digest, content.data).status_code == 201

    def test_a_whole_blob_in_a_post_needs_no_slash_either(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        response = http.post(
            uploads_path(repository).rstrip("/"), params={"digest": content.digest}, content=content.data
        )
        assert response.status_code == 201
        assert http.get(location(response)).content == content.data

    @pytest.mark.parametrize("algorithm", ["md5", "sha384", "nonsense", "SHA256"])
    def test_an_algorithm_that_is_not_supported_opens_no_session(
        self, http: httpx.Client, repository: str, algorithm: str
    ) -> None:
        status, _ = failure(http.post(uploads_path(repository), params={"digest-algorithm": algorithm}))
        assert status == 400

    def test_a_sha512_blob_needs_no_announcement(self, http: httpx.Client, repository: str) -> None:
        content = blob(5000, algorithm="sha512")
        session = append(http, start_upload(http, repository), content.data[:1000], 0)
        session = append(http, session, content.data[1000:], 1000)
        assert finish(http, session, content.digest).status_code == 201

    def test_a_digest_in_the_query_may_be_percent_encoded(self, http: httpx.Client, repository: str) -> None:
        for separator in ("%3A", "%3a", ":"):
            content = blob()
            session = start_upload(http, repository)
            joint = "&" if "?" in session else "?"
            encoded = content.digest.replace(":", separator)
            response = http.put(f"{session}{joint}digest={encoded}", content=content.data)
            assert response.status_code == 201
            assert response.headers["Docker-Content-Digest"] == content.digest


class TestAppending:
    def test_each_patch_reports_the_last_byte_of_the_whole_upload(
        self, http: httpx.Client, repository: str
    ) -> None:
        session = start_upload(http, repository)
        for start, end in ((0, 0), (1, 99), (100, 4999)):
            response = patch(http, session, b"x" * (end - start + 1), start)
            assert response.status_code == 202
            assert response.headers["Range"] == f"0-{end}"
            assert UUID.fullmatch(response.headers["Docker-Upload-UUID"])
            assert response.content == b""
            session = location(response)

    def test_streamed_bytes_are_counted_over_all_requests(self, http: httpx.Client, repository: str) -> None:
        session = append(http, start_upload(http, repository), b"x" * 500)
        response = patch(http, session, b"y" * 250)
        assert response.headers["Range"] == "0-749"

    def test_an_empty_patch_is_accepted_and_leaves_the_session_at_nothing(
        self, http: httpx.Client, repository: str
    ) -> None:
        response = patch(http, start_upload(http, repository), b"")
        assert response.status_code == 202
        assert response.headers["Range"] == "0-0"
        content = blob()
        session = append(http, location(response), content.data, 0)
        assert finish(http, session, content.digest).status_code == 201

    def test_a_stream_may_be_continued_with_numbered_chunks(self, http: httpx.Client, repository: str) -> None:
        content = blob(3000)
        session = append(http, start_upload(http, repository), content.data[:1000])
        session = append(http, session, content.data[1000:2000], 1000)
        session = append(http, session, content.data[2000:])
        assert finish(http, session, content.digest).status_code == 201

    def test_a_numbered_chunk_may_have_no_announced_length(self, http: httpx.Client, repository: str) -> None:
        content = blob(3000)
        session = start_upload(http, repository)
        response = http.patch(session, content=trickled(content.data), headers=octets(0, 3000))
        assert response.status_code == 202
        assert response.headers["Range"] == "0-2999"
        assert finish(http, location(response), content.digest).status_code == 201

    def test_the_content_type_of_a_chunk_does_not_matter(self, http: httpx.Client, repository: str) -> None:
        content = blob(300)
        session = start_upload(http, repository)
        for start, headers in ((0, {}), (100, {"Content-Type": "text/plain"}), (200, octets())):
            response = http.patch(session, content=content.data[start : start + 100], headers=headers)
            assert response.status_code == 202
            session = location(response)
        assert finish(http, session, content.digest).status_code == 201

    def test_many_small_chunks_make_one_blob(self, http: httpx.Client, repository: str) -> None:
        content = blob(300, algorithm="sha512")
        session = start_upload(http, repository)
        for start in range(0, 300, 3):
            session = append(http, session, content.data[start : start + 3], start)
        assert finish(http, session, content.digest).status_code == 201
        assert http.get(blob_path(repository, content.digest)).content == content.data

    def test_two_sessions_at_once_do_not_mix(self, http: httpx.Client, repository: str) -> None:
        blobs = [blob(400), blob(400)]
        sessions = [start_upload(http, repository) for _ in blobs]
        for start in range(0, 400, 100):
            for at, content in enumerate(blobs):
                sessions[at] = append(http, sessions[at], content.data[start : start + 100], start)
        for session, content in zip(sessions, blobs, strict=True):
            assert finish(http, session, content.digest).status_code == 201
            assert http.get(blob_path(repository, content.digest)).content == content.data

    def test_nothing_can_be_pulled_before_the_session_is_closed(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        session = append(http, start_upload(http, repository), content.data)
        assert failure(http.get(blob_path(repository, content.digest)))[0] == 404
        assert finish(http, session, content.digest).status_code == 201
        assert http.head(blob_path(repository, content.digest)).status_code == 200


class TestStatus:
    def test_a_session_reports_how_far_it_is(self, http: httpx.Client, repository: str) -> None:
        session = append(http, start_upload(http, repository), b"x" * 1000)
        response = http.get(session)
        assert response.status_code == 204
        assert response.headers["Range"] == "0-999"
        assert UUID.fullmatch(response.headers["Docker-Upload-UUID"])
        assert response.content == b""

    def test_a_session_that_has_nothing_reports_0_to_0(self, http: httpx.Client, repository: str) -> None:
        assert status_of(http, start_upload(http, repository)) == "0-0"

    def test_an_upload_goes_on_where_the_status_points(self, http: httpx.Client, repository: str) -> None:
        content = blob(2000)
        session = append(http, start_upload(http, repository), content.data[:1000], 0)
        session = append(http, location(http.get(session)), content.data[1000:], 1000)
        assert finish(http, location(http.get(session)), content.digest).status_code == 201

    def test_asking_for_the_status_changes_nothing(self, http: httpx.Client, repository: str) -> None:
        session = append(http, start_upload(http, repository), b"x" * 10)
        assert {status_of(http, session) for _ in range(3)} == {"0-9"}


class TestOrder:
    @every_algorithm
    @pytest.mark.parametrize("start", [0, 500, 999, 1001, 2000, 10**18])
    @pytest.mark.parametrize("closing", [False, True], ids=["patch", "put"])
    def test_a_chunk_out_of_order_is_refused_with_416_and_the_session_lives_on(
        self, http: httpx.Client, repository: str, start: int, closing: bool, algorithm: str
    ) -> None:
        content = blob(2000, algorithm=algorithm)
        session = append(http, start_upload(http, repository), content.data[:1000], 0)
        if closing:
            refused = finish(http, session, content.digest, content.data[1000:], start)
        else:
            refused = patch(http, session, content.data[1000:], start)
        assert failure(refused)[0] == 416
        assert status_of(http, session) == "0-999"
        assert finish(http, session, content.digest, content.data[1000:], 1000).status_code == 201
        assert http.get(blob_path(repository, content.digest)).content == content.data

    @pytest.mark.parametrize("closing", [False, True], ids=["patch", "put"])
    def test_the_first_chunk_begins_with_byte_0(self, http: httpx.Client, repository: str, closing: bool) -> None:
        content = blob(200)
        session = start_upload(http, repository)
        if closing:
            refused = finish(http, session, content.digest, content.data, 1)
        else:
            refused = patch(http, session, content.data, 1)
        assert failure(refused)[0] == 416
        assert status_of(http, session) == "0-0"
        session = append(http, session, content.data, 0)
        assert finish(http, session, content.digest).status_code == 201

    @pytest.mark.parametrize("length", [1, 99, 101, 5000])
    @pytest.mark.parametrize("closing", [False, True], ids=["patch", "put"])
    def test_a_range_that_is_not_as_long_as_its_body_is_refused_with_size_invalid(
        self, http: httpx.Client, repository: str, length: int, closing: bool
    ) -> None:
        content = blob(200)
        session = append(http, start_upload(http, repository), content.data[:100], 0)
        send = http.put if closing else http.patch
        url = with_query(session, digest=content.digest) if closing else session
        refused = send(url, content=content.data[100:], headers=octets(100, length))
        assert failure(refused) == (400, "SIZE_INVALID")
        assert status_of(http, session) == "0-99"
        assert finish(http, session, content.digest, content.data[100:], 100).status_code == 201

    @pytest.mark.parametrize("length", [50, 150])
    def test_a_body_without_length_that_does_not_fill_its_range_is_refused_with_size_invalid(
        self, http: httpx.Client, repository: str, length: int
    ) -> None:
        content = blob(200)
        session = append(http, start_upload(http, repository), content.data[:100], 0)
        refused = http.patch(session, content=trickled(content.data[100:]), headers=octets(100, length))
        assert failure(refused) == (400, "SIZE_INVALID")
        received = int(status_of(http, session).removeprefix("0-")) + 1
        response = finish(http, session, content.digest, content.data[received:])
        assert response.status_code == 201

    @pytest.mark.parametrize(
        "value",
        [
            "bytes",
            "100",
            "100-",
            "-100",
            "199-100",
            "abc-def",
            "+100-199",
            "1_00-199",
            "1e2-199",
            "-",
        ],
    )
    @pytest.mark.parametrize("closing", [False, True], ids=["patch", "put"])
    def test_a_malformed_content_range_is_refused_and_the_session_lives_on(
        self, http: httpx.Client, repository: str, value: str, closing: bool
    ) -> None:
        content = blob(200)
        session = append(http, start_upload(http, repository), content.data[:100], 0)
        send = http.put if closing else http.patch
        url = with_query(session, digest=content.digest) if closing else session
        refused = send(url, content=content.data[100:], headers={**octets(), "Content-Range": value})
        assert failure(refused)[0] in {400, 416}
        assert status_of(http, session) == "0-99"
        session = append(http, session, content.data[100:], 100)
        assert finish(http, session, content.digest).status_code == 201

    @pytest.mark.parametrize(
        "value", ["bytes 0-99/200", "bytes 101-200/201", "bytes 100-199/*", "bytes=100-199", "bytes=0-99"]
    )
    def test_a_content_range_in_the_form_of_http_is_understood_or_refused_but_never_ignored(
        self, http: httpx.Client, repository: str, value: str
    ) -> None:
        content = blob(200)
        session = append(http, start_upload(http, repository), content.data[:100], 0)
        headers = {**octets(), "Content-Range": value}
        response = http.patch(session, content=content.data[100:], headers=headers)
        if response.status_code == 202:
            assert "100-199" in value
            session = location(response)
        else:
            assert failure(response)[0] in {400, 416}
            assert status_of(http, session) == "0-99"
            session = append(http, session, content.data[100:], 100)
        assert finish(http, session, content.digest).status_code == 201

    @pytest.mark.parametrize("value", ["0-" + "9" * 5000, "9" * 5000 + "-" + "9" * 5001])
    def test_a_range_of_absurd_numbers_is_refused(self, http: httpx.Client, repository: str, value: str) -> None:
        session = start_upload(http, repository)
        refused = http.patch(session, content=b"x" * 10, headers={**octets(), "Content-Range": value})
        assert failure(refused)[0] in {400, 416}
        assert status_of(http, session) == "0-0"


class TestClosing:
    def test_a_session_cannot_be_closed_without_a_digest(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        session = append(http, start_upload(http, repository), content.data)
        assert failure(http.put(session)) == (400, "DIGEST_INVALID")
        assert finish(http, session, content.digest).status_code == 201

    @pytest.mark.parametrize("digest", [digest_of(b"something else"), "sha256:baddigeststring"])
    def test_after_a_wrong_digest_the_session_may_be_closed_with_the_right_one(
        self, http: httpx.Client, repository: str, digest: str
    ) -> None:
        content = blob(1000)
        session = append(http, start_upload(http, repository), content.data)
        assert failure(finish(http, session, digest)) == (400, "DIGEST_INVALID")
        assert status_of(http, session) == "0-999"
        assert finish(http, session, content.digest).status_code == 201

    def test_a_closed_session_is_gone(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        session = append(http, start_upload(http, repository), content.data)
        assert finish(http, session, content.digest).status_code == 201
        assert failure(http.get(session)) == UNKNOWN
        assert failure(patch(http, session, b"more")) == UNKNOWN

    def test_closing_twice_does_no_harm(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        session = append(http, start_upload(http, repository), content.data)
        assert finish(http, session, content.digest).status_code == 201
        again = finish(http, session, content.digest)
        assert again.status_code == 201 or failure(again) == UNKNOWN
        assert http.get(blob_path(repository, content.digest)).content == content.data

    @pytest.mark.direct  # nginx passes the refusal on, and then closes a connection that it said it would keep
    def test_a_refusal_before_the_body_was_read_leaves_the_client_able_to_go_on(
        self, http: httpx.Client, repository: str
    ) -> None:
        session = start_upload(http, repository)
        for _ in range(3):
            refused = finish(http, session, "sha256:baddigeststring", b"x" * 2_000_000)
            assert failure(refused) == (400, "DIGEST_INVALID")
        assert status_of(http, session) == "0-0"


class TestCancelling:
    def test_a_cancelled_session_is_gone(self, http: httpx.Client, repository: str) -> None:
        session = append(http, start_upload(http, repository), b"x" * 100)
        response = http.delete(session)
        assert response.status_code == 204
        assert response.content == b""
        assert failure(http.get(session)) == UNKNOWN
        assert failure(patch(http, session, b"more", 100)) == UNKNOWN
        assert failure(finish(http, session, digest_of(b"x" * 100))) == UNKNOWN
        assert failure(http.delete(session)) == UNKNOWN

    def test_a_session_that_received_nothing_can_be_cancelled(self, http: httpx.Client, repository: str) -> None:
        session = start_upload(http, repository)
        assert http.delete(session).status_code == 204
        assert failure(http.get(session)) == UNKNOWN

    def test_cancelling_one_session_leaves_the_others(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        kept = append(http, start_upload(http, repository), content.data)
        assert http.delete(start_upload(http, repository)).status_code == 204
        assert finish(http, kept, content.digest).status_code == 201

    def test_the_bytes_of_a_cancelled_session_are_not_a_blob(self, http: httpx.Client, repository: str) -> None:
        content = blob()
        session = append(http, start_upload(http, repository), content.data)
        assert http.delete(session).status_code == 204
        assert http.head(blob_path(repository, content.digest)).status_code == 404


def ask(http: httpx.Client, method: str, session: str) -> httpx.Response:
    """One request to a session, of the kind that *method* makes sensible."""
    if method == "PUT":
        return finish(http, session, digest_of(b"x"), b"x")
    if method == "PATCH":
        return patch(http, session, b"x")
    return http.request(method, session)


class TestStrangers:
    @pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
    def test_a_session_that_never_was_is_unknown(self, http: httpx.Client, repository: str, method: str) -> None:
        session = UUID.sub(str(uuid.uuid4()), start_upload(http, repository))
        assert failure(ask(http, method, session)) == UNKNOWN

    @pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
    @pytest.mark.parametrize("name", ["nonsense", "0", "-", "a" * 1000, "%00", "..%2f..", "%ff", "'"])
    def test_a_session_whose_name_is_no_id_is_refused(
        self, http: httpx.Client, repository: str, method: str, name: str
    ) -> None:
        session = UUID.sub(name, start_upload(http, repository))
        assert failure(ask(http, method, session))[0] in {400, 404}

    @pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
    def test_a_session_belongs_to_the_repository_that_it_was_opened_in(
        self, http: httpx.Client, repository: str, method: str
    ) -> None:
        content = blob()
        session = append(http, start_upload(http, repository), content.data)
        push_blob(http, f"{repository}/other", blob())
        elsewhere = session.replace(f"/v2/{repository}/", f"/v2/{repository}/other/")
        assert elsewhere != session
        assert failure(ask(http, method, elsewhere)) == UNKNOWN
        assert status_of(http, session) == f"0-{len(content.data) - 1}"
        assert finish(http, session, content.digest).status_code == 201


def hang_up(server: Server, method: str, url: str, data: bytes, *headers: str) -> None:
    """Send a request whose body ends before it should, and return when the server has let go."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw, suppress(ConnectionError):
        raw.sendall(request_head(server, method, url, *headers) + data)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65536):
            pass


def resume(http: httpx.Client, session: str, data: bytes) -> str:
    """Send what the session lacks, asking again if the server was still busy with what it had."""
    for _ in range(100):
        received = status_of(http, session)
        start = 0 if received == "0-0" else int(received.removeprefix("0-")) + 1
        if start == len(data):
            return session
        response = patch(http, session, data[start:], start)
        if response.status_code == 202:
            return location(response)
        assert failure(response)[0] == 416
    raise AssertionError("the session accepted no chunk, not even where it said that it stood")


class TestAtOnce:
    """Requests to one session that overlap, as a client sends that gave up on an answer and tries again."""

    @pytest.mark.parametrize("size_bytes", [1000, 400_000])
    def test_of_equal_chunks_sent_at_once_one_is_taken(
        self, http: httpx.Client, repository: str, size_bytes: int
    ) -> None:
        content = blob(size_bytes)
        half = size_bytes // 2
        session = append(http, start_upload(http, repository), content.data[:half], 0)
        with ThreadPoolExecutor(6) as pool:
            sent = [pool.submit(patch, http, session, content.data[half:], half) for _ in range(6)]
        answers = [each.result() for each in sent]
        assert sorted(each.status_code for each in answers)[0] == 202
        assert [each.status_code for each in answers].count(202) == 1
        assert all(failure(each)[0] in {409, 416} for each in answers if each.status_code != 202)
        assert status_of(http, session) == f"0-{size_bytes - 1}"
        assert finish(http, session, content.digest).status_code == 201
        assert http.get(blob_path(repository, content.digest)).content == content.data

    def test_a_session_closed_several_times_at_once_makes_its_blob(
        self, http: httpx.Client, repository: str
    ) -> None:
        content = blob(400_000)
        session = append(http, start_upload(http, repository), content.data)
        with ThreadPoolExecutor(6) as pool:
            sent = [pool.submit(finish, http, session, content.digest) for _ in range(6)]
        answers = [each.result() for each in sent]
        assert 201 in {each.status_code for each in answers}
        assert all(failure(each)[0] in {404, 409, 416} for each in answers if each.status_code != 201)
        assert http.get(blob_path(repository, content.digest)).content == content.data

    def test_a_session_closed_and_cancelled_at_once_ends_one_way_or_the_other(
        self, http: httpx.Client, repository: str
    ) -> None:
        for _ in range(10):
            content = blob(1000)
            session = append(http, start_upload(http, repository), content.data)
            with ThreadPoolExecutor(2) as pool:
                closed = pool.submit(finish, http, session, content.digest)
                cancelled = pool.submit(http.delete, session)
            assert closed.result().status_code == 201 or failure(closed.result()) == UNKNOWN
            assert cancelled.result().status_code == 204 or failure(cancelled.result()) == UNKNOWN
            pulled = http.get(blob_path(repository, content.digest))
            assert pulled.status_code == (200 if closed.result().status_code == 201 else 404)
            assert failure(http.get(session)) == UNKNOWN

    def test_one_blob_pushed_many_times_at_once_is_there(self, http: httpx.Client, repository: str) -> None:
        content = blob(100_000)
        with ThreadPoolExecutor(6) as pool:
            pushed = [pool.submit(push_blob, http, f"{repository}/{n % 2}", content) for n in range(12)]
        assert all(each.result() for each in pushed)
        for n in range(2):
            assert http.get(blob_path(f"{repository}/{n}", content.digest)).content == content.data


class TestExpectations:
    def test_a_client_that_waits_for_100_continue_may_send(
        self, server: Server, http: httpx.Client, repository: str
    ) -> None:
        content = blob(1000)
        url = with_query(start_upload(http, repository), digest=content.digest)
        headers = ["Content-Length: 1000", "Expect: 100-continue", "Connection: close"]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(request_head(server, "PUT", url, *headers))
            assert raw.recv(65536).startswith(b"HTTP/1.1 100")
            raw.sendall(content.data)
            answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 201")
        assert http.get(blob_path(repository, content.digest)).content == content.data

    def test_nobody_untrusted_decides_where_an_upload_goes_on(self, http: httpx.Client, repository: str) -> None:
        forwarded = {"X-Forwarded-Host": "evil.example.com", "Forwarded": "host=evil.example.com"}
        response = http.post(uploads_path(repository), headers=forwarded)
        assert response.status_code == 202
        assert "evil" not in response.headers["Location"]


class TestBrokenConnections:
    @pytest.mark.parametrize(
        "headers",
        [
            ["Content-Length: 300000"],
            ["Content-Length: 300000", "Content-Range: 0-299999"],
            ["Transfer-Encoding: chunked"],
        ],
        ids=["streamed", "numbered", "unknown length"],
    )
    def test_an_upload_goes_on_after_a_patch_was_cut_off(
        self, server: Server, http: httpx.Client, repository: str, headers: list[str]
    ) -> None:
        content = blob(300_000)
        session = start_upload(http, repository)
        body = content.data[:200_000]
        if "Transfer-Encoding: chunked" in headers:
            body = b"30d40\r\n" + body + b"\r\n"
        hang_up(server, "PATCH", session, body, *headers)
        session = resume(http, session, content.data)
        assert finish(http, session, content.digest).status_code == 201
        assert http.get(blob_path(repository, content.digest)).content == content.data

    def test_a_closing_put_that_was_cut_off_makes_no_blob_and_can_be_sent_again(
        self, server: Server, http: httpx.Client, repository: str
    ) -> None:
        content = blob(300_000)
        cut = content.data[:200_000]
        session = start_upload(http, repository)
        url = with_query(session, digest=content.digest)
        hang_up(server, "PUT", url, cut, "Content-Length: 300000")
        for digest in (content.digest, digest_of(cut)):
            assert http.head(blob_path(repository, digest)).status_code == 404
        session = resume(http, session, content.data)
        assert finish(http, session, content.digest).status_code == 201

    def test_a_whole_post_that_was_cut_off_makes_no_blob(
        self, server: Server, http: httpx.Client, repository: str
    ) -> None:
        content = blob(300_000)
        cut = content.data[:200_000]
        url = with_query(f"{server.url}{uploads_path(repository)}", digest=digest_of(cut))
        hang_up(server, "POST", url, cut, "Content-Length: 300000")
        assert http.head(blob_path(repository, digest_of(cut))).status_code == 404
