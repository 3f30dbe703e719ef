"""What the pages look like: from values to HTML, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from registry.server.auth.caller import ACTIONS
from registry.server.index.accounts import Account
from registry.server.index.credentials import Credential
from registry.server.web.ui.html import Content, Html, document, element, fragment

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:52rem;padding:1.5rem;color:#1c1c1c}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;"
    "border-bottom:1px solid #ddd;overflow-wrap:anywhere}"
    "label{display:block;margin:.6rem 0 .2rem}input,select{font:inherit;padding:.3rem .5rem;max-width:100%}"
    "input[type=text],input[type=password]{width:22rem}"
    "button,.button{display:inline-block;font:inherit;padding:.35rem 1rem;margin:.8rem 0 0;border:1px solid #333;"
    "border-radius:.3rem;background:#fff;color:#1c1c1c;text-decoration:none;cursor:pointer}"
    "td button{margin:0;padding:.1rem .6rem}"
    "code,pre{background:#f3f3f3;padding:.1rem .3rem;overflow-wrap:anywhere;white-space:pre-wrap}"
    ".note{border-left:4px solid #b25000;padding:.2rem .8rem;background:#fff6ec}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}button,.button{background:#222;"
    "color:#eee;border-color:#999}code,pre{background:#2a2a2a}.note{background:#2b2117}th,td{border-color:#444}"
    "input,select{background:#222;color:#eee;border:1px solid #777}}"
)
# Nothing is loaded, run, framed or sent anywhere else; the style is this one text alone.
POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
LIFETIMES = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "a year", "": "until it is deleted"}


@dataclass(frozen=True, slots=True)
class AccountView:
    """What /account shows."""

    account: Account
    places: Sequence[tuple[str, str, str]]
    tokens: Sequence[Credential]
    form_token: str
    host: str


def login_page(title: str | None, next_path: str, form_token: str, note: str = "", name: str = "") -> bytes:
    """The door: a way to the identity provider, when there is one, and name and password."""
    provider = None
    if title is not None:
        address = f"/login/start?next={quote(next_path, safe='')}"
        provider = element("p", element("a", f"Sign in with {title}", href=address, class_="button"))
    form = _form(
        "/login",
        form_token,
        element("input", type="hidden", name="next", value=next_path),
        _field("name", "Name", value=name, autocomplete="username", autocapitalize="none"),
        _field("password", "Password", type_="password", autocomplete="current-password"),
        element("div", element("button", "Sign in")),
    )
    return _page("Sign in", _note(note), provider, element("h2", "With a name and a password"), form)


def account_page(view: AccountView, note: str = "") -> bytes:
    """Who I am, my teams, my tokens, my password."""
    account = view.account
    return _page(
        f"You are {account.name}",
        _note(note),
        element("p", _who(account)),
        element("h2", "Teams"),
        _teams(view.places),
        element("h2", "Tokens"),
        element("p", "A token is a password for one machine: ", element("code", _login_line(view.host, account))),
        _tokens(view),
        _new_token(view.form_token),
        _password(view.form_token) if account.origin == "local" else None,
        element("h2", "Leave"),
        _form("/account/sign-out", view.form_token, element("button", "Sign out")),
    )


def token_page(account: Account, host: str, token: str, label: str) -> bytes:
    """A new token, this once."""
    return _page(
        "A new token",
        element("p", f"This is the token {label!r}. It is shown this once; keep it where only you can read it."),
        element("pre", element("code", token)),
        element("p", "It is the password of ", element("code", _login_line(host, account))),
        element("p", element("a", "Back", href="/account", class_="button")),
    )


def message_page(title: str, sentence: str, way_on: tuple[str, str] = ("Back to the sign-in", "/login")) -> bytes:
    """A page that says one thing."""
    words, address = way_on
    return _page(title, element("p", sentence), element("p", element("a", words, href=address, class_="button")))


def _page(title: str, *content: Content) -> bytes:
    return document(f"{title} · Hythe", STYLE, fragment(element("h1", title), *content))


def _note(text: str) -> Html | None:
    return element("p", text, class_="note", role="status") if text else None


def _form(action: str, form_token: str, *content: Content) -> Html:
    """A form with what proves that it came from a page of ours."""
    proof = element("input", type="hidden", name="form_token", value=form_token)
    return element("form", proof, *content, method="post", action=action)


def _field(
    name: str,
    label: str,
    type_: str = "text",
    value: str = "",
    autocomplete: str = "off",
    autocapitalize: str | None = None,
    is_required: bool = True,
    placeholder: str | None = None,
) -> Html:
    return fragment(
        element("label", label, for_=name),
        element(
            "input",
            type=type_,
            id=name,
            name=name,
            value=value or None,
            autocomplete=autocomplete,
            autocapitalize=autocapitalize,
            placeholder=placeholder,
            required=is_required,
        ),
    )


def _who(account: Account) -> str:
    ways = {"local": "with a password of this registry", "htpasswd": "with a password of the htpasswd file"}
    way = ways.get(account.origin, "through the identity provider")
    return f"You sign in {way}." + (" You are an administrator." if account.is_admin else "")


def _login_line(host: str, account: Account) -> str:
    return f"docker login -u {account.name} {host}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[Content]]) -> Html:
    return element(
        "table",
        element("thead", element("tr", [element("th", heading) for heading in headings])),
        element("tbody", [element("tr", [element("td", cell) for cell in row]) for row in rows]),
    )


def _teams(places: Sequence[tuple[str, str, str]]) -> Html:
    if not places:
        return element("p", "You are in no team.")
    words = {"oidc": "the identity provider", "local": "an administrator"}
    rows = [(team, f"{team}/*", role, words.get(origin, origin)) for team, role, origin in places]
    return _table(("Team", "Repositories", "Role", "From"), rows)


def _tokens(view: AccountView) -> Html:
    if not view.tokens:
        return element("p", "You have no tokens.")
    rows = [
        (
            one.label,
            _limits(one),
            _day(one.created_ms),
            "never" if one.expires_ms is None else _day(one.expires_ms),
            "never" if one.used_ms is None else _day(one.used_ms),
            _form(
                "/account/tokens/delete",
                view.form_token,
                element("input", type="hidden", name="id", value=one.id),
                element("button", "Delete"),
            ),
        )
        for one in view.tokens
    ]
    return _table(("Name", "Allows", "Made", "Expires", "Used", ""), rows)


def _limits(one: Credential) -> str:
    words = [
        f"{','.join(action for action in ACTIONS if action in limit.actions)}:{limit.pattern}"
        for limit in one.limits
    ]
    return " ".join(words) or "all that you may"


def _day(moment_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(moment_ms / 1000))


def _new_token(form_token: str) -> Html:
    options = [element("option", words, value=days, selected=days == "90") for days, words in LIFETIMES.items()]
    return _form(
        "/account/tokens",
        form_token,
        _field("label", "A name for a new token", placeholder="laptop"),
        element("label", "It expires after", for_="days"),
        element("select", options, id="days", name="days"),
        _field(
            "allow",
            "It allows only (empty: all that you may)",
            is_required=False,
            placeholder="pull:team/* pull,push:team/web",
        ),
        element("div", element("button", "Make a token")),
    )


def _password(form_token: str) -> Html:
    return fragment(
        element("h2", "Password"),
        _form(
            "/account/password",
            form_token,
            _field("password", "The present one", type_="password", autocomplete="current-password"),
            _field("new", "The new one", type_="password", autocomplete="new-password"),
            _field("again", "The new one again", type_="password", autocomplete="new-password"),
            element("div", element("button", "Change it")),
        ),
    )
