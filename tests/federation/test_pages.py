"""The pages: cookies, forms, what they send along, and how soon they end."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from registry import config
from registry.config import Settings
from registry.oci.errors import ConfigurationError
from registry.server import federation
from registry.server.index import sessions
from registry.server.index.engine import Transaction
from registry.server.web.ui.handlers import safe_next
from tests.federation.browser import Browser
from tests.federation.conftest import Browsers, MakeRegistry, client_of, server_at
from tests.federation.provider import Provider
from tests.federation.test_sign_in import person
from tests.support import oci
from tests.support.accounts import Registry
from tests.support.server import Server

PASSWORD = "correct horse battery"

PAGES = ["/login", "/account", "/login/start", "/login/callback"]


@pytest.fixture
def browser(corporate: Registry, browsers: Browsers, provider: Provider, who: str) -> Browser:
    """One in which somebody signed in with the provider, which costs no password's hash."""
    provider.control(user=person(who))
    made = browsers(corporate)
    assert made.sign_in().url.path == "/account"
    return made


@pytest.fixture
def local(corporate: Registry, browsers: Browsers, who: str) -> Browser:
    """One in which somebody with a password signed in."""
    corporate.user(who, PASSWORD)
    made = browsers(corporate)
    assert made.log_in(who, PASSWORD).url.path == "/account"
    return made


# --- what goes with each page


@pytest.mark.parametrize("path", [*PAGES, "/account/tokens/delete?id=<x>"])
def test_every_page_forbids_what_it_does_not_need(
    browser: Browser, browsers: Browsers, corporate: Registry, path: str
) -> None:
    for one in (browser, browsers(corporate)):
        answer = one.get(path, follow=False)

        policy = answer.headers.get("Content-Security-Policy", "")
        if answer.status_code == 405:
            assert answer.headers["Content-Type"] == "application/json"
            continue
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "same-origin"


def test_a_page_has_no_script_no_handler_and_loads_nothing(browser: Browser) -> None:
    browser.get("/account")
    for tag, attributes in browser.read().elements:
        assert tag not in ("script", "iframe", "img", "link", "object")
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")]


def test_cookies_are_out_of_reach_for_scripts_and_other_sites(corporate: Registry, browser: Browser) -> None:
    answers = [browser.get("/login/start", follow=False), *browser.http.get("/login").history]
    fresh = httpx.get(f"{corporate.server.url}/login", trust_env=False)
    for header in [line for answer in (*answers, fresh) for line in answer.headers.get_list("Set-Cookie")]:
        words = [word.strip() for word in header.split(";")]
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(words)
        assert not [word for word in words if word.lower().startswith("domain")]
    assert fresh.headers.get_list("Set-Cookie")


def test_under_tls_cookies_are_of_this_host_and_of_tls_alone(make_registry: MakeRegistry) -> None:
    registry = make_registry(
        server={"trusted_proxies": ["127.0.0.1"], "public_url": "https://registry.example.com"}
    )

    answer = httpx.get(f"{registry.server.url}/login", trust_env=False)

    [cookie] = answer.headers.get_list("Set-Cookie")
    assert cookie.startswith("__Host-hythe-form=")
    assert cookie.endswith("; Secure")


def test_the_index_knows_a_sessions_hash_alone(corporate: Registry, browser: Browser) -> None:
    secret = browser.http.cookies["hythe-session"]

    def everything(tx: Transaction) -> str:
        return str(tx.exec_driver_sql("SELECT * FROM session").all())

    assert len(secret) == 43
    assert secret not in corporate.look(everything)
    assert secret not in corporate.server.log()


def test_a_session_begins_with_a_secret_that_nobody_chose(
    corporate: Registry, browsers: Browsers, who: str, local: Browser
) -> None:
    fixed = "x" * 43
    victim = browsers(corporate)
    victim.http.cookies.set("hythe-session", fixed, "127.0.0.1", "/")

    victim.log_in(who, PASSWORD)

    assert "You are" in victim.text
    assert fixed not in [cookie.value for cookie in victim.http.cookies.jar]
    thief = browsers(corporate)
    thief.http.cookies.set("hythe-session", fixed)
    assert thief.get("/account").url.path == "/login"


