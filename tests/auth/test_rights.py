"""Rights: what grants add up to, which one is named, and how a token confines them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import Denied
from registry.oci.reference import Repository
from registry.server.auth.caller import ACTIONS, Action, Everybody, require
from registry.server.auth.rights import (
    ROLE_ACTIONS,
    Grant,
    Limit,
    Membership,
    Rights,
    collect,
    public_pull,
    within,
)

WEB = Repository("team/web")
PATTERNS = ["*", "team/*", "team/web", "other/*"]


def grant(pattern: str, *actions: Action, origin: str = "somewhere", subject: str = "user:bob") -> Grant:
    return Grant(subject, pattern, frozenset(actions), origin)


def test_nobody_may_anything_without_a_grant() -> None:
    rights = collect(False, [], [], [], [])

    assert not any(rights.may(action, WEB) for action in ACTIONS)


def test_an_administrator_may_everything_everywhere() -> None:
    rights = collect(True, [], [], [], [])

    assert all(rights.may(action, Repository(name)) for action in ACTIONS for name in ("a", "team/web", "x/y/z"))


@pytest.mark.parametrize("action", ACTIONS)
def test_a_grant_of_one_action_gives_no_other(action: Action) -> None:
    rights = collect(False, [], [grant("team/*", action)], [], [])

    assert [each for each in ACTIONS if rights.may(each, WEB)] == [action]
    assert not any(rights.may(each, Repository("teams/web")) for each in ACTIONS)


def test_members_push_and_overwrite_in_their_namespace_and_maintainers_delete_too() -> None:
    members, maintainers = ({a for a in ACTIONS if a in ROLE_ACTIONS[role]} for role in ("member", "maintainer"))

    assert members == {"pull", "push", "overwrite"}
    assert maintainers == set(ACTIONS)
    rights = collect(False, [Membership("team", "member")], [], [], [])
    assert {action for action in ACTIONS if rights.may(action, WEB)} == members
    assert not rights.may("pull", Repository("team"))
    assert not rights.may("pull", Repository("team2/web"))


def test_the_nearest_grant_is_named_as_the_reason() -> None:
    layers = [
        ("member", lambda: collect(False, [Membership("team", "member")], own, of_teams, of_all)),
        ("own", lambda: collect(False, [], own, of_teams, of_all)),
        ("teams", lambda: collect(False, [], [], of_teams, of_all)),
        ("everyone", lambda: collect(False, [], [], [], of_all)),
    ]
    own = [grant("team/*", "pull", origin="own")]
    of_teams = [grant("team/*", "pull", origin="teams")]
    of_all = [grant("team/*", "pull", origin="everyone")]

    for origin, rights in layers:
        found = rights().decide("pull", WEB)
        assert found is not None
        assert found.origin.startswith(origin)


def test_grants_of_the_setting_come_last() -> None:
    rights = collect(False, [], [grant("team/web", "push")], [], []).with_grants(public_pull(["team/*"]))

    assert str(rights.decide("pull", WEB)) == "accounts.anonymous_pull: anonymous may pull on team/*"
    assert rights.may("push", WEB)
    assert not rights.may("push", Repository("team/other"))


def test_a_grant_is_explained_in_the_order_of_the_actions() -> None:
    assert str(grant("team/*", "delete", "pull", origin="given")) == "given: user:bob may pull,delete on team/*"


grants = st.builds(
    lambda pattern, actions: grant(pattern, *actions), st.sampled_from(PATTERNS), st.sets(st.sampled_from(ACTIONS))
)


@given(st.lists(grants, max_size=5), st.lists(grants, max_size=5))
def test_more_grants_never_take_a_right_away(some: list[Grant], more: list[Grant]) -> None:
    before, after = collect(False, [], some, [], []), collect(False, [], some, more, [])

    for action, name in product(ACTIONS, ("team/web", "other/x", "z")):
        assert after.may(action, Repository(name)) or not before.may(action, Repository(name))


@given(st.permutations([grant("team/*", "pull"), grant("*", "push"), grant("team/web", "delete", "pull")]))
def test_the_order_of_grants_changes_no_answer(ordered: list[Grant]) -> None:
    rights = Rights(False, tuple(ordered))

    assert {action for action in ACTIONS if rights.may(action, WEB)} == {"pull", "push", "delete"}


def test_a_token_without_limits_is_confined_to_nothing() -> None:
    assert all(within((), action, WEB) for action in ACTIONS)


def test_a_token_is_confined_to_its_limits() -> None:
    limits = [Limit("team/*", frozenset({"pull"})), Limit("team/web", frozenset({"push"}))]

    assert [action for action in ACTIONS if within(limits, action, WEB)] == ["pull", "push"]
    assert [action for action in ACTIONS if within(limits, action, Repository("team/x"))] == ["pull"]
    assert not any(within(limits, action, Repository("other/x")) for action in ACTIONS)


def test_a_limit_without_actions_allows_nothing() -> None:
    assert not any(within([Limit("*", frozenset())], action, WEB) for action in ACTIONS)


def test_what_is_required_and_not_allowed_is_denied_with_its_detail() -> None:
    class Nobody(Everybody):
        def may(self, action: Action, repository: Repository) -> bool:
            return False

    require(Everybody(), "delete", WEB)
    with pytest.raises(Denied) as refusal:
        require(Nobody(), "delete", WEB)
    assert refusal.value.detail == {"repository": "team/web", "action": "delete"}
