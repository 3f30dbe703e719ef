"""Bodies, parameters, pages and problems: what comes in is as described, what goes out says what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.conftest import House

JSON = {"Content-Type": "application/json"}
BODY_MAX = 64 * 1024


def padded(size: int) -> bytes:
    """A body for a new team of just this size, whose name cannot be."""
    return b'{"name":"A"' + b" " * (size - 12) + b"}"


def test_a_body_has_up_to_64_kib(house: House) -> None:
    assert house.admin.ask("POST", "/teams", content=padded(BODY_MAX), headers=JSON).status_code == 400
    assert house.admin.ask("POST", "/teams", content=padded(BODY_MAX + 1), headers=JSON).status_code == 413


def test_a_body_whose_length_is_not_announced_is_bounded_too(house: House) -> None:
    def pieces() -> Any:
        for _ in range(1000):
            yield b" " * 1024

    response = house.admin.http.post("/api/v1/teams", content=pieces(), headers=JSON)
    assert response.status_code == 413
    house.description.check_problem(response)


def test_nobody_sends_a_body_without_a_login(house: House) -> None:
    response = house.client().ask("POST", "/teams", content=padded(BODY_MAX + 1), headers=JSON)
    assert response.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"name=x",
        b"\xff\xfe",
        b'{"name":"\xff"}',
        b'{"name":"\\ud800"}',
        b'{"name":"x"} {}',
        b"[" * 60_000,
        b'{"name":' + b"[" * 60_000,
        b'{"a":' * 10_000,
        b"null",
        b"7",
        b'"x"',
        b"[]",
        b'{"name":NaN}',
        b'{"name":7}',
        b'{"name":null}',
        b"{}",
        b"",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_a_body_that_is_not_as_described_is_refused(house: House, body: bytes) -> None:
    place = house.audit_place()
    response = house.admin.ask("POST", "/teams", content=body, headers=JSON)
    assert response.status_code == 400
    assert house.audit_after(place) == []


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        ({"name": "x", "nmae": "y"}, "nmae", "'nmae' is not a field of this request; leave it out."),
        ({"name": "x", "Name": "y"}, "Name", "'Name' is not a field of this request; leave it out."),
        ({"name": 7}, "name", "Name: Expected 'str', got 'int'."),
        ({}, None, "The body: Object missing required field 'name'."),
    ],
)
def test_what_is_wrong_with_a_body_is_named(house: House, body: Any, field: str | None, detail: str) -> None:
    problem = house.admin.post("/teams", body, 400)
    assert (problem.get("field"), problem["detail"]) == (field, detail)


def test_a_wrong_field_deep_in_a_body_is_named_with_its_place(house: House) -> None:
    allow = [{"actions": ["pull"], "pattern": "a"}, {"actions": ["pull"], "pattern": "b", "x": 1}]
    problem = house.admin.post("/me/tokens", {"label": "x", "allow": allow}, 400)
    assert problem["field"] == "allow[1].x"


def test_no_operation_takes_a_field_that_it_does_not_have(house: House) -> None:
    document = house.description.document
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "requestBody" not in operation:
                continue
            target = path.removeprefix("/api/v1").format(
                user=house.user().name, robot=house.robot(), team=house.team(), member="x"
            )
            response = house.admin.ask(method.upper(), target, {"surprise": True})
            assert response.status_code == 400, (method, path)
            assert response.json()["field"] == "surprise"


def test_a_refusal_comes_before_a_complaint_about_the_body(house: House) -> None:
    """Whoever may not do it learns nothing about how it would be done."""
    person = house.user()
    assert person.ask("POST", "/users", {"surprise": True}).status_code == 403
    assert person.ask("PATCH", "/users/admin", {"surprise": True}).status_code == 404


def test_json_is_json_whatever_its_characters_set_is_called(house: House) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        body = json.dumps({"name": house.name("team")}).encode()
        assert house.admin.ask("POST", "/teams", content=body, headers={"Content-Type": kind}).status_code == 201


@pytest.mark.parametrize(
    "path", ["/users", "/robots", "/teams", "/grants", "/audit", "/me/tokens", "/me/sessions"]
)
@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "1e3", "٣", "9" * 30])
def test_a_page_has_from_one_to_a_thousand_entries(house: House, path: str, limit: str) -> None:
    assert house.admin.ask("GET", path, params={"limit": limit}).status_code == 400


@pytest.mark.parametrize("path", ["/grants", "/audit", "/me/tokens", "/me/sessions"])
@pytest.mark.parametrize("after", ["nothing", "x-y", "-1", "1' OR '1'='1", "9" * 40])
def test_a_place_that_is_none_is_refused(house: House, path: str, after: str) -> None:
    assert house.admin.ask("GET", path, params={"after": after}).status_code == 400


@pytest.mark.parametrize("path", ["/users", "/teams", "/grants", "/audit", "/me/tokens"])
def test_a_parameter_has_no_characters_that_no_name_has(house: House, path: str) -> None:
    for bad in ("a\x00b", "a\nb", "x" * 256):
        assert house.admin.ask("GET", path, params={"after": bad}).status_code == 400


def test_every_list_comes_in_pages(house: House) -> None:
    person = house.user()
    team = house.team()
    for _ in range(5):
        house.admin.put(f"/teams/{team}/members/{house.robot()}", {})
        person.post("/me/tokens", {"label": "one of five"})
        house.refresh_token(person)
        house.admin.post("/grants", {"subject": "everyone", "pattern": house.name("p"), "actions": ["pull"]}, 200)
    lists = ["/users", "/robots", "/teams", f"/teams/{team}/members", "/grants", f"/users/{person.name}/tokens"]
    for path in lists:
        whole = house.admin.everything(path)
        assert len(whole) >= 5
        assert house.admin.everything(path, limit=2) == whole
        exact = house.admin.ask("GET", path, params={"limit": len(whole)})
        assert "link" not in exact.headers
    for path in ("/me/tokens", "/me/sessions"):
        assert len(person.everything(path, limit=2)) == 5


def test_a_page_goes_on_after_a_name_that_is_gone(house: House) -> None:
    names = [house.robot() for _ in range(3)]
    first = house.admin.get(f"/robots?after={sorted(names)[0]}&limit=1")
    house.admin.delete(f"/robots/{first[0]['name']}")
    following = house.admin.get(f"/robots?after={first[0]['name']}&limit=1")
    assert following == [] or following[0]["name"] > first[0]["name"]


PATHS = [
    "/users/{}",
    "/robots/{}",
    "/teams/{}",
    "/teams/{}/members",
    "/users/{}/tokens",
    "/me/tokens/{}",
    "/users/admin/tokens/{}",
]
STRANGE = [
    "%00",
    "a%00b",
    "%0a",
    "%2e%2e",
    "%c3%a9",
    "%ff",
    "'%20OR%20'1'='1",
    "%25",
    "_",
    "*",
    "x" * 300,
    "%e2%80%ae",
]


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_name_in_a_path_is_of_nothing_that_exists(house: House, name: str) -> None:
    for path in PATHS:
        assert house.admin.ask("GET", path.format(name)).status_code == 404
        assert house.admin.ask("DELETE", path.format(name)).status_code in (404, 405)


def test_a_slash_in_a_name_is_a_slash(house: House) -> None:
    """`%2F` is what it stands for, so that a name cannot reach into another's path."""
    robot = house.robot()
    assert house.admin.ask("GET", f"/users%2F{robot}").status_code == 404
    assert house.admin.ask("GET", f"/robots%2F{robot}").status_code == 200


