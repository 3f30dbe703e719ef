"""People and robots, as an administrator looks after them."""

from __future__ import annotations

import threading

import pytest

from tests.api.conftest import PASSWORD, House, MakeHouse


def test_a_person_is_added_with_a_password(house: House) -> None:
    name = house.name("user")
    made = house.admin.post("/users", {"name": name, "password": PASSWORD})
    assert "password" not in made
    assert made == house.admin.get(f"/users/{name}")
    assert (made["name"], made["origin"], made["is_admin"], made["enabled"]) == (name, "local", False, True)
    assert house.knows((name, PASSWORD))


def test_without_a_password_the_registry_makes_one_and_shows_it_once(house: House) -> None:
    name = house.name("user")
    made = house.admin.post("/users", {"name": name})
    assert len(made["password"]) >= 20
    assert house.knows((name, made["password"]))
    assert "password" not in house.admin.get(f"/users/{name}")
    assert made["password"] not in house.admin.ask("GET", "/audit?limit=1000").text


def test_a_name_is_kept_in_small_letters(house: House) -> None:
    name = house.name("user")
    assert house.admin.post("/users", {"name": name.upper(), "password": PASSWORD})["name"] == name
    assert house.admin.get(f"/users/{name.upper()}")["name"] == name


def test_a_name_is_taken_by_people_and_robots_alike(house: House) -> None:
    person, robot = house.user().name, house.robot()
    for taken in (person, person.upper(), robot):
        house.admin.post("/users", {"name": taken, "password": PASSWORD}, 409)
        house.admin.post("/robots", {"name": taken}, 409)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a/b", "a:b", "../x", "anonymous", "everyone", "é", "a\x00b", "-a", "x" * 129, "a\n", "%00"],
)
def test_a_name_that_cannot_be_is_refused(house: House, name: str) -> None:
    house.admin.post("/users", {"name": name, "password": PASSWORD}, 400)
    house.admin.post("/robots", {"name": name}, 400)


@pytest.mark.parametrize("password", ["", "short", "1234567", "x" * 1025, "€" * 1000])
def test_a_password_that_cannot_be_is_refused(house: House, password: str) -> None:
    house.admin.post("/users", {"name": house.name("user"), "password": password}, 400)
    house.admin.put(f"/users/{house.user().name}/password", {"password": password}, 400)


def test_an_administrator_gives_somebody_another_password(house: House) -> None:
    person = house.user()
    refresh = house.refresh_token(person)
    assert "password" not in house.admin.put(
        f"/users/{person.name}/password", {"password": "entirely another"}, 200
    )
    assert not house.knows((person.name, PASSWORD))
    assert house.knows((person.name, "entirely another"))
    assert not house.refreshes(refresh)
    made = house.admin.put(f"/users/{person.name}/password", {}, 200)
    assert house.knows((person.name, made["password"]))


def test_an_administrators_own_password_needs_the_old_one_on_every_path(house: House) -> None:
    boss = house.user(is_admin=True)
    place = house.audit_place()
    for name in (boss.name, boss.name.upper()):
        boss.put(f"/users/{name}/password", {"password": "entirely another"}, 403)
    assert house.knows((boss.name, PASSWORD))
    assert [one["result"] for one in house.audit_after(place)] == ["denied"] * 2


def test_somebody_becomes_an_administrator_and_no_longer_one(house: House) -> None:
    person = house.user()
    assert house.admin.patch(f"/users/{person.name}", {"is_admin": True})["is_admin"]
    person.get("/users")
    assert not house.admin.patch(f"/users/{person.name}", {"is_admin": False})["is_admin"]
    person.get("/users", 403)


def test_two_changes_at_once_are_one_change_with_two_entries(house: House) -> None:
    person = house.user()
    place = house.audit_place()
    changed = house.admin.patch(f"/users/{person.name}", {"is_admin": True, "enabled": False})
    assert (changed["is_admin"], changed["enabled"]) == (True, False)
    actions = {(one["action"], one["target"]) for one in house.audit_after(place)}
    assert actions == {("user.admin", person.name), ("account.disable", person.name)}


@pytest.mark.parametrize("change", [{}, {"enabled": None}, {"is_admin": "yes"}, {"name": "x"}, {"origin": "oidc"}])
def test_a_change_that_says_nothing_or_too_much_is_refused(house: House, change: dict[str, object]) -> None:
    house.admin.patch(f"/users/{house.user().name}", change, 400)


