"""Partial pulls: the `Range` header, in every form that the specification's tests and RFC 9110 know."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.oci import ALGORITHMS, Content, blob, blob_path, failure, push_blob

SIZE = 2048
LARGE = 1_048_576
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@dataclass(frozen=True)
class Pushed:
    """A blob in a repository, ready to be pulled in part."""

    http: httpx.Client
    path: str
    content: Content

    def get(self, ranges: str | bytes, **headers: str) -> httpx.Response:
        value = ranges if isinstance(ranges, bytes) else ranges.encode()
        others = [(name.encode(), each.encode()) for name, each in headers.items()]
        return self.http.get(self.path, headers=[(b"Range", value), *others])


def pushed(http: httpx.Client, repository: str, content: Content) -> Pushed:
    push_blob(http, repository, content)
    return Pushed(http, blob_path(repository, content.digest), content)


@pytest.fixture(scope="module")
def small(http: httpx.Client) -> Pushed:
    return pushed(http, "ranges/small", blob(SIZE))


@pytest.fixture(scope="module")
def large(http: httpx.Client) -> Pushed:
    return pushed(http, "ranges/large", blob(LARGE))


@pytest.fixture(scope="module", params=ALGORITHMS)
def either(http: httpx.Client, request: pytest.FixtureRequest) -> Pushed:
    return pushed(http, f"ranges/{request.param}", blob(SIZE, algorithm=request.param))


def part(headers: httpx.Headers, body: bytes, total: int) -> tuple[int, int, bytes]:
    """One part: first byte, last byte and what it holds."""
    found = CONTENT_RANGE.fullmatch(headers["Content-Range"])
    assert found, headers
    assert found[3] in {str(total), "*"}
    start, end = int(found[1]), int(found[2])
    assert len(body) == end - start + 1
    return start, end, body


def parts(response: httpx.Response, total: int) -> list[tuple[int, int, bytes]]:
    """The parts of a 206, be it plain or multipart/byteranges."""
    assert response.status_code == 206, response.status_code
    assert response.headers["Content-Length"] == str(len(response.content))
    kind, _, parameters = response.headers["Content-Type"].partition(";")
    if kind != "multipart/byteranges":
        return [part(response.headers, response.content, total)]
    assert "Content-Range" not in response.headers
    boundary = parameters.partition("boundary=")[2].strip().strip('"').encode()
    assert boundary
    _, *framed, closing = (b"\r\n" + response.content).split(b"\r\n--" + boundary)
    assert closing.strip() == b"--"
    return [unframed(each, total) for each in framed]


def unframed(framed: bytes, total: int) -> tuple[int, int, bytes]:
    """One part of a multipart body, from after its boundary."""
    head, _, body = framed.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    lines = (line.split(b":", 1) for line in head.split(b"\r\n"))
    headers = httpx.Headers([(name, value.strip()) for name, value in lines])
    assert headers["Content-Type"] == "application/octet-stream"
    return part(headers, body, total)


class TestOneRange:
    @pytest.mark.parametrize(
        ("ranges", "start", "end"),
        [
            ("bytes=500-1499", 500, 1499),
            ("bytes=0-0", 0, 0),
            ("bytes=0-", 0, 2047),
            ("bytes=500-", 500, 2047),
            ("bytes=2047-", 2047, 2047),
            ("bytes=0-2047", 0, 2047),
            ("bytes=0-2048", 0, 2047),
            ("bytes=2000-5000", 2000, 2047),
            ("bytes=-500", 1548, 2047),
            ("bytes=-1", 2047, 2047),
            ("bytes=-2048", 0, 2047),
            ("bytes=-5000", 0, 2047),
            ("bytes=00500-01499", 500, 1499),
            ("Bytes=500-1499", 500, 1499),
        ],
    )
    def test_a_part_comes_with_206_and_its_exact_length(
        self, either: Pushed, ranges: str, start: int, end: int
    ) -> None:
        response = either.get(ranges)
        assert response.status_code == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{end}/{SIZE}"
        assert response.headers["Content-Length"] == str(end - start + 1)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.content == either.content.data[start : end + 1]

    def test_a_part_says_what_it_is_a_part_of(self, either: Pushed) -> None:
        response, whole = either.get("bytes=1-2"), either.http.get(either.path)
        assert response.headers["Docker-Content-Digest"] == either.content.digest
        for name in ("ETag", "Cache-Control", "Accept-Ranges"):
            assert response.headers[name] == whole.headers[name]

    def test_a_pull_that_broke_off_is_completed_with_the_rest(self, large: Pushed) -> None:
        received = b""
        while len(received) < LARGE:
            received += large.get(f"bytes={len(received)}-{len(received) + 300_000}").content
        assert received == large.content.data

    def test_head_knows_no_ranges(self, small: Pushed) -> None:
        response = small.http.head(small.path, headers={"Range": "bytes=0-9"})
        assert response.status_code == 200
        assert response.headers["Content-Length"] == str(SIZE)

    @settings(max_examples=60, deadline=None, database=None)
    @given(start=st.integers(0, 2 * SIZE), end=st.integers(0, 2 * SIZE))
    def test_any_two_numbers_are_answered_as_arithmetic_says(self, small: Pushed, start: int, end: int) -> None:
        response = small.get(f"bytes={start}-{end}")
        if start > end or start >= SIZE:
            assert response.status_code == 416
        else:
            last = min(end, SIZE - 1)
            assert parts(response, SIZE) == [(start, last, small.content.data[start : last + 1])]


def assert_unsatisfiable(response: httpx.Response, size_bytes: int) -> None:
    """A 416 that says how long the blob is; its body, if any, is a refusal like others."""
    assert response.status_code == 416
    assert response.headers["Content-Range"] == f"bytes */{size_bytes}"
    if response.content:
        failure(response)


class TestNotSatisfiable:
    @pytest.mark.parametrize(
        "ranges",
        [
            "bytes=500-0",
            "bytes=5000-10000",
            "bytes=2048-",
            "bytes=2048-2048",
            "bytes=-0",
            "bytes=5000-6000,7000-8000",
        ],
    )
    def test_a_range_outside_the_blob_is_refused_with_416_and_the_blobs_length(
        self, either: Pushed, ranges: str
    ) -> None:
        response = either.get(ranges)
        assert_unsatisfiable(response, SIZE)

    @pytest.mark.parametrize("ranges", ["bytes=0-", "bytes=0-0", "bytes=1-5", "bytes=-1"])
    def test_no_byte_of_an_empty_blob_can_be_had(self, http: httpx.Client, repository: str, ranges: str) -> None:
        response = pushed(http, repository, blob(0)).get(ranges)
        if ranges == "bytes=-1" and response.status_code == 200:
            return  # a suffix longer than the blob is the whole blob, which no Content-Range can express
        assert_unsatisfiable(response, 0)

    def test_an_unknown_blob_is_unknown_in_part_too(self, http: httpx.Client, repository: str) -> None:
        push_blob(http, repository, blob())
        response = http.get(blob_path(repository, blob().digest), headers={"Range": "bytes=0-1"})
        assert failure(response) == (404, "BLOB_UNKNOWN")


class TestSyntax:
    @pytest.mark.parametrize(
        "ranges",
        [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=abc",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=--5",
            "bytes=0x10-",
            "bytes=1.5-3",
            "bytes=+1-5",
            "bytes=1_0-2_0",
            "bytes=1 0-2 0",
            "bytes=0-1;5-6",
            "bytes=0-1,abc",
            "bytes=,",
            "bytes:0-1",
            "lines=0-1",
            "0-1",
            b"bytes=\xb2-\xb3",
            b"bytes=0-\xff",
        ],
    )
    def test_what_is_no_range_is_ignored_and_the_whole_blob_comes(
        self, small: Pushed, ranges: str | bytes
    ) -> None:
        response = small.get(ranges)
        assert response.status_code == 200
        assert response.content == small.content.data
        assert response.headers["Content-Length"] == str(SIZE)

    @pytest.mark.parametrize("digits", [20, 26, 5000])
    @pytest.mark.parametrize(
        ("ranges", "start", "status"), [("bytes={}-", 0, 416), ("bytes=9-{}", 9, 206), ("bytes=-{}", 0, 206)]
    )
    def test_no_number_is_too_long(self, small: Pushed, ranges: str, start: int, status: int, digits: int) -> None:
        response = small.get(ranges.format("9" * digits))
        assert response.status_code in {status, 200, 400, 431}
        if response.is_success:
            assert response.content == small.content.data[start if response.status_code == 206 else 0 :]

    def test_an_empty_element_of_the_list_is_passed_over(self, small: Pushed) -> None:
        response = small.get("bytes=,0-9,,100-199,")
        data = small.content.data
        if response.status_code == 200:
            assert response.content == data
        else:
            assert parts(response, SIZE) == [(0, 9, data[:10]), (100, 199, data[100:200])]


class TestSeveralRanges:
    @pytest.mark.parametrize(
        ("ranges", "expected"),
        [
            ("bytes=0-9,100-199", [(0, 9), (100, 199)]),
            ("bytes=0-0,2-2,4-4,6-6", [(0, 0), (2, 2), (4, 4), (6, 6)]),
            ("bytes=0-9, 100-199 ,\t1000-", [(0, 9), (100, 199), (1000, 2047)]),
            ("bytes=0-9,-10", [(0, 9), (2038, 2047)]),
            ("bytes=0-9,2000-5000", [(0, 9), (2000, 2047)]),
        ],
    )
    def test_they_come_as_multipart_in_the_order_asked_for(
        self, either: Pushed, ranges: str, expected: list[tuple[int, int]]
    ) -> None:
        response = either.get(ranges)
        assert response.headers["Content-Type"].startswith("multipart/byteranges")
        data = either.content.data
        assert parts(response, SIZE) == [(start, end, data[start : end + 1]) for start, end in expected]

    def test_those_outside_the_blob_are_left_out(self, small: Pushed) -> None:
        response = small.get("bytes=0-9,5000-6000")
        assert parts(response, SIZE) == [(0, 9, small.content.data[:10])]

    def test_the_pieces_of_a_layer_come_in_one_answer(self, large: Pushed) -> None:
        wanted = [(start, start + 999) for start in range(0, LARGE - 1000, 50_000)]
        response = large.get("bytes=" + ",".join(f"{start}-{end}" for start, end in wanted))
        expected = [(start, end, large.content.data[start : end + 1]) for start, end in wanted]
        assert parts(response, LARGE) == expected

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 99)), min_size=1, max_size=6))
    def test_every_byte_asked_for_comes(self, small: Pushed, wanted: list[tuple[int, int]]) -> None:
        asked = [(start, min(start + length, SIZE - 1)) for start, length in wanted]
        response = small.get("bytes=" + ",".join(f"{start}-{end}" for start, end in asked))
        data = small.content.data
        if response.status_code == 200:
            assert response.content == data
            return
        covered: set[int] = set()
        for start, end, body in parts(response, SIZE):
            assert body == data[start : end + 1]
            covered.update(range(start, end + 1))
        assert covered >= {byte for start, end in asked for byte in range(start, end + 1)}


class TestCost:
    """A header of a few kilobytes must not make the server work or send more than the blob is worth."""

    def test_overlapping_ranges_do_not_multiply_the_blob(self, large: Pushed) -> None:
        for ranges in (",".join(["0-"] * 1000), ",".join(f"{start}-" for start in range(1000))):
            response = large.get(f"bytes={ranges}")
            assert response.status_code in {200, 206, 400, 416}
            assert len(response.content) <= 2 * LARGE

    def test_many_tiny_ranges_are_answered_in_moments(self, small: Pushed) -> None:
        wanted = [(byte, byte) for byte in range(0, SIZE, 2)]
        began = time.monotonic()
        response = small.get("bytes=" + ",".join(f"{start}-{end}" for start, end in wanted))
        assert time.monotonic() - began < 2
        assert response.status_code in {200, 206, 400, 416}
        if response.status_code == 206:
            covered = {byte for start, end, _ in parts(response, SIZE) for byte in range(start, end + 1)}
            assert covered >= {byte for byte, _ in wanted}

    @pytest.mark.parametrize("piece", ["0-0,", "0-,", "-1,", ",", "9-0,", "0-0 ,", "a,"])
    def test_a_header_as_long_as_headers_may_be_costs_moments(self, small: Pushed, piece: str) -> None:
        began = time.monotonic()
        response = small.get("bytes=" + piece * (30_000 // len(piece)))
        assert time.monotonic() - began < 2
        assert response.status_code in {200, 206, 400, 416, 431}
        assert len(response.content) <= 30_000 * 50


class TestConditions:
    def test_a_part_comes_while_the_blob_is_the_one_that_the_client_began_with(self, small: Pushed) -> None:
        tag = small.http.head(small.path).headers["ETag"]
        response = small.get("bytes=10-19", **{"If-Range": tag})
        assert response.status_code == 206
        assert response.content == small.content.data[10:20]

    @pytest.mark.parametrize("validator", ['"other"', "W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT", "nonsense"])
    def test_the_whole_blob_comes_when_the_client_began_with_another(self, small: Pushed, validator: str) -> None:
        tag = small.http.head(small.path).headers["ETag"]
        response = small.get("bytes=10-19", **{"If-Range": validator.format(tag=tag)})
        assert response.status_code == 200
        assert response.content == small.content.data

    def test_an_unsatisfiable_range_of_another_blob_gives_the_whole(self, small: Pushed) -> None:
        response = small.get("bytes=5000-", **{"If-Range": '"other"'})
        assert response.status_code == 200

    def test_if_range_without_a_range_means_nothing(self, small: Pushed) -> None:
        response = small.http.get(small.path, headers={"If-Range": '"other"'})
        assert response.status_code == 200

    def test_a_client_that_has_the_blob_is_told_so_even_if_it_asks_for_a_part(self, small: Pushed) -> None:
        tag = small.http.head(small.path).headers["ETag"]
        response = small.get("bytes=10-19", **{"If-None-Match": tag})
        assert response.status_code == 304
        assert response.content == b""
