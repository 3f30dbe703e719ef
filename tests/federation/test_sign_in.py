"""Signing in with a company's identity provider: whose account it is, and what comes with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from registry.oci.errors import Unavailable
from registry.server.index import teams
from registry.server.service.oidc import Attempt
from registry.server.service.oidc import Provider as OidcProvider
from registry.transfer.fetch import Fetcher
from tests.federation.conftest import Browsers, MakeRegistry, client_of
from tests.federation.provider import CLIENT_ID, CLIENT_SECRET, FORGERIES, Provider
from tests.support import oci
from tests.support.accounts import Registry, authorization


def person(name: str, *groups: str, **more: Any) -> dict[str, Any]:
    return {"sub": f"sub-{name}", "preferred_username": name, "groups": list(groups), **more}


def places(registry: Registry, name: str) -> list[tuple[str, str, str]]:
    return registry.look(teams.of, registry.account(name).id)


# --- whose account it is


def test_whoever_the_provider_knows_gets_an_account_at_the_first_time_and_finds_it_again(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who, "devs"))
    first, second = browsers(corporate), browsers(corporate)

    page = first.sign_in()
    assert (page.status_code, page.url.path) == (200, "/account")
    assert f"You are {who}" in first.text
    assert "platform platform/* member the identity provider" in first.text
    account = corporate.account(who)
    assert account.origin.startswith("oidc:")
    assert account.password_hash is None

    second.sign_in()
    assert f"You are {who}" in second.text
    assert corporate.account(who).id == account.id
    assert [entry["target"] for entry in corporate.audit(action="user.add", target=who)] == [who]
    assert len(corporate.audit(action="sign-in", target=who)) == 2


def test_an_account_is_found_by_its_subject_whatever_its_name_is_now(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browsers(corporate).sign_in()
    provider.control(user=person(who) | {"preferred_username": "married-" + who})
    browser = browsers(corporate)

    browser.sign_in()

    assert f"You are {who}" in browser.text


def test_a_name_that_a_local_account_has_is_never_taken_over(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    corporate.user(who, "correct horse")
    before = corporate.account(who)
    provider.control(user=person(who.upper(), "admins", "devs"))
    browser = browsers(corporate)

    page = browser.sign_in()

    assert page.status_code == 403
    assert f"There is an account '{who}' here already that is not yours to sign in to" in browser.text
    assert browser.get("/account").url.path == "/login"
    assert corporate.account(who) == before
    assert places(corporate, who) == []
    [entry] = corporate.audit(action="sign-in", target=who, result="denied")
    assert entry["detail"] == {"subject": f"sub-{who.upper()}"}


def test_two_people_of_the_provider_with_one_name_are_two(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browsers(corporate).sign_in()
    provider.control(user=person(who) | {"sub": "somebody else"})

    assert browsers(corporate).sign_in().status_code == 403


def test_the_name_of_an_account_that_is_gone_brings_nothing_of_it_back(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browser = browsers(corporate)
    browser.sign_in()
    token = browser.make_token()
    corporate.grant(f"user:{who}", "pull", "secret/*")
    corporate.do("user", "remove", who)
    assert browser.get("/account").url.path == "/login"

    provider.control(user=person(who) | {"sub": "a successor"})
    successor = browsers(corporate)
    successor.sign_in()

    assert f"You are {who}" in successor.text
    assert "You have no tokens" in successor.text
    assert corporate.ask_token((who, token)).status_code == 401
    assert "no: no grant allows it" in corporate.run("may", who, "pull", "secret/x").out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (None, "does not say your name"),
        ("", "does not say your name"),
        (7, "does not say your name"),
        ("token", "cannot be a name here"),
        ("oidc", "cannot be a name here"),
        ("a b", "cannot be a name here"),
        ("<script>alert(1)</script>", "cannot be a name here"),
        ("ci:web", "cannot be a name here"),
        ("x" * 300, "cannot be a name here"),
        ("\ud800", "cannot be a name here"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_a_sentence(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, name: object, sentence: str
) -> None:
    provider.control(user={"sub": f"sub-{who}", "preferred_username": name})
    browser = browsers(corporate)

    page = browser.sign_in()

    assert page.status_code == 403
    assert sentence in browser.text
    assert [tag for tag, _ in browser.read().elements if tag == "script"] == []


def test_an_address_that_nobody_verified_is_no_name(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    registry = make_registry(oidc=client_of(provider, username_claim="email"))
    provider.control(user={"sub": "1", "email": "boss@example.com", "email_verified": False})
    assert browsers(registry).sign_in().status_code == 403

    provider.control(user={"sub": "2", "email": "bob@example.com", "email_verified": True})
    browser = browsers(registry)
    browser.sign_in()

    assert "You are bob@example.com" in browser.text


# --- groups


def test_groups_are_teams_and_what_is_no_longer_listed_is_taken_back_at_the_next_sign_in(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    def sign_in(*groups: str) -> list[tuple[str, str, str]]:
        provider.control(user=person(who, *groups))
        assert browsers(corporate).sign_in().status_code == 200
        return places(corporate, who)

    assert sign_in("devs", "unknown") == [("platform", "member", "oidc")]
    assert sign_in("devs", "leads", "docs") == [("docs", "member", "oidc"), ("platform", "maintainer", "oidc")]
    assert sign_in("docs", "devs") == [("docs", "member", "oidc"), ("platform", "member", "oidc")]
    assert sign_in() == []
    changes = [entry["action"] for entry in corporate.audit(actor=who) if entry["action"].startswith("team.")]
    assert changes.count("team.leave") == 2


def test_rights_that_went_with_a_group_are_gone_at_once_for_tokens_made_before(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who, "devs"))
    browser = browsers(corporate)
    browser.sign_in()
    token = browser.make_token()
    access = corporate.token((who, token), "repository:platform/web:pull,push")
    path = oci.tags_path("platform/web")
    asked = [authorization((who, token)), authorization(access)]
    assert [corporate.client().get(path, headers=one).status_code for one in asked] == [404, 404]

    provider.control(user=person(who))
    browsers(corporate).sign_in()

    assert [corporate.client().get(path, headers=one).status_code for one in asked] == [403, 401]


@pytest.mark.parametrize("groups", ["devs", ["devs"], ["devs", 7, None, {"a": 1}, ["docs"]]])
def test_groups_may_be_one_or_a_list_and_what_is_no_name_is_passed_over(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, groups: object
) -> None:
    name = f"{who}-{len(str(groups))}"
    provider.control(user={"sub": name, "preferred_username": name, "groups": groups})

    browsers(corporate).sign_in()

    assert places(corporate, name) == [("platform", "member", "oidc")]


@pytest.mark.parametrize("groups", [None, 7, {"devs": True}, "devs leads", [["devs"]]])
def test_groups_of_another_form_are_none(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, groups: object
) -> None:
    name = f"{who}-{len(str(groups))}"
    provider.control(user={"sub": name, "preferred_username": name, "groups": groups})

    browsers(corporate).sign_in()

    assert places(corporate, name) == []


def test_a_membership_that_an_administrator_made_stays_as_it_is(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who, "docs"))
    browsers(corporate).sign_in()
    corporate.do("team", "add", f"team-{who}")
    corporate.do("team", "join", f"team-{who}", who, "--role", "maintainer")
    corporate.do("team", "join", "docs", who, "--role", "maintainer")

    provider.control(user=person(who))
    browsers(corporate).sign_in()

    assert places(corporate, who) == [("docs", "maintainer", "local"), (f"team-{who}", "maintainer", "local")]


# --- administrators


def test_an_administrator_of_the_group_is_none_any_more_when_they_leave_it(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who, "admins"))
    before = browsers(corporate)
    before.sign_in()
    assert "You are an administrator" in before.text
    token = before.make_token()
    assert corporate.client((who, token)).get(oci.tags_path("any/thing")).status_code == 404

    provider.control(user=person(who))
    after = browsers(corporate)
    after.sign_in()

    assert "You are an administrator" not in after.text
    assert not corporate.account(who).is_admin
    assert before.get("/account").url.path == "/login"  # a session of then has ended
    assert corporate.client((who, token)).get(oci.tags_path("any/thing")).status_code == 403


def test_an_administrator_whom_a_person_made_is_not_unmade_by_the_provider(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browsers(corporate).sign_in()
    corporate.do("user", "promote", who)

    browsers(corporate).sign_in()

    assert corporate.account(who).is_admin


def test_without_an_admin_group_any_more_those_whom_it_made_are_unmade(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    registry = make_registry(oidc=client_of(provider, admin_group="admins"))
    provider.control(user=person("alice", "admins"))
    browsers(registry).sign_in()
    assert registry.account("alice").is_admin
    registry.server.settings["accounts"]["oidc"]["admin_group"] = ""
    registry.server.restart()

    browsers(registry).sign_in()

    assert not registry.account("alice").is_admin


# --- who may come in


def test_whoever_leaves_the_allowed_groups_is_locked_out_with_their_tokens_until_they_are_back(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    oidc = client_of(provider, allowed_groups=["staff"], groups={"devs": "web:member"}, admin_group="admins")
    registry = make_registry(oidc=oidc)
    provider.control(user=person("stranger"))
    assert browsers(registry).sign_in().status_code == 403
    assert registry.run("may", "stranger", "pull", "x").err  # there is no such account

    provider.control(user=person("alice", "staff", "devs", "admins"))
    browser = browsers(registry)
    browser.sign_in()
    token = browser.make_token()

    provider.control(user=person("alice", "devs", "admins"))
    refused = browsers(registry)
    assert refused.sign_in().status_code == 403
    assert "your groups at the identity provider do not let you in" in refused.text.lower()
    assert browser.get("/account").url.path == "/login"
    assert registry.ask_token(("alice", token)).status_code == 401
    assert not registry.account("alice").enabled
    assert not registry.account("alice").is_admin
    assert places(registry, "alice") == []

    provider.control(user=person("alice", "staff"))
    browser.sign_in()
    assert "You are alice" in browser.text
    assert registry.ask_token(("alice", token)).status_code == 200
    assert not registry.account("alice").is_admin


def test_an_account_that_an_administrator_locked_is_not_opened_by_the_provider(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browser = browsers(corporate)
    browser.sign_in()

    corporate.do("user", "disable", who)

    assert browser.get("/account").url.path == "/login"
    again = browsers(corporate)
    assert again.sign_in().status_code == 403
    assert f"The account '{who}' is locked" in again.text
    corporate.do("user", "enable", who)
    assert again.sign_in().status_code == 200


def test_whoever_does_not_sign_in_any_more_is_locked_out_and_let_in_again_when_they_do(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    oidc = client_of(provider, sign_in_every_days=2 / 86_400, groups={"devs": "web:member"})
    registry = make_registry(oidc=oidc)
    provider.control(user=person("alice", "devs"))
    browser = browsers(registry)
    browser.sign_in()
    token = browser.make_token()

    deadline = time.monotonic() + 30
    while registry.ask_token(("alice", token)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert places(registry, "alice") == []
    assert registry.account("admin").enabled
    assert registry.audit(action="account.lapse", target="alice")
    browser.sign_in()
    assert registry.ask_token(("alice", token)).status_code == 200


# --- what the provider's tokens say


@pytest.mark.parametrize(
    "how",
    [
        *(how for how in FORGERIES if how != "not_yet"),
        *("not_yet", "wrong_nonce", "no_nonce", "aud_and_others", "given_to_another", "empty_sub"),
        *("sub_as_number", "sub_with_control", "sub_surrogate", "long_sub", "without_sub"),
    ],
)
def test_an_identity_token_that_is_wrong_in_one_way_lets_nobody_in(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, how: str
) -> None:
    provider.control(user=person(who, "admins"), id_token=how)
    browser = browsers(corporate)

    page = browser.sign_in()

    assert page.status_code == 403, how
    assert "Signing in did not work" in browser.text
    assert "session" not in " ".join(browser.cookie_names)
    assert browser.get("/account").url.path == "/login"
    assert who not in corporate.do("user", "list")


@pytest.mark.parametrize("how", ["aud_list", "aud_and_others_given_to_us"])
def test_an_identity_token_for_others_too_is_good_when_it_was_given_to_us(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, how: str
) -> None:
    provider.control(user=person(f"{who}-{how.replace('_', '-')}"), id_token=how)

    assert browsers(corporate).sign_in().url.path == "/account"


def test_claims_that_the_token_lacks_are_asked_for_and_must_be_of_the_same_person(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who, "devs"), in_userinfo=["groups", "preferred_username"])
    browser = browsers(corporate)
    browser.sign_in()
    assert f"You are {who}" in browser.text
    assert places(corporate, who) == [("platform", "member", "oidc")]

    provider.control(userinfo_subject="somebody else")
    other = browsers(corporate)

    assert other.sign_in().status_code == 403


def test_the_keys_may_change_and_old_ones_stop_to_hold(
    make_registry: MakeRegistry, browsers: Browsers, rotating: Provider
) -> None:
    registry = make_registry(oidc=client_of(rotating))
    rotating.control(user=person("alice"), rotate="RS256")
    assert browsers(registry).sign_in().status_code == 200

    for algorithm in ("ES256",):
        rotating.control(rotate=algorithm)
        assert browsers(registry).sign_in().status_code == 200

    asked = rotating.hits("/keys")
    rotating.control(rotate="EdDSA")  # within a minute nobody makes us ask again
    assert [browsers(registry).sign_in().status_code for _ in range(3)] == [403, 403, 403]
    assert rotating.hits("/keys") == asked


def test_a_provider_may_want_the_secret_in_the_form(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    provider.control(user=person("alice"), auth="client_secret_post")

    assert browsers(make_registry(oidc=client_of(provider))).sign_in().status_code == 200


def test_a_wrong_client_secret_is_told_to_the_log_and_not_to_the_person(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    registry = make_registry(oidc=client_of(provider, client_secret="wrong-secret"))
    browser = browsers(registry)

    assert browser.sign_in().status_code == 403
    assert "Signing in did not work" in browser.text
    assert "invalid_client" not in browser.text
    [event] = [event for event in registry.server.events() if event["event"] == "signin.failed"]
    assert "invalid_client" in event["reason"]
    assert "wrong-secret" not in registry.server.log()


def test_a_client_secret_may_lie_in_a_file(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider, tmp_path: Any
) -> None:
    chosen = client_of(provider)
    secret = tmp_path / "secret"
    secret.write_text(chosen.pop("client_secret") + "\n")
    provider.control(user=person("alice"))

    registry = make_registry(oidc={**chosen, "client_secret_file": str(secret)})

    assert browsers(registry).sign_in().status_code == 200


def test_a_provider_that_does_not_answer_lets_nobody_in_and_leaves_the_local_way(
    make_registry: MakeRegistry, browsers: Browsers, provider: Provider
) -> None:
    provider.control(user=person("alice"), keys_answer="gone")
    registry = make_registry(oidc=client_of(provider))
    browser = browsers(registry)

    assert browser.sign_in().status_code == 503
    assert "Retry-After" in browser.page.headers
    assert "cannot be asked now" in browser.text
    browser.log_in("admin", registry.password)
    assert "You are admin" in browser.text


async def finish(provider: Provider) -> Mapping[str, Any]:
    """What the registry makes of the provider's answers, without a registry around it."""
    here = OidcProvider(
        provider.url, Fetcher(provider.url, seconds=3.0), CLIENT_ID, CLIENT_SECRET, ("openid", "profile")
    )
    attempt, back = Attempt.new(), "http://127.0.0.1/login/callback"
    address = await here.address(attempt, back)
    answer = await asyncio.to_thread(httpx.get, address, trust_env=False)
    code = parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]
    return await here.finish(attempt, code, back, ("preferred_username",))