def test_ids_of_others_are_not_there_on_ones_own_paths(house: House) -> None:
    one, other, robot = house.user(), house.user(), house.robot()
    token = other.post("/me/tokens", {"label": "mine"})
    refresh = house.refresh_token(other)
    [session] = other.get("/me/sessions")
    of_robot = house.token(f"robots/{robot}")
    for found in (token["id"], of_robot["id"], session["id"], token["token"]):
        one.get(f"/me/tokens/{found}", 404)
        one.delete(f"/me/tokens/{found}", 404)
        one.delete(f"/me/sessions/{found}", 404)
    # Nor are a session's id and a token's the same kind of thing, for the one whose both are.
    other.delete(f"/me/tokens/{session['id']}", 404)
    other.delete(f"/me/sessions/{token['id']}", 404)
    # Nor does an administrator find them under somebody else.
    for found in (token["id"], session["id"]):
        house.admin.get(f"/users/{one.name}/tokens/{found}", 404)
        house.admin.delete(f"/users/{one.name}/tokens/{found}", 404)
        house.admin.delete(f"/robots/{robot}/tokens/{found}", 404)
    house.admin.delete(f"/users/{other.name}/tokens/{of_robot['id']}", 404)
    assert house.client(bearer=token["token"]).get("/me")["name"] == other.name
    assert house.client(bearer=of_robot["token"]).get("/me")["name"] == robot
    assert house.refreshes(refresh)


def test_a_member_of_another_team_is_not_taken_out_by_its_name(house: House) -> None:
    maintainer, person = house.user(), house.user()
    mine, theirs = house.team(maintainer=maintainer), house.team(member=person)
    maintainer.delete(f"/teams/{mine}/members/{person.name}", 404)
    maintainer.delete(f"/teams/{theirs}/members/{person.name}", 404)
    assert person.get("/me")["teams"] == [{"name": theirs, "role": "member"}]


def test_a_method_that_a_path_does_not_have_is_told_with_those_it_has(house: House) -> None:
    response = house.admin.ask("PUT", "/users", {})
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"
