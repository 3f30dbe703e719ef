"""Who is let in: by Authorization alone, with what is meant for this."""

from __future__ import annotations

import base64
import contextlib
import http.client
import sqlite3
import time
from collections.abc import Callable

import pytest

from tests.api.conftest import PASSWORD, House, MakeHouse


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_a_person_comes_in_with_their_password_or_a_token(house: House) -> None:
    person = house.user()
    token = house.token(f"users/{person.name}")
    by_password = person.get("/me")
    by_name_and_token = house.client((person.name, token["token"])).get("/me")
    by_token = house.client(bearer=token["token"]).get("/me")
    assert by_password["name"] == by_name_and_token["name"] == by_token["name"] == person.name
    assert by_password["token"] is None
    assert by_token["token"] == {"id": token["id"], "allow": [], "expires_at": None}


def test_a_name_is_the_same_in_capital_letters(house: House) -> None:
    person = house.user()
    assert house.client((person.name.upper(), PASSWORD)).get("/me")["name"] == person.name


MALFORMED = [
    "Basic",
    "Basic !!!",
    "Basic " + base64.b64encode(b"no colon").decode(),
    "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    "Bearer",
    "Bearer hyt_",
    "Digest username=admin",
    "hyt_0123456789abcdef_" + "x" * 32,
    "Basic " + "A" * 10_000,
]


@pytest.mark.parametrize("header", MALFORMED, ids=lambda header: header[:24])
def test_a_header_that_cannot_be_read_lets_nobody_in(house: House, header: str) -> None:
    response = house.client().ask("GET", "/me", headers={"Authorization": header})
    assert response.status_code == 401


def test_two_headers_are_none(house: House) -> None:
    person = house.user()
    value = basic(person.name, PASSWORD)
    headers = [("Authorization", value), ("Authorization", value)]
    assert house.client().ask("GET", "/me", headers=headers).status_code == 401


def test_a_token_with_the_name_of_somebody_else_lets_nobody_in(house: House) -> None:
    one, other = house.user(), house.user()
    token = house.token(f"users/{one.name}")["token"]
    assert not house.knows((other.name, token))
    assert house.knows((one.name, token))


def test_an_access_token_of_the_token_service_is_for_repositories_alone(house: House) -> None:
    boss = house.user(is_admin=True)
    token = house.access_token(boss, "registry:catalog:*")
    client = house.elsewhere(bearer=token)
    assert client.http.get("/v2/_catalog").status_code == 200
    assert client.ask("GET", "/me").status_code == 401
    assert not house.knows((boss.name, token))


def test_a_refresh_token_is_for_the_token_service_alone(house: House) -> None:
    person = house.user()
    token = house.refresh_token(person)
    assert house.elsewhere(bearer=token).ask("GET", "/me").status_code == 401
    assert not house.knows((person.name, token))


def test_an_expired_token_lets_nobody_in(house: House) -> None:
    person = house.user()
    token = person.post("/me/tokens", {"label": "short", "expires_in_seconds": 1})["token"]
    client = house.client(bearer=token)
    assert client.ask("GET", "/me").status_code in (200, 401)
    deadline = time.monotonic() + 10
    while client.ask("GET", "/me").status_code == 200:
        assert time.monotonic() < deadline
    assert client.ask("GET", "/me").status_code == 401


def test_cookies_and_parameters_are_no_credentials(house: House) -> None:
    token = house.token(f"users/{house.user().name}")["token"]
    client = house.client()
    assert client.ask("GET", "/me", headers={"Cookie": f"token={token}; session={token}"}).status_code == 401
    assert client.ask("GET", f"/me?token={token}&access_token={token}").status_code == 401


def test_the_pages_of_others_are_not_told_anything(house: House) -> None:
    preflight = house.admin.http.options(
        "/api/v1/keys", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    answer = house.admin.ask("GET", "/me", headers={"Origin": "https://evil.example"})
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_of_another_page_can_send_changes_nothing(house: House, kind: str) -> None:
    """A browser that was told a password sends it along; then the type of the body is what stops it."""
    place = house.audit_place()
    for path, body in (("/keys", b""), ("/keys", b"{}"), ("/users", b'{"name":"evil"}')):
        headers = {"Content-Type": kind} if kind else {}
        response = house.admin.ask("POST", path, content=body, headers=headers)
        assert response.status_code == 415
    assert house.audit_after(place) == []


def test_a_disabled_person_is_out_at_once_with_everything_they_have(house: House) -> None:
    person = house.user()
    token = house.token(f"users/{person.name}")["token"]
    clients = [person, house.elsewhere(bearer=token), house.elsewhere((person.name, token))]
    for client in clients:
        client.get("/me")
    house.admin.patch(f"/users/{person.name}", {"enabled": False})
    for client in clients:
        assert client.ask("GET", "/me").status_code == 401
    house.admin.patch(f"/users/{person.name}", {"enabled": True})
    for client in clients:
        client.get("/me")


def test_whoever_guesses_passwords_has_to_wait(make_house: MakeHouse) -> None:
    house = make_house()
    person = house.user()
    guesser = house.client((person.name, "a wrong password"))
    seen = [guesser.ask("GET", "/me") for _ in range(8)]
    assert [one.status_code for one in seen[:5]] == [401] * 5
    assert seen[-1].status_code == 429
    assert int(seen[-1].headers["retry-after"]) >= 1
    # The right password is not told apart from others meanwhile, a token is no guess.
    assert person.ask("GET", "/me").status_code == 429
    token = house.token(f"users/{person.name}")["token"]
    assert house.client((person.name, token)).ask("GET", "/me").status_code == 200


def test_guessing_the_old_password_is_slowed_like_a_login(make_house: MakeHouse) -> None:
    house = make_house()
    person = house.user()
    wanted = {"old_password": "a wrong password", "new_password": "another password"}
    client = house.client(bearer=house.token(f"users/{person.name}")["token"])
    seen = [client.ask("PUT", "/me/password", wanted).status_code for _ in range(8)]
    assert seen[:5] == [403] * 5
    assert seen[-1] == 429
    right = {"old_password": PASSWORD, "new_password": "another password"}
    assert client.ask("PUT", "/me/password", right).status_code == 429


def test_requests_are_counted_by_address_as_everywhere(make_house: MakeHouse) -> None:
    house = make_house(limits={"request_rate": 2.0})
    client = house.client()
    answers = [client.ask("GET", "/me") for _ in range(12)]
    last = answers[-1]
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) >= 1


