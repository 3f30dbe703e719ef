"""Questions about rights, the audit log, the signing keys; and every change has its entry."""

from __future__ import annotations

import httpx
import pytest

from tests.api.conftest import PASSWORD, House


def test_a_question_about_a_right_is_answered_with_the_grant_that_decides(house: House) -> None:
    person = house.user()
    team = house.team(member=person)
    asked = f"/may?account={person.name}&repository={team}/web"
    assert house.admin.get(f"{asked}&action=push") == {
        "allowed": True,
        "because": f"member of the owning team: team:{team} may pull,push,overwrite on {team}/*",
    }
    assert house.admin.get(f"{asked}&action=delete") == {"allowed": False, "because": None}
    assert person.get(f"/may?repository={team}/web&action=push")["allowed"]
    assert house.admin.get(f"/may?account={person.name.upper()}&repository={team}/web&action=pull")["allowed"]


def test_the_rights_of_the_anonymous_can_be_asked_for(house: House) -> None:
    asked = "/may?account=anonymous&repository=a/b&action=pull"
    assert house.admin.get(asked) == {"allowed": False, "because": None}
    house.user().get(asked, 404)


def test_a_disabled_person_may_nothing(house: House) -> None:
    person = house.user()
    team = house.team(member=person)
    house.admin.patch(f"/users/{person.name}", {"enabled": False})
    assert not house.admin.get(f"/may?account={person.name}&repository={team}/web&action=pull")["allowed"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "action=pull",
        "repository=a/b",
        "action=fly&repository=a/b",
        "action=pull,push&repository=a/b",
        "action=pull&repository=A/B",
        "action=pull&repository=a/../b",
        "action=pull&repository=a%00b",
        "action=pull&repository=" + "x" * 300,
    ],
)
def test_a_question_that_makes_no_sense_is_refused(house: House, query: str) -> None:
    house.admin.get(f"/may?{query}", 400)


def test_a_question_about_somebody_who_is_not_there(house: House) -> None:
    house.admin.get("/may?action=pull&repository=a/b&account=nobody-at-all", 404)


def test_a_new_key_signs_and_nobody_is_logged_out(house: House) -> None:
    person = house.user()
    before = house.access_token(person)
    key = house.admin.post("/keys", {})["id"]
    published = httpx.get(f"{house.server.url}/.well-known/jwks.json", trust_env=False, timeout=60).json()["keys"]
    assert key in [one["kid"] for one in published]
    for token in (before, house.access_token(person)):
        assert house.client(bearer=token).http.get("/v2/").status_code == 200


def test_the_audit_log_tells_every_change_with_who_and_from_where(house: House) -> None:
    boss = house.user(is_admin=True)
    person, robot, team = house.name("user"), house.name("robot"), house.name("team")
    place = house.audit_place()
    boss.post("/users", {"name": person, "password": PASSWORD})
    boss.put(f"/users/{person}/password", {"password": "entirely another"}, 200)
    boss.patch(f"/users/{person}", {"enabled": False})
    boss.patch(f"/users/{person}", {"enabled": True})
    boss.patch(f"/users/{person}", {"is_admin": True})
    boss.patch(f"/users/{person}", {"is_admin": False})
    boss.post("/robots", {"name": robot})
    token = boss.post(f"/robots/{robot}/tokens", {"label": "ci"})["id"]
    boss.delete(f"/robots/{robot}/tokens/{token}")
    boss.post("/teams", {"name": team})
    boss.put(f"/teams/{team}/members/{person}", {})
    boss.delete(f"/teams/{team}/members/{person}")
    boss.post("/grants", {"subject": f"user:{person}", "pattern": f"{team}/x", "actions": ["push", "pull"]}, 200)
    boss.delete(f"/grants?subject=user:{person}&pattern={team}/x")
    boss.delete(f"/teams/{team}")
    boss.delete(f"/robots/{robot}")
    boss.delete(f"/users/{person}")
    key = boss.post("/keys", {})["id"]
    entries = house.audit_after(place)
    assert [(one["action"], one["target"]) for one in entries] == [
        ("user.add", person),
        ("user.password", person),
        ("account.disable", person),
        ("account.enable", person),
        ("user.admin", person),
        ("user.no-admin", person),
        ("robot.add", robot),
        ("token.add", f"{robot}/{token}"),
        ("token.remove", f"{robot}/{token}"),
        ("team.add", team),
        ("team.join", f"{team}/{person}"),
        ("team.leave", f"{team}/{person}"),
        ("grant.add", f"user:{person} pull,push {team}/x"),
        ("grant.remove", f"user:{person} {team}/x"),
        ("team.remove", team),
        ("account.remove", robot),
        ("account.remove", person),
        ("key.rotate", key),
    ]
    assert {(one["actor"], one["address"], one["result"]) for one in entries} == {(boss.name, "127.0.0.1", "done")}
    assert [one["id"] for one in entries] == sorted(one["id"] for one in entries)


def test_the_address_is_the_clients_when_a_trusted_proxy_stands_between(house: House) -> None:
    place = house.audit_place()
    headers = {"X-Forwarded-For": "203.0.113.7, 127.0.0.1"}
    house.admin.ask("POST", "/teams", {"name": house.name("team")}, headers=headers)
    house.user().ask("POST", "/teams", {"name": "x"}, headers=headers)
    found = [one for one in house.audit_after(place) if one["action"] == "team.add"]
    assert [(one["address"], one["result"]) for one in found] == [
        ("203.0.113.7", "done"),
        ("203.0.113.7", "denied"),
    ]


def test_a_denied_write_tells_what_was_tried(house: House) -> None:
    person, victim = house.user(), house.user().name
    team = house.team()
    place = house.audit_place()
    person.delete(f"/users/{victim}", 404)
    person.put(f"/teams/{team}/members/{person.name}", {"role": "maintainer"}, 404)
    person.post("/grants", {"subject": f"user:{person.name}", "pattern": f"{team}/*", "actions": ["pull"]}, 403)
    person.delete(f"/grants?subject=everyone&pattern={team}/*", 404)
    entries = house.audit_after(place)
    assert [(one["action"], one["target"]) for one in entries] == [
        ("account.remove", victim),
        ("team.join", f"{team}/{person.name}"),
        ("grant.add", f"user:{person.name} pull {team}/*"),
        ("grant.remove", f"everyone {team}/*"),
    ]
    assert {(one["actor"], one["result"]) for one in entries} == {(person.name, "denied")}


def test_the_audit_log_comes_in_pages_and_from_a_time_on(house: House) -> None:
    for _ in range(5):
        house.team()
    whole = house.admin.everything("/audit")
    assert house.admin.everything("/audit?since=1d", limit=7) == whole
    assert house.admin.get("/audit?since=0s") == []
    assert house.admin.get(f"/audit?after={whole[-1]['id']}") == []
    for bad in ("since=yesterday", "since=1y", "after=x", "after=-1", f"after={'9' * 30}"):
        house.admin.get(f"/audit?{bad}", 400)
