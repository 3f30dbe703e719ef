"""Who may do what: every operation asked by everybody, against a table.

Each cell also says what the audit log has afterwards: a change and a denied write with who and from where,
nothing for what was only read, and nothing for those whom the registry does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.api.conftest import PASSWORD, House
from tests.api.described import Client
from tests.support import oci

Asked = tuple[str, Any]

UNKNOWN = ("anonymous", "wrong-password", "disabled", "deleted-token", "refresh-token", "access-token")
KNOWN = ("limited-admin", "user", "robot", "member", "stranger", "maintainer", "admin", "admin-token")
OTHERS = ("user", "robot", "member", "stranger")
ADMINISTRATORS = ("admin", "admin-token")


@dataclass
class Cast:
    """Everybody by their role; `of` is where an administrator finds the account, `users/alice`."""

    house: House
    team: str
    clients: dict[str, Client] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)
    place: int = 0

    def add(self, role: str, client: Client, of: str) -> None:
        self.clients[role] = client
        self.of[role] = of

    def new_entries(self) -> list[dict[str, Any]]:
        """What came into the audit log since this was asked last."""
        found = self.house.audit_after(self.place)
        self.place = found[-1]["id"] if found else self.place
        return found

    # --- things to ask about

    def own_token(self, role: str) -> str:
        """The id of a new token of the one who asks, or of somebody when nobody knows them."""
        return str(self.house.token(self.of[role])["id"])

    def own_session(self, role: str) -> str:
        """The id of a new session of the one who asks, or of somebody who can list theirs."""
        of = self.clients["user" if role in (*UNKNOWN, "limited-admin") else role]
        self.house.refresh_token(of)
        return str(of.everything("/me/sessions")[-1]["id"])

    def victim(self, role: str) -> str:
        """A person that this call may change."""
        return self.house.user().name if role in ADMINISTRATORS else self.of["user"].partition("/")[2]

    def grant(self, pattern: str) -> str:
        """The query of a new grant."""
        name = self.house.name("pattern")
        subject = f"user:{self.clients['user'].name}"
        body = {"subject": subject, "pattern": f"{pattern}{name}", "actions": ["pull"]}
        self.house.admin.post("/grants", body, 200)
        return f"subject={subject}&pattern={pattern}{name}"

    def tag(self, deleted: bool = False) -> str:
        """A new tag in a repository of the team, perhaps one that was just deleted."""
        http, repository, tag = self.house.admin.http, f"{self.team}/app", self.house.name("tag")
        oci.push_image(http, repository, tag)
        if deleted:
            assert http.delete(oci.manifest_path(repository, tag)).status_code == 202
        return tag

    def joined(self) -> str:
        """The name of a robot that is in the team."""
        name = self.house.robot()
        self.house.admin.put(f"/teams/{self.team}/members/{name}", {})
        return name


@pytest.fixture(scope="module")
def cast(house: House) -> Cast:
    """Everybody there is."""
    member, maintainer, stranger, user = (house.user() for _ in range(4))
    made = Cast(house, house.team(member=member, maintainer=maintainer))
    house.team(maintainer=stranger)
    for role, client in (("user", user), ("member", member), ("maintainer", maintainer), ("stranger", stranger)):
        made.add(role, client, f"users/{client.name}")
    robot = house.robot()
    made.add("robot", house.client((robot, house.token(f"robots/{robot}")["token"])), f"robots/{robot}")
    for role, limits in (("admin", {}), ("admin-token", {}), ("limited-admin", {"allow": _EVERYTHING})):
        boss = house.user(is_admin=True)
        of = f"users/{boss.name}"
        if role != "admin":
            boss.http = house.client(bearer=house.token(of, **limits)["token"]).http
        made.add(role, boss, of)
    _add_unknown(made)
    made.place = house.audit_place()
    return made


_EVERYTHING = [{"actions": ["pull", "push", "overwrite", "delete", "admin"], "pattern": "*"}]


def _add_unknown(cast: Cast) -> None:
    house, boss = cast.house, cast.house.user(is_admin=True)
    of = f"users/{boss.name}"
    cast.add("anonymous", house.elsewhere(), of)
    cast.add("wrong-password", house.elsewhere(("nobody", "hyt_0123456789abcdef_" + "x" * 32)), of)
    disabled = house.user(is_admin=True)
    house.admin.patch(f"/users/{disabled.name}", {"enabled": False})
    token = house.token(f"users/{disabled.name}")["token"]
    cast.add("disabled", house.elsewhere((disabled.name, token)), of)
    gone = house.token(of)
    house.admin.delete(f"/{of}/tokens/{gone['id']}")
    cast.add("deleted-token", house.elsewhere(bearer=gone["token"]), of)
    cast.add("refresh-token", house.elsewhere(bearer=house.refresh_token(boss)), of)
    cast.add("access-token", house.elsewhere(bearer=house.access_token(boss)), of)


# --- the table


@dataclass(frozen=True)
class Row:
    """What comes of an operation for those who are neither maintainer nor administrator, and for these.

    `asks` makes what is asked about and returns path and body; `done` and `denied` are words of the audit log.
    """

    asks: Callable[[Cast, str], Asked]
    others: int
    maintainer: int
    admin: int
    done: str = ""
    denied: str = ""
    limited: int = 403
    but: dict[str, int] = field(default_factory=dict)

    def expects(self, role: str) -> int:
        if role in UNKNOWN:
            return 401
        named = {"limited-admin": self.limited, "maintainer": self.maintainer}
        return self.but.get(role, named.get(role, self.admin if role in ADMINISTRATORS else self.others))


def at(path: str, body: Any = None) -> Callable[[Cast, str], Asked]:
    """A path without names."""
    return lambda cast, role: (path, body)


def new(path: str, kind: str) -> Callable[[Cast, str], Asked]:
    """A path where something with a new name is made."""
    return lambda cast, role: (path, {"name": cast.house.name(kind), **({} if kind != "user" else _PASSWORD)})


_PASSWORD = {"password": PASSWORD}
_SAME = {"old_password": PASSWORD, "new_password": PASSWORD}
_LABEL = {"label": "of the table"}
Ask = Callable[[Cast, str], Asked]


def victims(path: str, body: Any = None) -> Ask:
    """A path of a person."""
    return lambda cast, role: (path.format(user=cast.victim(role)), body)


def robots(path: str, body: Any = None) -> Ask:
    """A path of a robot."""
    return lambda cast, role: (path.format(robot=cast.house.robot()), body)


def tokens_of(kind: str) -> Ask:
    """A path of a token of somebody else."""

    def ask(cast: Cast, role: str) -> Asked:
        of = f"robots/{cast.house.robot()}" if kind == "robots" else f"users/{cast.victim(role)}"
        return f"/{of}/tokens/{cast.house.token(of)['id']}", None

    return ask


def teams(path: str, body: Any = None) -> Ask:
    """A path of the team."""
    return lambda cast, role: (path.format(team=cast.team), body)


T, M = "/teams/{team}", "/teams/{team}/members/{member}"
TABLE: dict[tuple[str, str], Row] = {
    ("GET", "/me"): Row(at("/me"), 200, 200, 200, limited=200),
    ("PUT", "/me/password"): Row(
        at("/me/password", _SAME), 204, 204, 204, "user.password", "user.password", but={"robot": 403}
    ),
    ("GET", "/me/sessions"): Row(at("/me/sessions"), 200, 200, 200),
    ("DELETE", "/me/sessions"): Row(at("/me/sessions"), 204, 204, 204, "session.remove", "session.remove"),
    ("DELETE", "/me/sessions/{session}"): Row(
        lambda cast, role: (f"/me/sessions/{cast.own_session(role)}", None),
        204,
        204,
        204,
        "session.remove",
        "session.remove",
    ),
    ("GET", "/me/tokens"): Row(at("/me/tokens"), 200, 200, 200),
    ("POST", "/me/tokens"): Row(at("/me/tokens", _LABEL), 201, 201, 201, "token.add", "token.add"),
    ("GET", "/me/tokens/{token}"): Row(
        lambda cast, role: (f"/me/tokens/{cast.own_token(role)}", None), 200, 200, 200
    ),
    ("DELETE", "/me/tokens/{token}"): Row(
        lambda cast, role: (f"/me/tokens/{cast.own_token(role)}", None),
        204,
        204,
        204,
        "token.remove",
        "token.remove",
    ),
    ("GET", "/users"): Row(at("/users"), 403, 403, 200),
    ("POST", "/users"): Row(new("/users", "user"), 403, 403, 201, "user.add", "user.add"),
    ("GET", "/users/{user}"): Row(victims("/users/{user}"), 404, 404, 200),
    ("PATCH", "/users/{user}"): Row(
        victims("/users/{user}", {"is_admin": True}), 404, 404, 200, "user.admin", "account.change"
    ),
    ("DELETE", "/users/{user}"): Row(victims("/users/{user}"), 404, 404, 204, "account.remove", "account.remove"),
    ("PUT", "/users/{user}/password"): Row(
        victims("/users/{user}/password", _PASSWORD), 404, 404, 200, "user.password", "user.password"
    ),
    ("GET", "/users/{user}/tokens"): Row(victims("/users/{user}/tokens"), 404, 404, 200),
    ("POST", "/users/{user}/tokens"): Row(
        victims("/users/{user}/tokens", _LABEL), 404, 404, 201, "token.add", "token.add"
    ),
    ("GET", "/users/{user}/tokens/{token}"): Row(tokens_of("users"), 404, 404, 200),
    ("DELETE", "/users/{user}/tokens/{token}"): Row(
        tokens_of("users"), 404, 404, 204, "token.remove", "token.remove"
    ),
    ("GET", "/robots"): Row(at("/robots"), 403, 403, 200),
    ("POST", "/robots"): Row(new("/robots", "robot"), 403, 403, 201, "robot.add", "robot.add"),
    ("GET", "/robots/{robot}"): Row(robots("/robots/{robot}"), 404, 404, 200),
    ("PATCH", "/robots/{robot}"): Row(
        robots("/robots/{robot}", {"enabled": False}), 404, 404, 200, "account.disable", "account.change"
    ),
    ("DELETE", "/robots/{robot}"): Row(
        robots("/robots/{robot}"), 404, 404, 204, "account.remove", "account.remove"
    ),
    ("GET", "/robots/{robot}/tokens"): Row(robots("/robots/{robot}/tokens"), 404, 404, 200),
    ("POST", "/robots/{robot}/tokens"): Row(
        robots("/robots/{robot}/tokens", _LABEL), 404, 404, 201, "token.add", "token.add"
    ),
    ("GET", "/robots/{robot}/tokens/{token}"): Row(tokens_of("robots"), 404, 404, 200),
    ("DELETE", "/robots/{robot}/tokens/{token}"): Row(
        tokens_of("robots"), 404, 404, 204, "token.remove", "token.remove"
    ),
    ("GET", "/teams"): Row(at("/teams"), 200, 200, 200),
    ("POST", "/teams"): Row(new("/teams", "team"), 403, 403, 201, "team.add", "team.add"),
    ("GET", "/teams/{team}"): Row(teams(T), 404, 200, 200),
    ("DELETE", "/teams/{team}"): Row(
        lambda cast, role: (f"/teams/{cast.house.team() if role in ADMINISTRATORS else cast.team}", None),
        404,
        403,
        204,
        "team.remove",
        "team.remove",
    ),
    ("GET", "/teams/{team}/members"): Row(teams(T + "/members"), 404, 200, 200),
    ("PUT", "/teams/{team}/members/{member}"): Row(
        lambda cast, role: (M.format(team=cast.team, member=cast.house.robot()), {"role": "member"}),
        404,
        204,
        204,
        "team.join",
        "team.join",
    ),
    ("DELETE", "/teams/{team}/members/{member}"): Row(
        lambda cast, role: (M.format(team=cast.team, member=cast.joined()), None),
        404,
        204,
        204,
        "team.leave",
        "team.leave",
    ),
    ("GET", "/grants"): Row(at("/grants"), 200, 200, 200),
    ("POST", "/grants"): Row(
        lambda cast, role: (
            "/grants",
            {"subject": "everyone", "pattern": f"{cast.team}/{cast.house.name('x')}", "actions": ["pull", "push"]},
        ),
        403,
        200,
        200,
        "grant.add",
        "grant.add",
    ),
    ("DELETE", "/grants"): Row(
        lambda cast, role: (f"/grants?{cast.grant(cast.team + '/')}", None),
        404,
        204,
        204,
        "grant.remove",
        "grant.remove",
    ),
    ("GET", "/may"): Row(at("/may?action=pull&repository=a/b"), 200, 200, 200),
    ("GET", "/audit"): Row(at("/audit?limit=1"), 403, 403, 200),
    ("GET", "/history"): Row(
        lambda cast, role: (f"/history?repository={cast.team}/app&tag={cast.tag()}", None),
        404,
        200,
        200,
        limited=200,
        but={"member": 200},
    ),
    ("GET", "/history/at"): Row(
        lambda cast, role: (f"/history/at?repository={cast.team}/app&tag={cast.tag()}&at=0s", None),
        404,
        200,
        200,
        limited=200,
        but={"member": 200},
    ),
    ("DELETE", "/history"): Row(
        lambda cast, role: (f"/history?repository={cast.team}/app&tag={cast.tag(deleted=True)}", None),
        404,
        200,
        200,
        "history.forget",
        "history.forget",
        limited=200,
        but={"member": 403},
    ),
    ("POST", "/restore"): Row(
        lambda cast, role: ("/restore", {"repository": f"{cast.team}/app", "tag": cast.tag(deleted=True)}),
        404,
        200,
        200,
        "tag.restore",
        "tag.restore",
        limited=200,
        but={"member": 200},
    ),
    ("GET", "/quotas"): Row(at("/quotas"), 200, 200, 200),
    ("POST", "/keys"): Row(at("/keys", {}), 403, 403, 201, "key.rotate", "key.rotate"),
}


def test_the_table_has_every_operation(house: House) -> None:
    described = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in house.description.document["paths"].items()
        for method in methods
    }
    assert set(TABLE) == described - {("GET", "/openapi.json")}


def test_the_unknown_would_be_let_in_if_their_credentials_were_taken_for_what_they_are(cast: Cast) -> None:
    """Otherwise the table would prove nothing about them."""
    client = cast.clients["access-token"]
    assert client.http.get("/v2/").status_code == 200
    bearer = cast.clients["refresh-token"].http.headers["authorization"].partition(" ")[2]
    assert cast.house.refreshes(bearer)


@pytest.mark.parametrize("role", [*UNKNOWN, *KNOWN])
@pytest.mark.parametrize(("method", "path"), TABLE, ids=lambda value: value)
def test_an_operation_does_what_the_table_says(cast: Cast, role: str, method: str, path: str) -> None:
    row, client = TABLE[method, path], cast.clients[role]
    expected = row.expects(role)
    asked, body = row.asks(cast, role)
    cast.new_entries()

    response = client.ask(method, asked, body)

    assert response.status_code == expected, response.text
    entries = [(one["actor"], one["address"], one["action"], one["result"]) for one in cast.new_entries()]
    name = cast.of[role].partition("/")[2]
    if method == "GET" or role in UNKNOWN:
        assert entries == []
    elif expected < 400:
        assert entries == [(name, "127.0.0.1", row.done, "done")]
    else:
        assert entries == [(name, "127.0.0.1", row.denied, "denied")]


@pytest.mark.parametrize("role", ["user", "member", "stranger", "maintainer"])
def test_what_one_may_not_see_looks_like_what_does_not_exist(cast: Cast, role: str) -> None:
    house, client = cast.house, cast.clients[role]
    robot = house.robot()
    user, team = house.user().name, house.team()
    token = house.token(f"robots/{robot}")["id"]
    hidden = [
        ("GET", "/users/{}", user),
        ("DELETE", "/users/{}", user),
        ("GET", "/users/{}/tokens", user),
        ("GET", "/robots/{}", robot),
        ("GET", f"/robots/{robot}/tokens/{{}}", token),
        ("DELETE", f"/robots/{robot}/tokens/{{}}", token),
        ("GET", "/teams/{}", team),
        ("DELETE", "/teams/{}", team),
        ("GET", "/teams/{}/members", team),
        ("DELETE", f"/teams/{team}/members/{{}}", user),
        ("GET", "/may?action=pull&repository=a/b&account={}", user),
        ("DELETE", "/grants?subject=user:{}&pattern=other/*", user),
    ]
    for method, path, name in hidden:
        there = client.ask(method, path.format(name))
        missing = client.ask(method, path.format("nobody-has-this-name"))
        assert there.status_code == missing.status_code == 404
        assert there.content == missing.content
        assert sorted(there.headers.keys()) == sorted(missing.headers.keys())
