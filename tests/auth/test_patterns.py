"""Repository patterns, and the names of accounts and teams."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.server.auth.patterns import NameRefused, check_account, check_pattern, check_team, matches

TABLE = [
    # pattern, repositories that it covers, repositories that it does not
    ("*", ["a", "a/b", "team/web/api"], []),
    ("team/web", ["team/web"], ["team/web/api", "team/webs", "team", "a/team/web", "teamXweb"]),
    ("team/*", ["team/web", "team/web/api", "team/a/b/c"], ["team", "teams/web", "a/team/web"]),
    ("team/web-*", ["team/web-a", "team/web-a-b"], ["team/web", "team/web-a/b", "team/web.a", "a/team/web-a"]),
    ("*/base", ["team/base", "a.b/base"], ["base", "team/x/base", "team/base/x", "team/database"]),
    ("*/*", ["a/b", "a/b/c"], ["a"]),
    ("web*", ["web", "webs", "web-1"], ["web/a", "aweb"]),
    ("*web", ["web", "aweb"], ["a/web", "webs"]),
    ("team/*/web", ["team/a/web"], ["team/web", "team/a/b/web"]),
    ("team/*/*", ["team/a/b", "team/a/b/c"], ["team/a"]),
    ("te*/*", ["team/a", "te/a/b"], ["te", "tame/a"]),
    ("team/a*b*c", ["team/abc", "team/a1b2c", "team/abcbc"], ["team/acb", "team/ab/c", "team/abcd"]),
    ("a.b/c", ["a.b/c"], ["aXb/c", "a-b/c"]),
    ("team_a/x", ["team_a/x"], ["teamXa/x"]),
]


@pytest.mark.parametrize(("pattern", "covered", "others"), TABLE, ids=[row[0] for row in TABLE])
def test_a_pattern_covers_exactly_what_the_table_says(pattern: str, covered: list[str], others: list[str]) -> None:
    assert check_pattern(pattern) == pattern
    assert [name for name in covered + others if matches(pattern, name)] == covered


def component_matches(pattern: str, text: str) -> bool:
    """A star stands for any characters: the plainest way to say it."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return component_matches(pattern[1:], text) or (bool(text) and component_matches(pattern, text[1:]))
    return bool(text) and text[0] == pattern[0] and component_matches(pattern[1:], text[1:])


def plainly_matches(pattern: str, repository: str) -> bool:
    """The rule as the documentation says it, component by component."""
    if pattern == "*":
        return True
    wanted, given_parts = pattern.split("/"), repository.split("/")
    if pattern.endswith("/*"):
        wanted = wanted[:-1]
        if len(given_parts) <= len(wanted):
            return False
        given_parts = given_parts[: len(wanted)]
    return len(wanted) == len(given_parts) and all(map(component_matches, wanted, given_parts))


few = st.text(alphabet="ab*", min_size=1, max_size=6).filter(lambda text: "**" not in text)
patterns = st.lists(few, min_size=1, max_size=4).map("/".join)
repositories = st.lists(st.text(alphabet="ab", min_size=1, max_size=6), min_size=1, max_size=4).map("/".join)


@given(patterns, repositories)
def test_every_pattern_means_what_the_plain_rule_means(pattern: str, repository: str) -> None:
    assert matches(check_pattern(pattern), repository) == plainly_matches(pattern, repository)


@given(st.text(alphabet="ab./-_*", min_size=1, max_size=20), repositories)
def test_whatever_is_accepted_as_a_pattern_can_be_compared(text: str, repository: str) -> None:
    try:
        pattern = check_pattern(text)
    except NameRefused:
        return
    matches(pattern, repository)


def test_a_pattern_of_many_stars_costs_no_more_than_others() -> None:
    began = time.perf_counter()

    assert not matches("team/" + "a*" * 100 + "b", "team/" + "a" * 250)
    assert not matches("a*" * 60 + "b/" + "a*" * 60 + "b", "a" * 120 + "/" + "a" * 120)

    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "team/",
        "/team",
        "team//web",
        "**",
        "team/**",
        "Team/web",
        "team/web:v1",
        "team web",
        "team/web\n",
        "é",
        "a" * 256,
        "-a",
        "a-",
        "../x",
        "team/%",
        "[a]",
        "a?",
    ],
)
def test_what_is_no_pattern_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(NameRefused, match="'team/web', 'team/\\*' and '\\*' are"):
        check_pattern(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bob", "bob"),
        ("Bob", "bob"),
        ("a", "a"),
        ("9", "9"),
        ("bob@example.com", "bob@example.com"),
        ("a.b_c-d+e", "a.b_c-d+e"),
        ("a" * 128, "a" * 128),
    ],
)
def test_an_accounts_name_is_kept_in_lower_case(text: str, name: str) -> None:
    assert check_account(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".bob",
        "bob.",
        "a b",
        "a:b",
        "a/b",
        "a\nb",
        "bob\n",
        "é",
        "a" * 129,
        "team:web",
        "@",
        "a\x00b",
        "anonymous",
        "Anonymous",
        "everyone",
        "token",
    ],
)
def test_what_cannot_name_an_account_is_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        check_account(text)


@pytest.mark.parametrize("text", ["team", "a.b", "a_b", "a__b", "a---b", "9", "a" * 128])
def test_a_teams_name_is_one_that_a_repository_can_begin_with(text: str) -> None:
    assert check_team(text) == text
    assert matches(check_pattern(f"{text}/*"), f"{text}/web")


@pytest.mark.parametrize(
    "text",
    ["", "Team", "a/b", "a*", "*", "-a", "a.", "a..b", "a___b", "a b", "team\n", "a" * 129, "everyone"],
)
def test_what_cannot_name_a_team_is_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        check_team(text)
