"""What everybody can do for themselves: look, change the password, end sessions."""

from __future__ import annotations

from tests.api.conftest import PASSWORD, House


def test_one_sees_ones_teams_and_what_one_may_do(house: House) -> None:
    person = house.user()
    name = person.name
    web, ops = house.team(maintainer=person), house.team(member=person)
    house.admin.post("/grants", {"subject": f"user:{name}", "pattern": "x/y", "actions": ["pull", "push"]}, 200)
    house.admin.post("/grants", {"subject": f"team:{ops}", "pattern": "base/*", "actions": ["pull"]}, 200)
    me = person.get("/me")
    assert (me["name"], me["kind"], me["origin"], me["is_admin"], me["token"]) == (
        name,
        "user",
        "local",
        False,
        None,
    )
    assert {(team["name"], team["role"]) for team in me["teams"]} == {(web, "maintainer"), (ops, "member")}
    assert (
        f"maintainer of the owning team: team:{web} may pull,push,overwrite,delete,admin on {web}/*" in me["may"]
    )
    assert f"granted to the account: user:{name} may pull,push on x/y" in me["may"]
    assert f"granted to a team of it: team:{ops} may pull on base/*" in me["may"]


def test_an_administrator_may_do_everything_and_is_told_so(house: House) -> None:
    me = house.admin.get("/me")
    assert me["is_admin"]
    assert me["may"][0] == "administrator: administrator may pull,push,overwrite,delete,admin on *"


def test_a_limited_token_is_told_its_limits(house: House) -> None:
    person = house.user()
    allow = [{"actions": ["pull", "push"], "pattern": "web/*"}, {"actions": ["pull"], "pattern": "base/*"}]
    made = person.post("/me/tokens", {"label": "ci", "allow": allow, "expires_in_seconds": 3600})
    me = house.client(bearer=made["token"]).get("/me")
    assert me["token"] == {"id": made["id"], "allow": allow, "expires_at": made["expires_at"]}


def test_one_changes_ones_password_with_the_old_one(house: House) -> None:
    person = house.user()
    place = house.audit_place()
    person.put("/me/password", {"old_password": PASSWORD, "new_password": "entirely another"})
    assert not house.knows((person.name, PASSWORD))
    assert house.knows((person.name, "entirely another"))
    [entry] = house.audit_after(place)
    assert (entry["actor"], entry["action"], entry["target"]) == (person.name, "user.password", person.name)


def test_the_old_password_has_to_be_right(house: House) -> None:
    person = house.user()
    for wrong in ("not the old one", "", PASSWORD.upper(), PASSWORD + "\0"):
        client = house.elsewhere((person.name, PASSWORD))
        client.put("/me/password", {"old_password": wrong, "new_password": "entirely another"}, 403)
    assert house.knows((person.name, PASSWORD))


def test_a_token_is_no_old_password(house: House) -> None:
    person = house.user()
    token = person.post("/me/tokens", {"label": "mine"})["token"]
    client = house.client(bearer=token)
    client.put("/me/password", {"old_password": token, "new_password": "entirely another"}, 403)
    assert house.knows((person.name, PASSWORD))
    client.put("/me/password", {"old_password": PASSWORD, "new_password": "entirely another"})


def test_the_old_password_of_somebody_else_is_not_ones_own(house: House) -> None:
    person = house.user()
    house.admin.put(f"/users/{person.name}/password", {"password": "is not the usual one"}, 200)
    me = house.client((person.name, "is not the usual one"))
    me.put("/me/password", {"old_password": PASSWORD, "new_password": "entirely another"}, 403)


def test_a_new_password_is_neither_short_nor_endless(house: House) -> None:
    person = house.user()
    for bad in ("", "short", "x" * 1025, "€" * 1024):
        person.put("/me/password", {"old_password": PASSWORD, "new_password": bad}, 400)
    assert house.knows((person.name, PASSWORD))


def test_a_new_password_ends_sessions_and_leaves_tokens(house: House) -> None:
    person = house.user()
    refresh, access = house.refresh_token(person), house.access_token(person)
    token = person.post("/me/tokens", {"label": "mine"})["token"]
    person.put("/me/password", {"old_password": PASSWORD, "new_password": "entirely another"})
    assert not house.refreshes(refresh)
    assert house.client(bearer=access).http.get("/v2/").status_code == 401
    assert house.client(bearer=token).get("/me/sessions") == []


def test_a_robot_has_no_password_to_change(house: House) -> None:
    robot = house.robot()
    token = house.token(f"robots/{robot}")["token"]
    client = house.client(bearer=token)
    assert client.get("/me")["kind"] == "robot"
    client.put("/me/password", {"old_password": token, "new_password": "entirely another"}, 403)


def test_one_sees_ones_sessions_and_ends_them(house: House) -> None:
    person = house.user()
    tokens = [house.refresh_token(person, client) for client in ("docker", "podman", "a laptop")]
    sessions = person.get("/me/sessions")
    assert [one["client"] for one in sessions] == ["docker", "podman", "a laptop"]
    assert all(one["made_by"] is None and one["expires_at"] > one["created_at"] for one in sessions)
    assert tokens[0].split("_")[1] == sessions[0]["id"]

    person.delete(f"/me/sessions/{sessions[1]['id']}")
    assert [house.refreshes(token) for token in tokens] == [True, False, True]
    assert [one["client"] for one in person.get("/me/sessions")] == ["docker", "a laptop"]
    person.delete(f"/me/sessions/{sessions[1]['id']}", 404)


def test_an_access_token_ends_with_the_session_it_came_from(house: House) -> None:
    person = house.user()
    form = {"grant_type": "refresh_token", "refresh_token": house.refresh_token(person), "service": "hythe"}
    access = house.client().http.post("/token", data=form).json()["token"]
    client = house.client(bearer=access)
    assert client.http.get("/v2/").status_code == 200
    [session] = person.get("/me/sessions")
    person.delete(f"/me/sessions/{session['id']}")
    assert client.http.get("/v2/").status_code == 401


def test_one_logs_out_everywhere(house: House) -> None:
    person = house.user()
    tokens = [house.refresh_token(person) for _ in range(3)]
    access = house.access_token(person)
    mine = person.post("/me/tokens", {"label": "mine"})["token"]
    place = house.audit_place()
    person.delete("/me/sessions")
    assert not any(house.refreshes(token) for token in tokens)
    assert house.client(bearer=access).http.get("/v2/").status_code == 401
    assert person.get("/me/sessions") == []
    assert house.client(bearer=mine).get("/me")["name"] == person.name
    [entry] = house.audit_after(place)
    assert (entry["action"], entry["target"]) == ("session.remove", f"{person.name}/*")


def test_the_sessions_of_others_are_not_touched(house: House) -> None:
    one, other = house.user(), house.user()
    theirs = house.refresh_token(other)
    [session] = other.get("/me/sessions")
    one.delete(f"/me/sessions/{session['id']}", 404)
    one.delete("/me/sessions")
    assert house.refreshes(theirs)
