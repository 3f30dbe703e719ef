"""HTML that is escaped by construction."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.server.web.ui.html import Html, document, element, fragment


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


hostile = st.text(alphabet=st.sampled_from("<>\"'&;/=!- abscriptonx\n\x00"), max_size=60)


@given(hostile)
def test_text_stays_text_wherever_it_stands(text: str) -> None:
    page = element("p", text, [text, element("b", text)], class_=text, title=text)

    reader = read(page)

    assert reader.tags == ["p", "b"]
    assert [name for name, _ in reader.attributes] == ["class", "title"]
    assert [value for _, value in reader.attributes] == [text, text]
    assert reader.text == text * 3


def test_only_what_an_element_made_is_markup() -> None:
    inner = element("b", "x")

    assert element("p", inner) == "<p><b>x</b></p>"
    assert element("p", str(inner)) != element("p", inner)
    assert element("p", f"{inner}") == "<p>&lt;b&gt;x&lt;/b&gt;</p>"
    assert element("p", inner + inner) == "<p>&lt;b&gt;x&lt;/b&gt;&lt;b&gt;x&lt;/b&gt;</p>"  # made by nobody
    assert fragment(inner, "<", None) == "<b>x</b>&lt;"
    assert isinstance(fragment("<"), Html)


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "//evil.example",
        "/\\evil.example",
        "data:text/html,x",
        "",
        "x",
        " /a",
        "/a\nb",
        "http:",
    ],
)
def test_an_address_that_must_not_be_followed_is_a_mistake(address: str) -> None:
    for name in ("href", "action", "src", "formaction"):
        with pytest.raises(ValueError, match="not an address"):
            element("a", "x", **{name: address})


@pytest.mark.parametrize("name", ["onclick", "onfocus", "style", "a b", "a=b", "A"])
def test_an_attribute_that_runs_something_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="not an attribute"):
        element("p", **{name: "x"})


@pytest.mark.parametrize("name", ["script", "p onclick", "P", "", "p/"])
def test_an_element_that_runs_something_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="not an element"):
        element(name, "x")


def test_a_page_can_hold_any_text() -> None:
    page = document("\ud800 & <", "p{}", element("p", "\ud800"))

    assert page.startswith(b"<!DOCTYPE html>\n")
    assert b"<title>? &amp; &lt;</title>" in page
