"""HTML that is escaped by construction: text becomes markup only through the functions here.

There is no way to write markup but to call an element, and an element escapes whatever it is given that is no
`Html` already. Attributes that the browser would follow take addresses alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_FOLLOWED = frozenset({"href", "src", "action", "formaction"})
_VOID = frozenset({"input", "br", "meta", "link"})
_ADDRESS = re.compile(r"/(?![/\\])[^\\\s\x00-\x1f\x7f]*|https?://[^\s\\\x00-\x1f\x7f]+")


class Html(str):
    """Markup. Make it with `element`, never from text."""

    __slots__ = ()


Content = str | Iterable[str] | None  # what is no Html is text


def _markup(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return escape(content)
    return "".join(map(_markup, content))


def element(name: str, /, *content: Content, **attributes: str | bool | None) -> Html:
    """One element. Attributes that are None or False are left out; `class_` and `for_` are written so.

    Raises ValueError for a name that is none, and for an address that a browser must not follow.
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if not _NAME.fullmatch(key) or key.startswith("on") or key == "style":
            raise ValueError(f"not an attribute: {key}")
        if value is None or value is False:
            continue
        if value is True:
            parts.append(key)
            continue
        if key in _FOLLOWED and not _ADDRESS.fullmatch(value):
            raise ValueError(f"not an address to follow: {value!r}")
        parts.append(f'{key}="{escape(value)}"')
    if not _NAME.fullmatch(name) or name == "script":
        raise ValueError(f"not an element: {name}")
    opening = f"<{' '.join(parts)}>"
    return Html(opening if name in _VOID else f"{opening}{''.join(map(_markup, content))}</{name}>")


def fragment(*content: Content) -> Html:
    """Several pieces as one."""
    return Html("".join(map(_markup, content)))


def document(title: str, style: str, body: Html) -> bytes:
    """A whole page. *style* is the author's own text, never anybody else's."""
    head = fragment(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(style)),
    )
    page = element("html", element("head", head), element("body", body), lang="en")
    return b"<!DOCTYPE html>\n" + page.encode("utf-8", "replace")
