"""Names of repositories and tags, at the limits of the grammar."""

from __future__ import annotations

import re
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import NameInvalid, TagInvalid
from registry.oci.reference import NAME_MAX_CHARACTERS, Repository, Tag

# As the specification writes it, in one expression.
SPECIFIED_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
SPECIFIED_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)


class TestRepository:
    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "0",
            "team/web",
            "a/b/c/d/e/f/g/h",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "a-b.c_d__e/f",
            "library/ubuntu",
            "a/manifests/b",
            "a/blobs/uploads",
            "v2",
            "x" * NAME_MAX_CHARACTERS,
            "/".join(["a"] * 128),
            "a" + "-" * (NAME_MAX_CHARACTERS - 2) + "a",
        ],
    )
    def test_a_name_inside_the_grammar_is_equal_to_its_text(self, text: str) -> None:
        assert len(text) <= NAME_MAX_CHARACTERS
        assert Repository.parse(text) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "A",
            "team/Web",
            "-a",
            "a-",
            ".a",
            "a.",
            "_a",
            "a_",
            "a..b",
            "a___b",
            "a._b",
            "a.-b",
            "a-_b",
            "a/-b",
            "a/b-",
            "a/./b",
            "a/../b",
            "..",
            "a b",
            "a\n",
            "\na",
            "a\0b",
            "a:b",
            "a@b",
            "a+b",
            "a%2fb",
            "a\\b",
            "ä",
            "а",
            "\u0660",
            "\u00b2",
            "x" * (NAME_MAX_CHARACTERS + 1),
            "/".join(["a"] * 128) + "/",
            "/".join(["a"] * 129),
            "_catalog",
        ],
    )
    def test_a_name_outside_of_the_grammar_is_refused(self, text: str) -> None:
        with pytest.raises(NameInvalid):
            Repository.parse(text)

    @given(st.text(alphabet="ab0._-/A ", max_size=20))
    def test_a_name_is_accepted_exactly_when_the_specification_says_so(self, text: str) -> None:
        try:
            accepted = Repository.parse(text) == text
        except NameInvalid:
            accepted = False
        assert accepted is bool(SPECIFIED_NAME.fullmatch(text))

    @pytest.mark.parametrize(
        "text", ["a-" * 120 + "!", "a__" * 80 + "_", "-" * 255, "a" * 254 + "!", "a/" * 5_000_000]
    )
    def test_a_hostile_name_is_refused_at_once(self, text: str) -> None:
        began = time.process_time()
        with pytest.raises(NameInvalid) as raised:
            Repository.parse(text)
        assert time.process_time() - began < 0.1
        assert len(str(raised.value.entry())) < 1000


class TestTag:
    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "Z",
            "0",
            "_",
            "latest",
            "1.2.3",
            "v1.0-rc.1",
            "_.-",
            "A_b-C.d",
            "x" * 128,
            "_" + "." * 127,
            "sha256-abc",
        ],
    )
    def test_a_tag_inside_the_grammar_is_equal_to_its_text(self, text: str) -> None:
        assert Tag.parse(text) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ".",
            "-",
            ".a",
            "-a",
            "a b",
            "a/b",
            "a:b",
            "a+b",
            "a\n",
            "\na",
            "a\0",
            "ä",
            "\u0661",
            "x" * 129,
            "x" * 1_000_000,
        ],
    )
    def test_a_tag_outside_of_the_grammar_is_refused_in_few_words(self, text: str) -> None:
        with pytest.raises(TagInvalid) as raised:
            Tag.parse(text)
        assert len(str(raised.value.entry())) < 500

    @given(st.text(alphabet=string.ascii_letters[:3] + "Z0._-/: ", max_size=12))
    def test_a_tag_is_accepted_exactly_when_the_specification_says_so(self, text: str) -> None:
        try:
            accepted = Tag.parse(text) == text
        except TagInvalid:
            accepted = False
        assert accepted is bool(SPECIFIED_TAG.fullmatch(text))