def test_the_registry_understands_a_provider_that_behaves(provider: Provider) -> None:
    assert asyncio.run(finish(provider))["preferred_username"] == "alice"


@pytest.mark.parametrize("how", ["redirect", "huge", "slow", "compressed", "nested", "symmetric", "gone"])
def test_keys_that_cannot_be_had_let_nobody_in(provider: Provider, how: str) -> None:
    provider.control(keys_answer=how)
    elsewhere, began = provider.hits("/elsewhere"), time.monotonic()

    with pytest.raises(Unavailable):
        asyncio.run(finish(provider))

    assert time.monotonic() - began < 15
    assert provider.hits("/elsewhere") == elsewhere


@pytest.mark.parametrize(
    "description",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": "http://127.0.0.2:1/keys"},
        {"jwks_uri": "http://169.254.169.254/latest/meta-data"},
        {"jwks_uri": "file:///etc/passwd"},
        {"token_endpoint": "http://evil.example/token"},
        {"token_endpoint": "http://user:password@127.0.0.1/token"},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "//evil.example/authorize"},
    ],
)
def test_a_description_that_names_other_hosts_is_not_followed(
    provider: Provider, description: dict[str, Any]
) -> None:
    provider.control(description=description)

    with pytest.raises(Unavailable):
        asyncio.run(finish(provider))


