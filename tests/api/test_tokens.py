"""Tokens: what they may do, how long, and that none makes a wider one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.server.service.administration.tokens import TOKENS_PER_ACCOUNT_MAX
from tests.api.conftest import House, MakeHouse

PULL = [{"actions": ["pull"], "pattern": "web/*"}]


def test_a_token_is_shown_once_and_listed_without_its_secret(house: House) -> None:
    person = house.user()
    made = person.post("/me/tokens", {"label": "my laptop", "allow": PULL, "expires_in_seconds": 86_400})
    assert made["token"].startswith(f"hyt_{made['id']}_")
    [listed] = person.get("/me/tokens")
    assert listed == {name: value for name, value in made.items() if name != "token"}
    assert listed == person.get(f"/me/tokens/{made['id']}")
    assert (listed["label"], listed["allow"], listed["made_by"], listed["used_at"]) == (
        "my laptop",
        PULL,
        None,
        None,
    )
    left = datetime.fromisoformat(listed["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    secret = made["token"].removeprefix(f"hyt_{made['id']}_")
    assert secret not in person.ask("GET", "/me/tokens").text


def test_the_last_use_of_a_token_is_noted(house: House) -> None:
    person = house.user()
    made = person.post("/me/tokens", {"label": "mine"})
    house.client(bearer=made["token"]).get("/me")
    assert person.get(f"/me/tokens/{made['id']}")["used_at"] is not None


def test_a_deleted_token_stops_to_work_at_once(house: House) -> None:
    person = house.user()
    made = person.post("/me/tokens", {"label": "mine"})
    client = house.client(bearer=made["token"])
    client.get("/me")
    person.delete(f"/me/tokens/{made['id']}")
    assert client.ask("GET", "/me").status_code == 401
    person.delete(f"/me/tokens/{made['id']}", 404)
    person.get(f"/me/tokens/{made['id']}", 404)


WIDER: list[dict[str, Any]] = [
    {"label": "all"},
    {"label": "the same", "allow": PULL},
    {"label": "less", "allow": [{"actions": ["pull"], "pattern": "web/one"}], "expires_in_seconds": 60},
]


@pytest.mark.parametrize("wanted", WIDER, ids=lambda wanted: wanted["label"])
@pytest.mark.parametrize(
    "limits", [PULL, [{"actions": ["admin", "delete"], "pattern": "*"}]], ids=["pull", "admin"]
)
def test_a_limited_token_makes_no_tokens_at_all(house: House, limits: Any, wanted: dict[str, Any]) -> None:
    boss = house.user(is_admin=True)
    client = house.client(bearer=house.token(f"users/{boss.name}", allow=limits)["token"])
    place = house.audit_place()
    client.post("/me/tokens", wanted, 403)
    client.post(f"/users/{boss.name}/tokens", wanted, 403)
    client.post(f"/robots/{house.robot()}/tokens", wanted, 403)
    denied = [one for one in house.audit_after(place) if one["action"] == "token.add"]
    assert [one["result"] for one in denied] == ["denied"] * 3
    assert len(boss.get("/me/tokens")) == 1


def test_a_limited_token_of_an_administrator_administers_nothing(house: House) -> None:
    boss = house.user(is_admin=True)
    client = house.client(bearer=house.token(f"users/{boss.name}", allow=PULL)["token"])
    client.post("/users", {"name": house.name("evil"), "is_admin": True}, 403)
    client.patch(f"/users/{boss.name}", {"enabled": True}, 403)
    client.get("/users", 403)
    client.get("/audit", 403)
    client.get("/me/tokens", 403)
    client.get("/me/sessions", 403)
    client.delete("/me/sessions", 403)
    client.post("/keys", {}, 403)


def test_a_token_makes_none_that_outlives_it(house: House) -> None:
    person = house.user()
    hour = person.post("/me/tokens", {"label": "an hour", "expires_in_seconds": 3600})
    client = house.client(bearer=hour["token"])
    client.post("/me/tokens", {"label": "for ever"}, 403)
    client.post("/me/tokens", {"label": "a day", "expires_in_seconds": 86_400}, 403)
    made = client.post("/me/tokens", {"label": "a minute", "expires_in_seconds": 60})
    assert made["made_by"] == hour["id"]
    assert made["expires_at"] <= hour["expires_at"]


def test_an_administrators_own_tokens_follow_the_same_rule_on_every_path(house: House) -> None:
    boss = house.user(is_admin=True)
    of = f"/users/{boss.name}/tokens"
    hour = boss.post(of, {"label": "an hour", "expires_in_seconds": 3600})
    client = house.client(bearer=hour["token"])
    client.post(of, {"label": "for ever"}, 403)
    client.post(of.upper().replace("USERS", "users").replace("TOKENS", "tokens"), {"label": "for ever"}, 403)
    assert client.post(of, {"label": "a minute", "expires_in_seconds": 60})["made_by"] == hour["id"]
    # What it makes for others is theirs.
    robot = house.robot()
    assert client.post(f"/robots/{robot}/tokens", {"label": "ci"})["made_by"] is None


def test_what_a_token_made_goes_with_it(house: House) -> None:
    person = house.user()
    first = person.post("/me/tokens", {"label": "first"})
    second = house.client(bearer=first["token"]).post("/me/tokens", {"label": "second"})
    third = house.client(bearer=second["token"]).post("/me/tokens", {"label": "third"})
    other = person.post("/me/tokens", {"label": "other"})
    refresh = house.refresh_token(house.client((person.name, third["token"])))
    assert house.refreshes(refresh)
    person.delete(f"/me/tokens/{first['id']}")
    assert [one["id"] for one in person.get("/me/tokens")] == [other["id"]]
    assert house.elsewhere(bearer=third["token"]).ask("GET", "/me").status_code == 401
    assert not house.refreshes(refresh)


def test_a_session_that_a_token_made_does_not_outlive_it(house: House) -> None:
    person = house.user()
    hour = person.post("/me/tokens", {"label": "an hour", "expires_in_seconds": 3600})
    house.refresh_token(house.client((person.name, hour["token"])))
    [session] = person.get("/me/sessions")
    assert session["made_by"] == hour["id"]
    assert session["expires_at"] <= hour["expires_at"]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"label": ""},
        {"label": " "},
        {"label": "a\nb"},
        {"label": "x" * 101},
        {"label": 7},
        {"label": "x", "allow": []},
        {"label": "x", "allow": None},
        {"label": "x", "allow": [{"actions": [], "pattern": "web/*"}]},
        {"label": "x", "allow": [{"actions": ["fly"], "pattern": "web/*"}]},
        {"label": "x", "allow": [{"actions": ["pull"], "pattern": "Web!"}]},
        {"label": "x", "allow": [{"actions": ["pull"]}]},
        {"label": "x", "allow": [{"actions": ["pull"], "pattern": "web/*"}] * 101},
        {"label": "x", "expires_in_seconds": 0},
        {"label": "x", "expires_in_seconds": -1},
        {"label": "x", "expires_in_seconds": 1.5},
        {"label": "x", "expires_in_seconds": 10**12},
        {"label": "x", "expires_in_seconds": None},
        {"label": "x", "token": "hyt_mine"},
        {"label": "x", "id": "mine"},
    ],
    ids=str,
)
def test_a_token_is_made_as_described_or_not_at_all(house: House, wanted: dict[str, Any]) -> None:
    place = house.audit_place()
    house.admin.post("/me/tokens", wanted, 400)
    assert house.audit_after(place) == []


def test_a_token_without_limits_is_not_made_by_an_empty_list(house: House) -> None:
    problem = house.admin.post("/me/tokens", {"label": "x", "allow": []}, 400)
    assert problem["field"] == "allow"


@pytest.mark.parametrize("kind", ["users", "robots"])
def test_an_administrator_looks_after_everybodys_tokens(house: House, kind: str) -> None:
    name = house.user().name if kind == "users" else house.robot()
    of = f"/{kind}/{name}/tokens"
    made = house.admin.post(of, {"label": "ci", "allow": PULL})
    assert [one["id"] for one in house.admin.get(of)] == [made["id"]]
    assert house.admin.get(f"{of}/{made['id']}")["label"] == "ci"
    assert house.client(bearer=made["token"]).get("/me")["name"] == name
    house.admin.delete(f"{of}/{made['id']}")
    assert house.admin.get(of) == []
    assert house.elsewhere(bearer=made["token"]).ask("GET", "/me").status_code == 401


def test_an_account_has_no_more_tokens_than_somebody_can_look_after(make_house: MakeHouse) -> None:
    house = make_house()
    robot = house.robot()
    for number in range(TOKENS_PER_ACCOUNT_MAX):
        house.token(f"robots/{robot}", label=str(number))
    house.admin.post(f"/robots/{robot}/tokens", {"label": "one more"}, 409)
    pages = house.admin.everything(f"/robots/{robot}/tokens", limit=300)
    assert [one["label"] for one in pages] == [str(number) for number in range(TOKENS_PER_ACCOUNT_MAX)]
    house.admin.delete(f"/robots/{robot}/tokens/{pages[0]['id']}")
    house.token(f"robots/{robot}", label="one more")