@pytest.mark.parametrize("secret", ["", "x", "x" * 43, "x" * 5000, "../../x", "%00" * 14 + "x", '"quoted"'])
def test_a_cookie_that_is_none_of_ours_is_nobodys(corporate: Registry, secret: str) -> None:
    answer = httpx.get(
        f"{corporate.server.url}/account", headers={"Cookie": f"a=b; hythe-session={secret}; c"}, trust_env=False
    )

    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login?next=%2Faccount"


# --- how soon a session ends


def signed_in(browser: Browser) -> bool:
    return browser.get("/account").url.path == "/account"


def test_a_session_ends_at_once_when_its_account_is_locked_or_gone(
    corporate: Registry, local: Browser, who: str
) -> None:
    assert signed_in(local)
    corporate.do("user", "disable", who)
    assert not signed_in(local)
    corporate.do("user", "enable", who)
    assert not signed_in(local)  # what ended stays ended
    local.log_in(who, PASSWORD)
    assert signed_in(local)
    corporate.do("user", "remove", who)
    assert not signed_in(local)
    assert local.log_in(who, PASSWORD).status_code == 403


def test_a_new_password_ends_the_sessions_of_other_browsers_and_keeps_this_one(
    corporate: Registry, browsers: Browsers, local: Browser, who: str
) -> None:
    other = browsers(corporate)
    other.log_in(who, PASSWORD)
    old = local.http.cookies["hythe-session"]
    token = local.make_token()
    local.get("/account")

    local.submit("/account/password", password=PASSWORD, new="another good one", again="another good one")

    assert signed_in(local)
    assert local.http.cookies["hythe-session"] != old
    assert not signed_in(other)
    assert other.log_in(who, PASSWORD).status_code == 403
    other.log_in(who, "another good one")
    assert signed_in(other)
    assert corporate.ask_token((who, token)).status_code == 200
    assert corporate.audit(action="user.password", target=who)[0]["actor"] == who


def test_signing_out_ends_the_session_itself_and_not_the_cookie_alone(
    corporate: Registry, browsers: Browsers, browser: Browser
) -> None:
    kept = browser.http.cookies["hythe-session"]
    browser.get("/account")

    assert browser.submit("/account/sign-out").url.path == "/login"

    thief = browsers(corporate)
    thief.http.cookies.set("hythe-session", kept)
    assert not signed_in(thief)
    assert "session" not in " ".join(browser.cookie_names)


def test_signing_in_again_ends_what_was_there_before(
    corporate: Registry, browsers: Browsers, browser: Browser, provider: Provider, who: str
) -> None:
    before = browser.http.cookies["hythe-session"]
    provider.control(user=person(f"other-{who}"))

    browser.get("/login/start")

    assert f"You are other-{who}" in browser.text
    thief = browsers(corporate)
    thief.http.cookies.set("hythe-session", before)
    assert not signed_in(thief)


def test_a_session_ends_with_its_time(make_registry: MakeRegistry, browsers: Browsers) -> None:
    registry = make_registry()
    browser = browsers(registry)
    browser.log_in("admin", registry.password)
    assert signed_in(browser)

    def let_time_pass(tx: Transaction) -> None:
        tx.exec_driver_sql("UPDATE session SET expires_ms = 1")

    registry.change(let_time_pass)

    assert not signed_in(browser)
    registry.change(sessions.remove_expired)
    assert registry.look(lambda tx: tx.exec_driver_sql("SELECT count(*) FROM session").scalar()) == 0


def test_a_session_goes_on_when_the_server_starts_again(make_registry: MakeRegistry, browsers: Browsers) -> None:
    registry = make_registry()
    browser = browsers(registry)
    browser.log_in("admin", registry.password)

    registry.server.restart()

    assert signed_in(browser)


# --- forms