Change = Callable[[House, str, str], None]
CHANGES: dict[str, Change] = {
    "taken out of the team": lambda house, team, name: house.admin.delete(f"/teams/{team}/members/{name}"),
    "a member like others": lambda house, team, name: house.admin.put(f"/teams/{team}/members/{name}", {}),
    "disabled": lambda house, team, name: house.admin.patch(f"/users/{name}", {"enabled": False}),
    "without their password": lambda house, team, name: house.admin.put(
        f"/users/{name}/password", {"password": "given by the administrator"}, 200
    ),
    "deleted": lambda house, team, name: house.admin.delete(f"/users/{name}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_who_somebody_is_counts_when_their_request_is_whole(house: House, change: str) -> None:
    """A right that is gone before the last byte of the body came is no right to what the body says."""
    person, robot = house.user(), house.robot()
    team = house.team(maintainer=person)
    body = b'{"role":"member"}'
    raw = http.client.HTTPConnection("127.0.0.1", house.server.port, timeout=20)
    raw.putrequest("PUT", f"/api/v1/teams/{team}/members/{robot}")
    raw.putheader("Authorization", basic(person.name, PASSWORD))
    raw.putheader("Content-Type", "application/json")
    raw.putheader("Content-Length", str(len(body)))
    raw.endheaders()
    raw.send(body[:5])
    CHANGES[change](house, team, person.name)
    raw.send(body[5:])
    assert raw.getresponse().status in (401, 404)
    raw.close()
    members = [one["name"] for one in house.admin.get(f"/teams/{team}/members")]
    assert robot not in members


def test_a_fault_of_a_body_is_told_as_a_problem(make_house: MakeHouse) -> None:
    house = make_house(server={"body_idle_seconds": 0.5})
    raw = http.client.HTTPConnection("127.0.0.1", house.server.port, timeout=20)
    raw.putrequest("POST", "/api/v1/teams")
    raw.putheader("Authorization", basic(house.admin.name, house.admin.password))
    raw.putheader("Content-Type", "application/json")
    raw.putheader("Content-Length", "100")
    raw.endheaders()
    answer = raw.getresponse()
    assert answer.status == 408
    assert answer.getheader("content-type") == "application/problem+json"
    raw.close()


def test_secrets_are_not_in_the_log(make_house: MakeHouse) -> None:
    house = make_house()
    person = house.user()
    token = person.post("/me/tokens", {"label": "mine"})["token"]
    made = house.admin.post("/users", {"name": "somebody"})["password"]
    person.put("/me/password", {"old_password": PASSWORD, "new_password": "a new good password"})
    refresh = house.refresh_token(house.client((person.name, token)))
    house.server.stop()
    log = house.server.log()
    for secret in (token, made, refresh, PASSWORD, "a new good password"):
        assert secret not in log


def test_the_log_says_who_asked_for_what(make_house: MakeHouse) -> None:
    house = make_house()
    house.admin.get("/teams")
    house.client().ask("GET", "/users")
    house.server.stop()
    done = [one for one in house.server.events() if one["event"] == "request.done"]
    assert ("admin", "/api/v1/teams", 200) in [(one.get("user"), one["path"], one["status"]) for one in done]
    assert (None, "/api/v1/users", 401) in [(one.get("user"), one["path"], one["status"]) for one in done]


def test_what_breaks_inside_is_told_as_a_problem_without_its_insides(make_house: MakeHouse) -> None:
    house = make_house(index={"url": ""})
    house.admin.get("/teams")
    with contextlib.closing(sqlite3.connect(house.server.data / "index.sqlite3")) as index:
        index.execute("DROP TABLE team")
    response = house.admin.ask("GET", "/teams")
    assert response.status_code in (500, 503)
    assert "sql" not in response.text.lower()
    assert "team" not in response.text
