"""Scopes of the token protocol: what is read, what is dropped, and what was asked for altogether."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.scope import Scope, parse_all
from registry.server.auth.tokens import asked_for

READ = [
    ("repository:team/web:pull", ("repository", "team/web", {"pull"})),
    ("repository:team/web:pull,push", ("repository", "team/web", {"pull", "push"})),
    ("repository:team/web:*", ("repository", "team/web", {"*"})),
    ("repository:team/web:", ("repository", "team/web", set())),
    ("repository:team/web:pull,,pull", ("repository", "team/web", {"pull"})),
    ("repository:localhost:5000/team/web:pull", ("repository", "localhost:5000/team/web", {"pull"})),
    ("repository(plugin):team/web:pull", ("repository", "team/web", {"pull"})),
    ("registry:catalog:*", ("registry", "catalog", {"*"})),
    ("whatever:x:y", ("whatever", "x", {"y"})),
]


@pytest.mark.parametrize(("text", "expected"), READ, ids=[row[0] for row in READ])
def test_a_scope_is_read(text: str, expected: tuple[str, str, set[str]]) -> None:
    scope = Scope.parse(text)

    assert scope is not None
    assert (scope.type, scope.name, scope.actions) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "repository",
        "repository:team/web",
        ":team/web:pull",
        "repository::pull",
        "Repository:a:pull",
        "repository:a b:pull",
        "repository:a:PULL",
        'repository:a":pull',
        "repository:a:pu ll",
        "repository:é:pull",
        "repository(:a:pull",
        "repository()x:a:pull",
        "repository:" + "a" * 1100 + ":pull",
        "repository:a\n:pull",
    ],
)
def test_what_is_no_scope_is_dropped(text: str) -> None:
    assert Scope.parse(text) is None


def test_scopes_of_one_resource_are_joined_and_those_of_others_kept_apart() -> None:
    scopes = parse_all(["repository:a:pull repository:b:pull", "repository:a:push", "nonsense", "registry:a:pull"])

    assert asked_for(scopes) == {
        ("repository", "a"): {"pull", "push"},
        ("repository", "b"): {"pull"},
        ("registry", "a"): {"pull"},
    }


def test_no_more_than_a_hundred_scopes_of_a_request_are_read() -> None:
    texts = [f"repository:a{number}:pull" for number in range(1000)]

    assert len(parse_all(texts)) == 100
    assert len(parse_all([" ".join(texts)])) == 100


@given(st.text(max_size=60))
def test_whatever_a_client_writes_is_read_or_dropped(text: str) -> None:
    scope = Scope.parse(text)

    assert scope is None or Scope.parse(str(scope)) == scope