def forms_of(local: Browser) -> list[tuple[str, dict[str, str]]]:
    local.make_token("old")
    local.get("/account")
    return [(form.action, form.fields) for form in local.read().forms]


def test_every_form_of_another_site_is_refused_and_changes_nothing(
    corporate: Registry, browsers: Browsers, local: Browser, who: str
) -> None:
    stranger = browsers(corporate)
    stranger.get("/login")
    foreign = stranger.form("/login").fields["form_token"]
    found = forms_of(local)
    assert {action for action, _ in found} == {
        "/account/tokens",
        "/account/tokens/delete",
        "/account/password",
        "/account/sign-out",
    }
    wishes = {"label": "evil", "password": PASSWORD, "new": "of the attacker", "again": "of the attacker"}
    for action, fields in found:
        assert fields["form_token"]
        for token in (None, "", "x", foreign, fields["form_token"][:-1], fields["form_token"].upper()):
            values = {**fields, **wishes, "form_token": token}
            values = {name: value for name, value in values.items() if value is not None}
            answer = local.http.post(action, data=values)
            assert answer.status_code == 403, (action, token)
            assert "came from elsewhere" in answer.text

    assert signed_in(local)
    assert "evil" not in local.text
    assert local.text.count("old") == 1
    assert corporate.ask_token((who, PASSWORD)).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_browser_calls_another_sites_form_is_refused_even_with_our_proof(
    browser: Browser, site: str
) -> None:
    browser.get("/account")
    fields = browser.form("/account/sign-out").fields

    answer = browser.http.post("/account/sign-out", data=fields, headers={"Sec-Fetch-Site": site})

    assert answer.status_code == 403
    assert signed_in(browser)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data; boundary=x", ""])
def test_a_form_of_another_kind_is_refused(browser: Browser, kind: str) -> None:
    browser.get("/account")
    proof = browser.form("/account/sign-out").fields["form_token"]

    answer = browser.http.post(
        "/account/sign-out", content=f"form_token={proof}", headers={"Content-Type": kind} if kind else {}
    )

    assert answer.status_code == 403
    assert signed_in(browser)


def test_a_form_does_not_give_the_cookie_away(browser: Browser) -> None:
    browser.get("/account")

    assert browser.http.cookies["hythe-session"] not in browser.page.text


def test_the_login_form_needs_its_proof_too(corporate: Registry, browsers: Browsers, who: str) -> None:
    corporate.user(who, PASSWORD)
    attacker, victim = browsers(corporate), browsers(corporate)
    attacker.get("/login")
    fields = {**attacker.form("/login").fields, "name": who, "password": PASSWORD}

    for cookies in ({}, {"hythe-form": "x" * 43}, {"hythe-form": "short"}):
        victim.http.cookies.clear()
        victim.http.cookies.update(cookies)
        assert victim.http.post("/login", data=fields).status_code == 403
    assert not signed_in(victim)


def test_a_form_after_the_end_of_the_session_leads_to_the_door(browser: Browser) -> None:
    browser.get("/account")
    form = browser.form("/account/tokens").fields
    browser.http.cookies.clear()

    answer = browser.http.post("/account/tokens", data={**form, "label": "x"})

    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(browser: Browser, method: str) -> None:
    assert browser.http.request(method, "/account").status_code == 405


@pytest.mark.parametrize(
    "path", ["/account/tokens", "/account/tokens/delete", "/account/password", "/account/sign-out"]
)
def test_nothing_is_changed_by_a_get(browser: Browser, path: str) -> None:
    browser.get("/account")
    fields = browser.form("/account/tokens").fields

    assert browser.http.get(path, params={**fields, "label": "x"}).status_code == 405
    assert signed_in(browser)


# --- where one is sent


