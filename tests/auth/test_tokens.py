"""Access tokens as values: what is issued is what is verified, and nothing else is."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.server.auth.keys import new_key
from registry.server.auth.tokens import LEEWAY_SECONDS, Claims, TokenInvalid, access_of, issue, verify
from tests.support.accounts import encoded, signed

KEY = new_key()
RING = {KEY.id: KEY}.get
ACCESS = {("repository", "team/web"): frozenset({"pull", "push"}), ("registry", "catalog"): frozenset({"*"})}


def test_what_was_issued_is_what_is_verified() -> None:
    claims = Claims("bob", ACCESS, account=7, generation=3, credential="0123")

    found = verify(issue(KEY, "us", "us", claims, time.time(), 300), RING, "us", "us")

    assert (found.subject, found.account, found.generation, found.credential) == ("bob", 7, 3, "0123")
    assert found.access == ACCESS
    assert found.expires_at - found.issued_at == 300


def test_a_token_of_the_anonymous_names_no_account() -> None:
    found = verify(issue(KEY, "us", "us", Claims("", {}), time.time(), 300), RING, "us", "us")

    assert found.account is None
    assert found.access == {}


def test_each_token_has_an_id_of_its_own() -> None:
    tokens = [issue(KEY, "us", "us", Claims("", {}), 1e9, 300) for _ in range(2)]
    ids = [jwt.decode(token, options={"verify_signature": False})["jti"] for token in tokens]

    assert ids[0] != ids[1]


def test_resources_of_which_nothing_was_granted_are_left_out() -> None:
    token = issue(KEY, "us", "us", Claims("bob", {("repository", "a"): frozenset()}), time.time(), 300)

    assert jwt.decode(token, options={"verify_signature": False})["access"] == []


@pytest.mark.parametrize(
    ("kind", "name", "action", "covered"),
    [
        ("repository", "team/web", "pull", True),
        ("repository", "team/web", "delete", False),
        ("repository", "team/we", "pull", False),
        ("repository", "team/web/x", "pull", False),
        ("registry", "team/web", "pull", False),
        ("registry", "catalog", "*", True),
    ],
)
def test_a_token_covers_what_it_was_made_for(kind: str, name: str, action: str, covered: bool) -> None:
    assert Claims("bob", ACCESS).covers(kind, name, action) is covered


def body_of(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    usual = {"iss": "us", "aud": "us", "sub": "bob", "iat": now, "nbf": now, "exp": now + 300, "jti": "1"}
    return {**usual, "access": [], "acc": 1, "gen": 1, "crd": "", **changes}


def test_the_body_of_these_tests_is_a_good_one() -> None:
    assert verify(signed(body_of(), KEY, {"kid": KEY.id}), RING, "us", "us").account == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"{",
        b"",
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"a":' * 5_000,
        b'{"exp": 1e999}',
        b"9" * 5_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_signed_body_of_any_other_form_is_no_token(body: bytes) -> None:
    for token in (signed(body, KEY, {"kid": KEY.id}), f"{encoded(body)}.e30.AAAA"):
        with pytest.raises(TokenInvalid):
            verify(token, RING, "us", "us")


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)


@given(st.sampled_from(sorted(body_of())), values)
def test_a_claim_of_any_value_is_good_or_makes_the_token_invalid(name: str, value: Any) -> None:
    try:
        found = verify(signed(body_of(**{name: value}), KEY, {"kid": KEY.id}), RING, "us", "us")
    except TokenInvalid:
        pass
    else:
        assert name in ("jti", "access", "acc", "gen", "crd", "sub", "exp", "iat", "nbf")
        assert found.account is None or type(found.generation) is int


@pytest.mark.parametrize("seconds", [LEEWAY_SECONDS - 5, -(LEEWAY_SECONDS - 5)])
def test_clocks_may_differ_by_the_leeway(seconds: int) -> None:
    now = time.time() + seconds
    lifetime = 300 if seconds > 0 else 1

    verify(issue(KEY, "us", "us", Claims("bob", {}), now, lifetime), RING, "us", "us")


@pytest.mark.parametrize("seconds", [LEEWAY_SECONDS + 5, -(LEEWAY_SECONDS + 305)])
def test_and_by_no_more(seconds: int) -> None:
    with pytest.raises(TokenInvalid):
        verify(issue(KEY, "us", "us", Claims("bob", {}), time.time() + seconds, 300), RING, "us", "us")


@pytest.mark.parametrize(
    "entries",
    [
        [1],
        ["repository"],
        [{}],
        [{"type": "repository", "name": "a"}],
        [{"type": "repository", "name": "a", "actions": "pull"}],
        [{"type": "repository", "name": "a", "actions": {"pull": 1}}],
        [[]],
    ],
)
def test_an_access_claim_of_another_form_is_refused(entries: list[Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        access_of(entries)


def test_entries_of_one_resource_are_joined() -> None:
    entries = [{"type": "repository", "name": "a", "actions": [action]} for action in ("pull", "push")]

    assert access_of(entries) == {("repository", "a"): {"pull", "push"}}
    assert access_of([]) == {}
