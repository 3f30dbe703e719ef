"""What a browser does, without the pixels: follows redirects, keeps cookies, fills in forms that a page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx


@dataclass
class Form:
    """A form of a page, with the values that it came with."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._link = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag == "form":
            self.forms.append(Form(found.get("action") or "", found.get("method") or "get"))
        elif tag == "input" and self.forms:
            self.forms[-1].fields[found.get("name") or ""] = found.get("value") or ""
        elif tag == "a":
            self._link = found.get("href") or ""

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._link:
            self.links[data] = self._link

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._link = ""


class Browser:
    """One browser at one registry. `page` is what it shows now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.page = httpx.Response(204)

    def close(self) -> None:
        """Close its connections."""
        self.http.close()

    def get(self, path: str, follow: bool = True) -> httpx.Response:
        """Go to an address."""
        self.page = self.http.get(path, follow_redirects=follow)
        return self.page

    def read(self) -> _Reader:
        """The page, parsed."""
        reader = _Reader()
        reader.feed(self.page.text)
        return reader

    @property
    def text(self) -> str:
        """The page's words."""
        return " ".join(" ".join(self.read().words).split())

    def form(self, action: str) -> Form:
        """The first form of the page that goes there."""
        return next(form for form in self.read().forms if form.action == action)

    def submit(self, action: str, follow: bool = True, **values: str) -> httpx.Response:
        """Fill in and send a form of this page."""
        form = self.form(action)
        assert form.method == "post"
        address = urljoin(str(self.page.url), form.action)
        self.page = self.http.post(address, data={**form.fields, **values}, follow_redirects=follow)
        return self.page

    def sign_in(self, next_path: str = "/account") -> httpx.Response:
        """Sign in through the provider, as its button does."""
        self.get(f"/login?next={next_path}")
        return self.get(
            next(link for words, link in self.read().links.items() if words.startswith("Sign in with"))
        )

    def log_in(self, name: str, password: str) -> httpx.Response:
        """Sign in with a name and a password."""
        self.get("/login")
        return self.submit("/login", name=name, password=password)

    def make_token(self, label: str = "laptop", **values: str) -> str:
        """Make a token on /account and read it."""
        self.get("/account")
        self.submit("/account/tokens", label=label, **values)
        return next(word for word in self.text.split() if word.startswith("hyt_"))

    @property
    def cookie_names(self) -> set[str]:
        """What it keeps of this site."""
        return {cookie.name for cookie in self.http.cookies.jar}