NEXT = [
    ("/account", "/account"),
    ("/", "/"),
    ("/v2/_catalog?n=5", "/v2/_catalog?n=5"),
    ("/a%2Fb", "/a%2Fb"),
    *((text, "/account") for text in ("", "account", "//evil.example", "///evil.example", "/\\evil.example")),
    *((text, "/account") for text in ("\\evil.example", "\\\\evil.example", "/a\\b", "/\t/evil.example")),
    *((text, "/account") for text in ("/\n/evil.example", "/\r\nSet-Cookie: a=b", "\t//evil.example", " //evil")),
    *((text, "/account") for text in ("https://evil.example", "https:evil.example", "javascript:alert(1)")),
    *((text, "/account") for text in ("data:text/html,x", "/é", "/a b", "/a\x00b", "/#//evil", "/<script>")),
    *((text, "/account") for text in ('/"onload="x', "/" + "a" * 600, "http:/evil.example", "@evil.example")),
]


@pytest.mark.parametrize(("text", "expected"), NEXT)
def test_one_is_sent_to_paths_of_this_site_alone(text: str, expected: str) -> None:
    assert safe_next(text) == expected


def test_no_door_leads_to_another_site(
    corporate: Registry, browsers: Browsers, local: Browser, provider: Provider, who: str
) -> None:
    provider.control(user=person(f"o-{who}"))
    for text, expected in NEXT:
        at_once = local.http.get("/login", params={"next": text}, follow_redirects=False)
        assert at_once.headers["Location"] == expected, text

    for text, expected in (("/\\evil.example", "/account"), ("//evil.example", "/account"), ("/v2/", "/v2/")):
        by_password, by_provider = browsers(corporate), browsers(corporate)
        by_password.get("/login")
        answer = by_password.submit("/login", follow=False, name=who, password=PASSWORD, next=text)
        assert answer.headers["Location"] == expected
        start = by_provider.http.get("/login/start", params={"next": text})
        back = by_provider.http.get(start.headers["Location"]).headers["Location"]
        assert by_provider.http.get(back).headers["Location"] == expected


def test_where_to_go_is_read_again_when_one_comes_back(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    """The cookie is the browser's, and somebody may have written into it."""
    provider.control(user=person(who))
    for kept in ("Ly9ldmlsLmV4YW1wbGU", "aHR0cHM6Ly9ldmls", "w6k", "%%%", ""):
        browser = browsers(corporate)
        start = browser.http.get("/login/start")
        back = browser.http.get(start.headers["Location"]).headers["Location"]
        secret = browser.http.cookies["hythe-attempt"].partition(".")[0]
        browser.http.cookies.clear()
        browser.http.cookies.set("hythe-attempt", f"{secret}.{kept}")
        assert browser.http.get(back).headers["Location"] == "/account"


# --- hostile text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'onfocus='alert(1)",
    "</style><script>x</script>",
    "&lt;b&gt;",
    "<!--",
    "${7*7}{{7*7}}",
    "javascript:alert(1)",
]


def shows_only_text(browser: Browser, hostile: str) -> None:
    reader = browser.read()
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "a", "form", "input", "button"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td", "code", "pre", "label", "select", "option", "div"}
    assert {tag for tag, _ in reader.elements} <= allowed
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert not (attributes.get("href") or "").startswith("javascript")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_somebody_typed_is_text_and_nothing_else(
    corporate: Registry, browsers: Browsers, browser: Browser, hostile: str
) -> None:
    browser.get("/account")
    browser.submit("/account/tokens", label=hostile)
    shows_only_text(browser, hostile)
    browser.get("/account")
    shows_only_text(browser, hostile)
    assert " ".join(hostile.split()) in browser.text

    door = browsers(corporate)
    door.get("/login?next=" + hostile)
    shows_only_text(door, hostile)
    door.submit("/login", name=hostile, password=hostile)
    shows_only_text(door, hostile)
    assert door.form("/login").fields["name"] == hostile


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_the_provider_says_is_text_and_nothing_else(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, hostile: str
) -> None:
    provider.control(
        user={"sub": hostile + who, "preferred_username": hostile, "groups": [hostile], "name": hostile}
    )
    browser = browsers(corporate)
    browser.sign_in()
    shows_only_text(browser, hostile)

    provider.control(
        user={"sub": hostile + who, "preferred_username": f"n-{who}-{len(hostile)}", "groups": [hostile]}
    )
    browser.sign_in()
    assert f"You are n-{who}" in browser.text
    shows_only_text(browser, hostile)


