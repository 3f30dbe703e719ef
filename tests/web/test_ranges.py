"""The Range header: what it asks for, what is ignored, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.server.web.ranges import Unsatisfiable, parse

SIZE = 1000


class TestTable:
    @pytest.mark.parametrize(
        ("header", "ranges"),
        [
            ("bytes=0-0", [(0, 1)]),
            ("bytes=0-999", [(0, 1000)]),
            ("bytes=0-", [(0, 1000)]),
            ("bytes=999-", [(999, 1000)]),
            ("bytes=999-999", [(999, 1000)]),
            ("bytes=5-10", [(5, 11)]),
            ("bytes=5-100000", [(5, 1000)]),
            ("bytes=0-9999999999999999999", [(0, 1000)]),
            ("bytes=-1", [(999, 1000)]),
            ("bytes=-1000", [(0, 1000)]),
            ("bytes=-1001", [(0, 1000)]),
            ("bytes=00005-0010", [(5, 11)]),
            ("Bytes=5-10", [(5, 11)]),
            ("BYTES=5-10", [(5, 11)]),
            ("bytes=0-0,-1", [(0, 1), (999, 1000)]),
            ("bytes=0-0, 5-10 ,\t-1", [(0, 1), (5, 11), (999, 1000)]),
            ("bytes=10-19,0-9", [(10, 20), (0, 10)]),
            ("bytes=0-1,1-2", [(0, 2), (1, 3)]),
            ("bytes=0-1,2000-3000", [(0, 2)]),
            ("bytes=5-3,0-1", [(0, 2)]),
            ("bytes=-0,0-1", [(0, 2)]),
            ("bytes=0-499,500-999", [(0, 500), (500, 1000)]),
        ],
    )
    def test_what_is_asked_for_is_given(self, header: str, ranges: list[tuple[int, int]]) -> None:
        assert parse(header, SIZE) == ranges

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes= ",
            "bytes=,",
            "bytes=0",
            "bytes=a-b",
            "bytes=0-b",
            "bytes=0x0-0x5",
            "bytes=0-5,",
            "bytes=0-5,,6-7",
            "bytes=0-5,nonsense",
            "bytes=--5",
            "bytes=0--5",
            "bytes=-5-",
            "bytes=0-5-10",
            "bytes=+0-5",
            "bytes=0 - 5",
            "bytes=0-5;6-7",
            "bytes=0.5-2",
            "bytes=\u0660-\u0665",
            "bytes=²-5",
            "bytes=0-²",
            "bytes =0-5",
            " bytes=0-5",
            "items=0-5",
            "bits=0-5",
            "bytes:0-5",
            "bytes=10000000000000000000-",
            "bytes=0-10000000000000000000",
            "bytes=" + "9" * 5000 + "-",
        ],
    )
    def test_what_cannot_be_read_is_ignored(self, header: str | None) -> None:
        assert parse(header, SIZE) is None

    @pytest.mark.parametrize(
        "header",
        ["bytes=1000-", "bytes=1000-1000", "bytes=5-3", "bytes=-0", "bytes=2000-3000,1000-", "bytes=-0,-0"],
    )
    def test_what_has_no_byte_is_unsatisfiable(self, header: str) -> None:
        with pytest.raises(Unsatisfiable):
            parse(header, SIZE)

    @pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=-5,0-5"])
    def test_an_empty_content_has_no_range(self, header: str) -> None:
        with pytest.raises(Unsatisfiable):
            parse(header, 0)

    @pytest.mark.parametrize(
        "header",
        [
            "bytes=0-,0-0",
            "bytes=0-999,0-999",
            "bytes=0-600,400-999",
            "bytes=" + ",".join(["0-"] * 1000),
            "bytes=" + ",".join(["0-0"] * 1001),
            "bytes=" + ",".join(f"{start}-{start}" for start in range(1001)),
        ],
    )
    def test_more_than_the_whole_content_is_the_whole_content(self, header: str) -> None:
        assert parse(header, SIZE) is None

    def test_as_many_ranges_as_are_taken(self) -> None:
        header = "bytes=" + ",".join(f"{start}-{start}" for start in range(1000))
        assert parse(header, SIZE) == [(start, start + 1) for start in range(1000)]


NUMBERS = st.sampled_from(["", "0", "1", "4", "5", "6", "999", "-1", "1" * 19, "1" * 20]) | st.integers(0, 30).map(
    str
)
SPECS = st.tuples(NUMBERS, st.sampled_from(["-", "--", "", " - "]), NUMBERS).map("".join)
HEADERS = st.text(max_size=60) | st.lists(SPECS | st.text("0123456789-, bytes=", max_size=8), max_size=8).map(
    lambda specs: "bytes=" + ",".join(specs)
)


class TestAnything:
    @given(HEADERS, st.integers(0, 40) | st.just(2**62))
    @example("bytes=0-5,3-8", 10)
    def test_any_header_is_ignored_refused_or_gives_ranges_inside_the_content(
        self, header: str, size_bytes: int
    ) -> None:
        try:
            ranges = parse(header, size_bytes)
        except Unsatisfiable:
            return
        if ranges is None:
            return
        assert ranges
        assert all(0 <= start < end <= size_bytes for start, end in ranges)
        assert sum(end - start for start, end in ranges) <= size_bytes

    @given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
    def test_a_single_range_is_pythons_slice(self, first: int, last: int, size_bytes: int) -> None:
        content = bytes(range(size_bytes))
        expected = content[first : last + 1]
        if not expected:
            with pytest.raises(Unsatisfiable):
                parse(f"bytes={first}-{last}", size_bytes)
            return
        [(start, end)] = parse(f"bytes={first}-{last}", size_bytes) or []
        assert content[start:end] == expected
        [(start, end)] = parse(f"bytes=-{last + 1}", size_bytes) or []
        assert content[start:end] == content[-last - 1 :]

    @pytest.mark.parametrize(
        "part", ["0-0,", "0-,", ",", "-", "0", " ", "bytes=", "0-0 ,", "9", "1-1;", "\t", "="]
    )
    def test_a_long_header_costs_no_more_than_its_length(self, part: str) -> None:
        for length in (16_000, 10_000_000):
            header = "bytes=" + part * (length // len(part))
            began = time.process_time()
            assert parse(header, SIZE) is None
            assert time.process_time() - began < 0.2