def test_the_last_administrator_stays(make_house: MakeHouse) -> None:
    house = make_house()
    name = house.admin.name
    for change in ({"is_admin": False}, {"enabled": False}, {"enabled": False, "is_admin": True}):
        house.admin.patch(f"/users/{name}", change, 409)
    house.admin.delete(f"/users/{name}", 409)
    other = house.user(is_admin=True)
    house.admin.patch(f"/users/{other.name}", {"enabled": False})
    house.admin.delete(f"/users/{name}", 409)
    house.admin.patch(f"/users/{other.name}", {"enabled": True})
    other.delete(f"/users/{name}")
    assert [one["name"] for one in other.get("/users")] == [other.name]


def test_two_administrators_who_remove_each_other_at_once_leave_one(make_house: MakeHouse) -> None:
    house = make_house(server={"workers": 2})
    for _ in range(8):
        pair = [house.user(is_admin=True), house.user(is_admin=True)]
        house.admin.patch(f"/users/{house.admin.name}", {"is_admin": False})
        ready = threading.Barrier(2)
        statuses: list[int] = []

        def demote(who: int, pair: list = pair, ready: threading.Barrier = ready, seen: list = statuses) -> None:  # type: ignore[type-arg]
            ready.wait()
            seen.append(pair[who].ask("PATCH", f"/users/{pair[1 - who].name}", {"is_admin": False}).status_code)

        threads = [threading.Thread(target=demote, args=(who,)) for who in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = [one for one in pair if one.get("/me")["is_admin"]]
        assert len(left) == 1, statuses
        left[0].patch(f"/users/{house.admin.name}", {"is_admin": True})
        house.admin.delete(f"/users/{left[0].name}")


def test_a_deleted_person_is_gone_with_everything(house: House) -> None:
    person, keeper = house.user(), house.user()
    team = house.team(member=person, maintainer=keeper)
    house.admin.post(
        "/grants", {"subject": f"user:{person.name}", "pattern": f"{team}/x", "actions": ["pull"]}, 200
    )
    token = house.token(f"users/{person.name}")["token"]
    house.admin.delete(f"/users/{person.name}")
    house.admin.get(f"/users/{person.name}", 404)
    house.admin.delete(f"/users/{person.name}", 404)
    assert house.elsewhere(bearer=token).ask("GET", "/me").status_code == 401
    assert [one["name"] for one in keeper.get(f"/teams/{team}/members")] == [keeper.name]
    assert keeper.get("/grants") == []
    # Whoever gets the name next gets nothing else.
    house.admin.post("/users", {"name": person.name, "password": PASSWORD})
    assert person.get("/me")["teams"] == []
    assert person.get("/me/tokens") == []


def test_a_robot_is_added_locked_out_and_deleted(house: House) -> None:
    name = house.name("robot")
    made = house.admin.post("/robots", {"name": name})
    assert made == house.admin.get(f"/robots/{name}")
    client = house.elsewhere(bearer=house.token(f"robots/{name}")["token"])
    assert client.get("/me")["kind"] == "robot"
    assert not house.admin.patch(f"/robots/{name}", {"enabled": False})["enabled"]
    assert client.ask("GET", "/me").status_code == 401
    assert house.admin.patch(f"/robots/{name}", {"enabled": True})["enabled"]
    client.get("/me")
    house.admin.delete(f"/robots/{name}")
    house.admin.get(f"/robots/{name}", 404)


def test_a_robot_is_no_person_and_a_person_no_robot(house: House) -> None:
    """The path says what it is about; an id of another kind is not there."""
    person, robot = house.user().name, house.robot()
    of_person, of_robot = house.token(f"users/{person}")["id"], house.token(f"robots/{robot}")["id"]
    place = house.audit_place()
    for path in (f"/users/{robot}", f"/robots/{person}"):
        house.admin.get(path, 404)
        house.admin.patch(path, {"enabled": False}, 404)
        house.admin.delete(path, 404)
        house.admin.get(f"{path}/tokens", 404)
        house.admin.post(f"{path}/tokens", {"label": "x"}, 404)
    house.admin.put(f"/users/{robot}/password", {"password": PASSWORD}, 404)
    house.admin.delete(f"/users/{robot}/tokens/{of_robot}", 404)
    house.admin.delete(f"/robots/{person}/tokens/{of_person}", 404)
    house.admin.patch(f"/robots/{robot}", {"is_admin": True}, 400)
    assert house.audit_after(place) == []


def test_people_and_robots_are_listed_apart(house: House) -> None:
    person, robot = house.user().name, house.robot()
    people = [one["name"] for one in house.admin.everything("/users")]
    robots = [one["name"] for one in house.admin.everything("/robots")]
    assert person in people
    assert person not in robots
    assert robot in robots
    assert robot not in people
