"""Teams, their members, and the grants inside of their namespaces."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.conftest import House


def members(house: House, team: str) -> dict[str, str]:
    """Names and roles of a team."""
    return {one["name"]: one["role"] for one in house.admin.everything(f"/teams/{team}/members")}


def test_a_team_is_added_and_deleted(house: House) -> None:
    name = house.name("team")
    made = house.admin.post("/teams", {"name": name})
    assert made == house.admin.get(f"/teams/{name}")
    assert (made["name"], made["members"]) == (name, 0)
    house.admin.post("/teams", {"name": name}, 409)
    house.admin.delete(f"/teams/{name}")
    house.admin.get(f"/teams/{name}", 404)
    house.admin.delete(f"/teams/{name}", 404)


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "*", "a*", "..", "everyone", "a\x00", "x" * 129])
def test_a_name_that_is_no_namespace_is_refused(house: House, name: str) -> None:
    house.admin.post("/teams", {"name": name}, 400)


def test_people_and_robots_join_change_their_role_and_leave(house: House) -> None:
    team, person, robot = house.team(), house.user().name, house.robot()
    house.admin.put(f"/teams/{team}/members/{person}", {"role": "maintainer"})
    house.admin.put(f"/teams/{team}/members/{robot}", {})
    assert members(house, team) == {person: "maintainer", robot: "member"}
    assert house.admin.get(f"/teams/{team}")["members"] == 2
    house.admin.put(f"/teams/{team}/members/{person.upper()}", {"role": "member"})
    assert members(house, team) == {person: "member", robot: "member"}
    house.admin.delete(f"/teams/{team}/members/{person}")
    house.admin.delete(f"/teams/{team}/members/{person}", 404)
    assert members(house, team) == {robot: "member"}


@pytest.mark.parametrize("body", [{"role": "owner"}, {"role": ""}, {"role": None}, {"roles": "member"}, []])
def test_a_role_is_member_or_maintainer(house: House, body: Any) -> None:
    team, person = house.team(), house.user().name
    house.admin.put(f"/teams/{team}/members/{person}", body, 400)
    assert members(house, team) == {}


def test_whoever_is_not_there_cannot_join(house: House) -> None:
    team = house.team()
    house.admin.put(f"/teams/{team}/members/nobody-at-all", {}, 404)
    house.admin.put(f"/teams/no-team-at-all/members/{house.user().name}", {}, 404)


def test_a_maintainer_looks_after_the_people_of_the_team(house: House) -> None:
    maintainer, person = house.user(), house.user()
    team = house.team(maintainer=maintainer)
    maintainer.put(f"/teams/{team}/members/{person.name}", {"role": "maintainer"})
    assert members(house, team) == {maintainer.name: "maintainer", person.name: "maintainer"}
    person.delete(f"/teams/{team}/members/{maintainer.name}")
    maintainer.get(f"/teams/{team}", 404)
    maintainer.put(f"/teams/{team}/members/{maintainer.name}", {"role": "maintainer"}, 404)


def test_a_maintainer_sees_their_teams_and_no_others(house: House) -> None:
    maintainer = house.user()
    mine = [house.team(maintainer=maintainer) for _ in range(3)]
    house.team(member=maintainer)
    house.team()
    assert [one["name"] for one in maintainer.everything("/teams", limit=2)] == sorted(mine)
    assert house.user().get("/teams") == []
    everything = [one["name"] for one in house.admin.everything("/teams", limit=2)]
    assert set(mine) < set(everything)
    assert everything == sorted(everything)


def test_a_maintainer_does_not_add_or_delete_teams(house: House) -> None:
    maintainer = house.user()
    team = house.team(maintainer=maintainer)
    maintainer.delete(f"/teams/{team}", 403)
    maintainer.post("/teams", {"name": house.name("team")}, 403)
    assert members(house, team) == {maintainer.name: "maintainer"}


def test_a_team_of_the_same_name_later_is_another_team(house: House) -> None:
    maintainer = house.user()
    team = house.team(maintainer=maintainer)
    house.admin.delete(f"/teams/{team}")
    house.admin.post("/teams", {"name": team})
    maintainer.get(f"/teams/{team}", 404)
    assert house.admin.get(f"/teams/{team}/members") == []


# --- grants


def test_a_grant_is_made_replaced_listed_and_taken_back(house: House) -> None:
    person, pattern = house.user(), house.name("pattern") + "/*"
    grant = {"subject": f"user:{person.name}", "pattern": pattern, "actions": ["pull"]}
    assert house.admin.post("/grants", grant, 200) == grant
    wider = {**grant, "actions": ["pull", "push"]}
    assert house.admin.post("/grants", {**grant, "actions": ["push", "pull", "pull"]}, 200) == wider
    assert [one for one in house.admin.everything("/grants") if one["pattern"] == pattern] == [wider]
    assert person.get(f"/may?action=push&repository={pattern[:-1]}x")["allowed"]
    query = httpx.QueryParams({"subject": grant["subject"], "pattern": pattern})
    house.admin.delete(f"/grants?{query}")
    house.admin.delete(f"/grants?{query}", 404)
    assert not person.get(f"/may?action=push&repository={pattern[:-1]}x")["allowed"]


def test_a_grant_is_for_people_robots_teams_everyone_and_anonymous(house: House) -> None:
    person, robot, team = house.user().name, house.robot(), house.team()
    pattern = house.name("pattern")
    given = {
        person: f"user:{person}",
        f"user:{person.upper()}": f"user:{person}",
        f"robot:{robot}": f"user:{robot}",
        f"team:{team}": f"team:{team}",
        "everyone": "everyone",
        "anonymous": "anonymous",
    }
    for subject, shown in given.items():
        made = house.admin.post("/grants", {"subject": subject, "pattern": pattern, "actions": ["pull"]}, 200)
        assert made["subject"] == shown
    listed = [one["subject"] for one in house.admin.everything("/grants") if one["pattern"] == pattern]
    assert sorted(listed) == sorted(set(given.values()))
    for subject in set(given.values()):
        house.admin.delete(f"/grants?{httpx.QueryParams({'subject': subject, 'pattern': pattern})}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": "user:nobody-at-all"}, "subject"),
        ({"subject": "team:nobody-at-all"}, "subject"),
        ({"subject": "group:x"}, None),
        ({"subject": "a\x00b"}, None),
        ({"subject": ""}, "subject"),
        ({"pattern": "Team/*"}, None),
        ({"pattern": "/x"}, None),
        ({"pattern": "a**"}, None),
        ({"pattern": "x" * 256}, "pattern"),
        ({"actions": []}, "actions"),
        ({"actions": ["fly"]}, "actions[0]"),
        ({"actions": "pull"}, "actions"),
        ({"subject": "anonymous", "actions": ["pull", "push"]}, None),
        ({"id": 7}, "id"),
    ],
    ids=str,
)
def test_a_grant_is_made_as_described_or_not_at_all(house: House, change: Any, field: str | None) -> None:
    place = house.audit_place()
    grant = {"subject": "everyone", "pattern": "nowhere/*", "actions": ["pull"], **change}
    problem = house.admin.post("/grants", grant, 400)
    assert problem.get("field") == field
    assert house.audit_after(place) == []


@pytest.mark.parametrize(
    "query", ["", "subject=everyone", "pattern=a/*", "subject=&pattern=", "subject=x:y&pattern=a"]
)
def test_a_grant_to_take_back_is_named_in_full(house: House, query: str) -> None:
    house.admin.delete(f"/grants?{query}", 400)


def inside(team: str) -> list[str]:
    return [f"{team}/*", f"{team}/web", f"{team}/a/b/c", f"{team}/*/x", f"{team}/web-*"]


def outside(team: str) -> list[str]:
    return [
        team,
        "*",
        f"{team}*",
        f"{team}-x/web",
        f"{team[:-1]}*/web",
        f"*/{team}/x",
        f"x/{team}/web",
        f"{team}*/x",
    ]


def test_a_maintainer_grants_inside_of_the_namespace_alone(house: House) -> None:
    maintainer, person = house.user(), house.user()
    team = house.team(maintainer=maintainer)
    for pattern in inside(team):
        grant = {"subject": f"user:{person.name}", "pattern": pattern, "actions": ["pull", "delete", "admin"]}
        maintainer.post("/grants", grant, 200)
    for pattern in outside(team):
        grant = {"subject": f"user:{person.name}", "pattern": pattern, "actions": ["pull"]}
        maintainer.post("/grants", grant, 403)
        # The administrator's own grant there is neither seen nor taken back.
        house.admin.post("/grants", grant, 200)
        query = httpx.QueryParams({"subject": grant["subject"], "pattern": pattern})
        maintainer.delete(f"/grants?{query}", 404)
        house.admin.delete(f"/grants?{query}")
    assert sorted(one["pattern"] for one in maintainer.everything("/grants", limit=2)) == sorted(inside(team))


def test_underscores_and_dots_in_a_teams_name_stand_for_themselves(house: House) -> None:
    """They mean something else to LIKE and to regular expressions."""
    maintainer = house.user()
    number = house.name("n")
    team, others = f"a_b.c-{number}", [f"axb.c-{number}", f"a_bxc-{number}", f"a-b.c-{number}"]
    for name in (team, *others):
        house.admin.post("/teams", {"name": name})
        house.admin.post("/grants", {"subject": "everyone", "pattern": f"{name}/x", "actions": ["pull"]}, 200)
    house.admin.put(f"/teams/{team}/members/{maintainer.name}", {"role": "maintainer"})
    assert [one["pattern"] for one in maintainer.get("/grants")] == [f"{team}/x"]
    for other in others:
        maintainer.post("/grants", {"subject": "everyone", "pattern": f"{other}/y", "actions": ["pull"]}, 403)
        maintainer.delete(f"/grants?subject=everyone&pattern={other}/x", 404)
        maintainer.get(f"/teams/{other}", 404)


def test_a_member_grants_nothing_and_sees_no_grants(house: House) -> None:
    maintainer, member = house.user(), house.user()
    team = house.team(maintainer=maintainer, member=member)
    grant = {"subject": f"user:{member.name}", "pattern": f"{team}/*", "actions": ["delete"]}
    maintainer.post("/grants", {**grant, "subject": "everyone"}, 200)
    assert member.get("/grants") == []
    member.post("/grants", grant, 403)
    member.delete(f"/grants?subject=everyone&pattern={team}/*", 404)


def test_the_maintainers_grant_lets_somebody_in_and_out_at_once(house: House) -> None:
    maintainer, person = house.user(), house.user()
    team = house.team(maintainer=maintainer)
    tags = f"/v2/{team}/web/tags/list"
    assert person.http.get(tags).status_code == 403
    maintainer.post(
        "/grants", {"subject": f"user:{person.name}", "pattern": f"{team}/web", "actions": ["pull"]}, 200
    )
    assert person.http.get(tags).status_code == 404  # it is theirs to see that there is nothing
    maintainer.delete(f"/grants?subject=user:{person.name}&pattern={team}/web")
    assert person.http.get(tags).status_code == 403