def test_the_way_back_goes_to_the_public_address_whatever_the_request_says(
    corporate: Registry, browsers: Browsers, provider: Provider
) -> None:
    browser = browsers(corporate)
    browser.http.headers["Host"] = "evil.example"
    browser.http.headers["X-Forwarded-Host"] = "evil.example"

    page = browser.get("/login/start", follow=False)

    assert "evil.example" not in page.headers["Location"]
    assert page.headers["Location"].startswith(f"{provider.url}/authorize?")


# --- the way there and back


def test_an_answer_without_this_browsers_state_lets_nobody_in(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    attacker, victim = browsers(corporate), browsers(corporate)
    start = attacker.get("/login/start", follow=False)
    answer = attacker.http.get(start.headers["Location"], follow_redirects=False).headers["Location"]

    assert victim.get(answer).status_code == 403  # no attempt of its own
    victim.get("/login/start", follow=False)
    assert victim.get(answer).status_code == 403  # another attempt
    assert victim.get("/account").url.path == "/login"
    assert attacker.get(answer).url.path == "/account"


def test_an_answer_counts_once(corporate: Registry, browsers: Browsers, provider: Provider, who: str) -> None:
    provider.control(user=person(who))
    browser = browsers(corporate)
    start = browser.get("/login/start", follow=False)
    kept = dict(browser.http.cookies)
    answer = browser.http.get(start.headers["Location"], follow_redirects=False).headers["Location"]
    assert browser.get(answer).url.path == "/account"

    again = browsers(corporate)
    again.http.cookies.update(kept)

    assert again.get(answer).status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer.replace("code=", "kode="),
        lambda answer: answer.replace("code=", "code=x"),
        lambda answer: answer.replace("state=", "state=x"),
        lambda answer: answer.replace("iss=http", "iss=https"),
        lambda answer: answer.replace("code=", "code=" + "x" * 5000),
    ],
)
def test_an_answer_that_somebody_changed_lets_nobody_in(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str, change: Any
) -> None:
    provider.control(user=person(who))
    browser = browsers(corporate)
    start = browser.get("/login/start", follow=False)
    answer = browser.http.get(start.headers["Location"], follow_redirects=False).headers["Location"]

    assert browser.get(change(answer)).status_code == 403
    assert browser.get("/account").url.path == "/login"