# --- name and password


def test_a_wrong_password_is_told_with_the_same_words_as_a_wrong_name(
    corporate: Registry, browsers: Browsers, who: str
) -> None:
    corporate.user(who, PASSWORD)
    said = []
    for name, password in ((who, "wrong password"), (f"nobody-{who}", PASSWORD), (who, ""), ("oidc", "x")):
        browser = browsers(corporate)
        assert browser.log_in(name, password).status_code == 403
        said.append(re.sub(r'value="[^"]*"', "", browser.page.text))
        assert "the name or the password is wrong" in browser.text
    assert len(set(said)) == 1


def test_a_token_opens_no_pages(corporate: Registry, browsers: Browsers, local: Browser, who: str) -> None:
    token = local.make_token(allow="pull:some/thing")
    other = browsers(corporate)

    assert other.log_in(who, token).status_code == 403
    assert "your password is asked for" in other.text
    assert not signed_in(other)
    local.get("/account")
    assert local.submit("/account/password", password=token, new="x" * 12, again="x" * 12).status_code == 400


def test_a_robot_has_no_pages(corporate: Registry, browsers: Browsers, who: str) -> None:
    name, token = corporate.robot(who)

    assert browsers(corporate).log_in(name, token).status_code == 403


def test_too_many_wrong_passwords_have_to_wait(corporate: Registry, browsers: Browsers, who: str) -> None:
    corporate.user(who, PASSWORD)
    browser = browsers(corporate)

    seen = [browser.log_in(who, f"wrong {n}").status_code for n in range(12)]

    assert seen[0] == 403
    assert seen[-1] == 429


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"password": "wrong"}, "the name or the password is wrong"),
        ({"again": "something else"}, "the two new passwords differ"),
        ({"new": "short", "again": "short"}, "at least 8 characters"),
        ({"new": "x" * 2000, "again": "x" * 2000}, "at most 1024 bytes"),
    ],
)
def test_a_password_that_cannot_be_changed_so_is_told_why(
    corporate: Registry, local: Browser, who: str, values: dict[str, str], sentence: str
) -> None:
    local.get("/account")
    right = {"password": PASSWORD, "new": "another good one", "again": "another good one"}

    answer = local.submit("/account/password", **{**right, **values})

    assert answer.status_code == 400
    assert sentence in local.text
    assert corporate.ask_token((who, PASSWORD)).status_code == 200


def test_whoever_signs_in_elsewhere_has_no_password_here_to_change(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browser = browsers(corporate)
    browser.sign_in()
    assert "/account/password" not in [form.action for form in browser.read().forms]
    fields = browser.form("/account/sign-out").fields

    answer = browser.http.post(
        "/account/password", data={**fields, "password": "", "new": "x" * 12, "again": "x" * 12}
    )

    assert answer.status_code == 400
    assert corporate.account(who).password_hash is None
    assert browsers(corporate).log_in(who, "x" * 12).status_code == 403


# --- tokens


def test_a_token_of_the_page_is_the_password_of_docker_login(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who, "devs"))
    browser = browsers(corporate)
    browser.sign_in()

    token = browser.make_token("laptop", days="30")

    assert f"docker login -u {who} {corporate.host}" in browser.text
    challenge = corporate.client().get("/v2/")
    assert challenge.status_code == 401
    access = corporate.token((who, token), "repository:platform/web:pull,push")
    assert corporate.client(access).get("/v2/").status_code == 200
    assert corporate.client(access).post(oci.uploads_path("platform/web")).status_code == 202
    browser.get("/account")
    assert token not in browser.page.text
    assert "laptop" in browser.text
    assert corporate.audit(action="token.add", actor=who)


def test_a_token_is_deleted_at_once_and_nobody_deletes_anothers(
    corporate: Registry, browsers: Browsers, browser: Browser, provider: Provider, who: str
) -> None:
    token = browser.make_token()
    other = browsers(corporate)
    provider.control(user=person(f"other-{who}"))
    other.sign_in()
    other.make_token()
    other.get("/account")
    assert other.submit("/account/tokens/delete", id=token.split("_")[1]).status_code == 400
    assert "has no token" in other.text
    assert corporate.ask_token((who, token)).status_code == 200

    browser.get("/account")
    browser.submit("/account/tokens/delete")

    assert corporate.ask_token((who, token)).status_code == 401
    assert "You have no tokens" in browser.text


def test_a_token_is_confined_to_what_the_form_says(corporate: Registry, browser: Browser, who: str) -> None:
    corporate.grant(f"user:{who}", "pull,push", f"{who}/*")
    token = browser.make_token(allow=f"pull:{who}/* pull:other/x")
    client = corporate.client((who, token))

    assert client.get(oci.tags_path(f"{who}/a")).status_code == 404
    assert client.post(oci.uploads_path(f"{who}/a")).status_code == 403
    assert client.get(oci.tags_path("other/x")).status_code == 403  # no more than the account itself
    browser.get("/account")
    assert f"pull:{who}/*" in browser.text


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"label": ""}, "a token needs a name"),
        ({"label": "x" * 101}, "a token needs a name"),
        ({"label": "a\nb\x00"}, "a token needs a name"),
        ({"label": "x", "days": "1e9"}, "no time after which"),
        ({"label": "x", "days": "-1"}, "no time after which"),
        ({"label": "x", "allow": "everything"}, "is no limit"),
        ({"label": "x", "allow": "fly:team/*"}, "is no action"),
        ({"label": "x", "allow": "pull:Team/<b>"}, "no repository pattern"),
    ],
)
def test_a_token_that_cannot_be_made_is_told_why(browser: Browser, values: dict[str, str], sentence: str) -> None:
    browser.get("/account")

    answer = browser.submit("/account/tokens", **values)

    assert answer.status_code == 400
    assert sentence in browser.text
    assert "You have no tokens" in browser.text


def test_the_pages_are_as_quick_for_somebody_unknown(corporate: Registry, browsers: Browsers, who: str) -> None:
    """A wrong name costs a password's hash too."""
    corporate.user(who, PASSWORD)

    def seconds(name: str) -> float:
        browser = browsers(corporate)
        browser.get("/login")
        began = time.perf_counter()
        browser.submit("/login", name=name, password="wrong password")
        return time.perf_counter() - began

    known = sorted(seconds(who) for _ in range(3))[1]
    unknown = sorted(seconds(f"nobody-{who}") for _ in range(3))[1]

    assert unknown > known / 3


def test_a_registry_without_accounts_has_no_pages(make_server: Any) -> None:
    server = make_server()

    for path in PAGES:
        assert httpx.get(f"{server.url}{path}", trust_env=False).status_code == 404


def test_settings_of_the_provider_that_cannot_work_are_told_at_the_start(
    provider: Provider, tmp_path: Path
) -> None:
    table = [
        ({"issuer": "http://login.example.com"}, r"accounts\.oidc\.issuer.*https"),
        ({"groups": {"devs": "platform"}}, "platform:member or platform:maintainer is expected"),
        ({"groups": {"devs": "Platform Team:member"}}, "cannot name a team"),
        ({"client_secret": "", "client_secret_file": str(tmp_path / "absent")}, "client_secret_file"),
    ]
    for settings, sentence in table:
        with pytest.raises(ConfigurationError, match=sentence):
            federation.check(settings_of(server_at(tmp_path, oidc=client_of(provider, **settings))))
    federation.check(settings_of(server_at(tmp_path, oidc=client_of(provider))))


def settings_of(server: Server) -> Settings:
    """What a server would start with."""
    file = server.directory / "config.yaml"
    file.write_text(yaml.safe_dump(server.settings))
    return config.load(file, {})