@pytest.mark.parametrize(
    ("error", "said"),
    [("access_denied", "'access_denied'"), ("<b>you won</b>", "'an error'"), ("call +1 555", "'an error'")],
)
def test_an_error_of_the_provider_is_told_but_not_anybodys_words(
    corporate: Registry, browsers: Browsers, provider: Provider, error: str, said: str
) -> None:
    provider.control(error=error)
    browser = browsers(corporate)

    page = browser.sign_in()

    assert page.status_code == 403
    assert said in browser.text


def test_an_address_whose_answers_fail_again_and_again_has_to_wait(
    corporate: Registry, browsers: Browsers, provider: Provider, who: str
) -> None:
    provider.control(user=person(who))
    browser = browsers(corporate)

    seen = [browser.get(f"/login/callback?code=x&state={n}").status_code for n in range(40)]

    assert seen[0] == 403
    assert seen[-1] == 429
    assert "Retry-After" in browser.page.headers


def test_without_a_provider_there_is_no_way_to_one(make_registry: MakeRegistry, browsers: Browsers) -> None:
    browser = browsers(make_registry())

    assert browser.get("/login").status_code == 200
    assert browser.read().links == {}
    assert browser.get("/login/start").status_code == 403
    assert browser.get("/login/callback?code=x&state=y").status_code == 403
