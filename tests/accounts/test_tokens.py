"""The token service over HTTP, and the challenges that send clients to it.

Source: docker's token documents; OCI distribution-spec, "Determining Support"; RFC 6750.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from tests.accounts.conftest import FROM_ANYWHERE, MakeRegistry
from tests.support import oci
from tests.support.accounts import SERVICE, Registry, authorization, challenge_of, elsewhere
from tests.support.wire import Wire, request

ZERO = "sha256:" + "0" * 64
UPLOAD = "00000000-0000-0000-0000-000000000000"


def granted(answer: httpx.Response) -> dict[str, set[str]]:
    """What the token of an answer was made for: `repository:team/web` and its actions."""
    assert answer.status_code == 200, answer.text
    access = claims(answer.json()["token"])["access"]
    return {f"{entry['type']}:{entry['name']}": set(entry["actions"]) for entry in access}


def claims(token: str) -> dict[str, Any]:
    """What a token says; whether it is signed well is another test's."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


@pytest.fixture
def robot(registry: Registry, name: str) -> tuple[str, str]:
    """Somebody who may pull and push under their own name."""
    made = registry.robot(name)
    registry.grant(f"user:{name}", "pull,push", f"{name}/*")
    return made


@pytest.fixture(scope="module")
def person(registry: Registry) -> tuple[str, str]:
    """Somebody with a password, who may pull under `person/`."""
    made = registry.user("person", "correct horse")
    registry.grant("user:person", "pull", "person/*")
    return made


def post(registry: Registry, **form: str) -> httpx.Response:
    return registry.client().post("/token", data=form)


# --- GET


def test_a_token_is_answered_in_every_form_that_clients_read(registry: Registry, robot: tuple[str, str]) -> None:
    began = time.time()
    answer = registry.ask_token(robot, f"repository:{robot[0]}/web:pull")
    said = answer.json()

    assert said["token"] == said["access_token"]
    assert said["token_type"] == "Bearer"
    assert said["expires_in"] >= 60
    issued = datetime.datetime.fromisoformat(said["issued_at"].replace("Z", "+00:00"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said["issued_at"])
    assert abs(issued.timestamp() - began) < 60
    assert "refresh_token" not in said
    assert answer.headers["Cache-Control"] == "no-store"
    found = claims(said["token"])
    assert found["exp"] - found["iat"] == said["expires_in"]
    assert (found["iss"], found["aud"], found["sub"]) == (SERVICE, SERVICE, robot[0])


def test_scopes_may_be_repeated_and_separated_by_spaces(registry: Registry, robot: tuple[str, str]) -> None:
    name = robot[0]
    scopes = [
        f"repository:{name}/a:pull repository:{name}/b:push",
        f"repository:{name}/a:push",
        f"repository:{name}/c:pull",
    ]

    found = granted(registry.ask_token(robot, *scopes))

    assert found == {
        f"repository:{name}/a": {"pull", "push"},
        f"repository:{name}/b": {"push"},
        f"repository:{name}/c": {"pull"},
    }


def test_a_partial_grant_is_no_error(registry: Registry, robot: tuple[str, str]) -> None:
    name = robot[0]

    answer = registry.ask_token(robot, f"repository:{name}/a:pull,push,delete", "repository:other/x:pull,push")

    assert granted(answer) == {f"repository:{name}/a": {"pull", "push"}}
    assert answer.json()["scope"] == f"repository:{name}/a:pull,push"


def test_nothing_of_what_was_asked_for_is_a_token_all_the_same(registry: Registry, robot: tuple[str, str]) -> None:
    assert granted(registry.ask_token(robot, "repository:other/x:pull,push")) == {}
    assert granted(registry.ask_token(robot)) == {}


def test_a_star_asks_for_all_that_may_be_done(registry: Registry, robot: tuple[str, str]) -> None:
    assert granted(registry.ask_token(robot, f"repository:{robot[0]}/a:*")) == {
        f"repository:{robot[0]}/a": {"pull", "push"}
    }
    assert granted(registry.ask_token(("admin", registry.password), "repository:x:*")) == {
        "repository:x": {"pull", "push", "delete"}
    }


@pytest.mark.parametrize("host", ["localhost:5000", "registry.example.com:443", "[::1]:5000"])
def test_a_name_may_begin_with_a_host_and_a_port(registry: Registry, robot: tuple[str, str], host: str) -> None:
    found = granted(registry.ask_token(robot, f"repository:{host}/{robot[0]}/a:pull"))

    assert found in ({f"repository:{robot[0]}/a": {"pull"}}, {})
    assert found or host.startswith("[")  # the scope grammar has no brackets: dropped


def test_the_name_without_host_and_port_is_not_another_way_in(registry: Registry, robot: tuple[str, str]) -> None:
    assert granted(registry.ask_token(robot, f"repository:{robot[0]}:5000/hidden/x:pull")) == {}


@pytest.mark.parametrize(
    "scope",
    [
        "nonsense",
        "repository:",
        "repository::pull",
        "plugin:x:pull",
        "registry:other:*",
        "registry:catalog:pull",
        "repository:UPPER:pull",
        "repository:../x:pull",
        "repository:x:fly",
        "repository:*:pull",
        "a" * 3000,
        "\x00:x:y",
    ],
)
def test_what_is_not_understood_is_not_granted_and_no_error(registry: Registry, scope: str) -> None:
    admin = ("admin", registry.password)

    found = granted(registry.ask_token(admin, scope, "repository:good:pull"))

    assert found == {"repository:good": {"pull"}}


def test_thousands_of_scopes_are_no_error_and_little_work(registry: Registry) -> None:
    scopes = [f"repository:a{number}:pull" for number in range(400)]

    answer = registry.ask_token(("admin", registry.password), *scopes)

    assert len(granted(answer)) == 100


def test_the_client_chooses_neither_audience_nor_subject(registry: Registry, robot: tuple[str, str]) -> None:
    tricks = {"service": "elsewhere", "account": "admin", "aud": "x", "sub": "admin", "iss": "x", "client_id": "x"}

    answer = registry.client().get("/token", params=tricks, headers=authorization(robot))

    found = claims(answer.json()["token"])
    assert (found["iss"], found["aud"], found["sub"]) == (SERVICE, SERVICE, robot[0])


def test_whoever_has_not_logged_in_gets_a_token_for_what_all_may_pull(registry: Registry) -> None:
    oci.push_image(registry.admin, "public/of-tokens", "v1")

    answer = registry.ask_token(None, "repository:public/of-tokens:pull,push", "repository:private/x:pull")

    assert granted(answer) == {"repository:public/of-tokens": {"pull"}}
    assert claims(answer.json()["token"])["sub"] == ""
    token = registry.client(answer.json()["token"])
    assert token.get(oci.manifest_path("public/of-tokens", "v1")).status_code == 200
    assert token.get("/v2/").status_code == 200


def test_the_catalogues_scope_gives_the_catalogue_and_what_is_in_it(
    registry: Registry, robot: tuple[str, str]
) -> None:
    oci.push_image(registry.client(robot), f"{robot[0]}/listed", "v1")
    oci.push_image(registry.admin, f"hidden/{robot[0]}", "v1")

    answer = registry.ask_token(robot, "registry:catalog:*")
    assert granted(answer) == {"registry:catalog": {"*"}}
    listed = registry.client(answer.json()["token"]).get("/v2/_catalog").json()["repositories"]

    assert f"{robot[0]}/listed" in listed
    assert f"hidden/{robot[0]}" not in listed
    assert listed == registry.client(robot).get("/v2/_catalog").json()["repositories"]


def test_a_token_without_the_catalogues_scope_does_not_give_it(registry: Registry, robot: tuple[str, str]) -> None:
    token = registry.token(robot, f"repository:{robot[0]}/a:pull")

    answer = registry.client(token).get("/v2/_catalog")

    assert answer.status_code == 401
    assert challenge_of(answer)["scope"] == "registry:catalog:*"
    assert challenge_of(answer)["error"] == "insufficient_scope"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_the_token_service_has_two_methods(registry: Registry, method: str) -> None:
    answer = registry.client().request(method, "/token")

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("way", ["basic", "post", "nonsense", "bearer"])
def test_wrong_credentials_are_told_so_and_get_no_token(registry: Registry, way: str) -> None:
    wrong = {"username": "person", "password": "wrong", "grant_type": "password"}
    client, origin = registry.client(), elsewhere()
    answer = {
        "basic": lambda: client.get("/token", headers={**authorization(("person", "wrong")), **origin}),
        "post": lambda: client.post("/token", data=wrong, headers=origin),
        "nonsense": lambda: client.get("/token", headers={"Authorization": "Basic ???", **origin}),
        "bearer": lambda: client.get("/token", headers={"Authorization": "Bearer x", **origin}),
    }[way]()

    assert oci.failure(answer) == (401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Hythe"'


# --- refresh tokens


def test_an_offline_token_is_a_refresh_token_that_gives_access_tokens(
    registry: Registry, person: tuple[str, str]
) -> None:
    answer = registry.ask_token(person, "repository:person/a:pull", offline_token="true", client_id="docker")
    refresh = answer.json()["refresh_token"]
    assert refresh.startswith("hyr_")

    again = post(
        registry,
        grant_type="refresh_token",
        refresh_token=refresh,
        service=SERVICE,
        client_id="docker",
        scope="repository:person/a:pull,push repository:person/b:pull",
    )

    assert granted(again) == {"repository:person/a": {"pull"}, "repository:person/b": {"pull"}}
    assert again.json()["refresh_token"] == refresh
    assert claims(again.json()["access_token"])["sub"] == "person"


def test_only_who_asks_for_one_and_logged_in_gets_a_refresh_token(
    registry: Registry, person: tuple[str, str]
) -> None:
    assert "refresh_token" not in registry.ask_token(person, offline_token="false").json()
    assert "refresh_token" not in registry.ask_token(person).json()
    assert "refresh_token" not in registry.ask_token(None, offline_token="true").json()


def test_a_refresh_token_is_neither_a_password_nor_an_access_token(
    registry: Registry, person: tuple[str, str]
) -> None:
    refresh = registry.ask_token(person, offline_token="true").json()["refresh_token"]

    assert (
        registry.client().get("/token", headers={**authorization(("person", refresh)), **elsewhere()}).status_code
        == 401
    )
    assert (
        registry.client().get("/v2/", headers={**authorization(("person", refresh)), **elsewhere()}).status_code
        == 401
    )
    assert registry.client().get("/v2/", headers={**authorization(refresh), **elsewhere()}).status_code == 401


@pytest.mark.parametrize("kind", ["personal token", "access token", "nonsense", "nothing", "other secret"])
def test_nothing_else_is_a_refresh_token(registry: Registry, person: tuple[str, str], kind: str) -> None:
    refresh = registry.ask_token(person, offline_token="true").json()["refresh_token"]
    presented = {
        "personal token": lambda: registry.personal_token("person"),
        "access token": lambda: registry.token(person),
        "nonsense": lambda: "hyr_x",
        "nothing": lambda: "",
        "other secret": lambda: refresh[:-1] + ("A" if refresh[-1] != "A" else "B"),
    }[kind]()

    answer = post(registry, grant_type="refresh_token", refresh_token=presented)

    assert oci.failure(answer) == (401, "UNAUTHORIZED")


def test_a_refresh_token_ends_with_the_password_that_made_it(registry: Registry, name: str) -> None:
    who = registry.user(name, "correct horse")
    refresh = registry.ask_token(who, offline_token="true").json()["refresh_token"]
    assert post(registry, grant_type="refresh_token", refresh_token=refresh).status_code == 200

    registry.do("user", "passwd", name, "--password-stdin", stdin="another horse\n")

    assert post(registry, grant_type="refresh_token", refresh_token=refresh).status_code == 401


def test_a_refresh_token_ends_with_the_token_that_made_it(registry: Registry, robot: tuple[str, str]) -> None:
    refresh = registry.ask_token(robot, offline_token="true").json()["refresh_token"]
    assert post(registry, grant_type="refresh_token", refresh_token=refresh).status_code == 200

    registry.do("token", "remove", robot[0], robot[1].split("_")[1])

    assert post(registry, grant_type="refresh_token", refresh_token=refresh).status_code == 401


def test_a_refresh_token_lives_no_longer_than_the_token_that_made_it(registry: Registry, name: str) -> None:
    registry.do("robot", "add", name)
    token = registry.personal_token(name, expires="1h")
    refresh = registry.ask_token((name, token), offline_token="true").json()["refresh_token"]

    parent, child = (registry.look(get_credential, secret.split("_")[1]) for secret in (token, refresh))

    assert parent.expires_ms is not None
    assert child.expires_ms == parent.expires_ms


def get_credential(tx: Any, credential_id: str) -> Any:
    from registry.server.index import credentials

    return credentials.get(tx, credential_id)


def test_a_refresh_token_keeps_the_limits_of_the_token_that_made_it(registry: Registry, name: str) -> None:
    registry.do("robot", "add", name)
    registry.grant(f"user:{name}", "pull,push", f"{name}/*")
    token = registry.personal_token(name, f"pull:{name}/a")
    refresh = registry.ask_token((name, token), offline_token="true").json()["refresh_token"]

    answer = post(
        registry,
        grant_type="refresh_token",
        refresh_token=refresh,
        scope=f"repository:{name}/a:pull,push repository:{name}/b:pull",
    )

    assert granted(answer) == {f"repository:{name}/a": {"pull"}}


def test_a_disabled_accounts_refresh_token_does_not_work(
    registry: Registry, person: tuple[str, str], name: str
) -> None:
    who = registry.robot(name)
    refresh = registry.ask_token(who, offline_token="true").json()["refresh_token"]

    registry.do("user", "disable", name)

    assert post(registry, grant_type="refresh_token", refresh_token=refresh).status_code == 401


# --- POST


def test_a_password_is_taken_by_post_as_containerd_sends_it(registry: Registry, person: tuple[str, str]) -> None:
    answer = post(
        registry,
        grant_type="password",
        service=SERVICE,
        client_id="containerd-client",
        scope="repository:person/a:pull repository:person/b:pull,push",
        username=person[0],
        password=person[1],
    )

    assert granted(answer) == {"repository:person/a": {"pull"}, "repository:person/b": {"pull"}}
    assert "refresh_token" not in answer.json()


def test_an_offline_access_by_post_is_a_refresh_token_too(registry: Registry, person: tuple[str, str]) -> None:
    form = {"grant_type": "password", "username": person[0], "password": person[1], "access_type": "offline"}

    refresh = post(registry, **form).json()["refresh_token"]

    assert post(registry, grant_type="refresh_token", refresh_token=refresh).status_code == 200


@pytest.mark.parametrize("grant_type", ["", "client_credentials", "authorization_code", "PASSWORD", None])
def test_another_way_is_refused_with_a_status_on_which_containerd_asks_by_get(
    registry: Registry, person: tuple[str, str], grant_type: str | None
) -> None:
    form = {"username": person[0], "password": person[1]}

    answer = post(registry, **(form if grant_type is None else {**form, "grant_type": grant_type}))

    assert oci.failure(answer) == (400, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"", {400}),
        (b"\xff\xfe", {400}),
        (b'{"grant_type": "password"}', {400}),
        (b"grant_type=password&" * 1000, {400}),
        (b"a" * (1 << 17), {400, 413}),
        (b"grant_type=password", {401}),
        (b"grant_type=password&username=%00&password=%00", {401}),
        (b"grant_type=password&username=%ff&password=%ff", {401}),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)
def test_a_body_that_is_no_form_is_refused(registry: Registry, body: bytes, statuses: set[int]) -> None:
    answer = registry.client().post(
        "/token",
        content=body,
        headers={"Content-Type": "application/x-www-form-urlencoded", **elsewhere()},
    )

    assert oci.failure(answer)[0] in statuses


# --- the key set


def test_the_published_keys_verify_what_was_issued(registry: Registry, robot: tuple[str, str]) -> None:
    published = registry.client().get("/.well-known/jwks.json")
    token = registry.token(robot)

    keys = {key["kid"]: key for key in published.json()["keys"]}
    assert all("d" not in key for key in keys.values())
    used = keys[jwt.get_unverified_header(token)["kid"]]
    found = jwt.decode(token, jwt.PyJWK(used).key, algorithms=["ES256"], audience=SERVICE, issuer=SERVICE)
    assert found["sub"] == robot[0]


# --- /v2/ and challenges


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_base_is_answered_401_without_credentials_so_that_docker_sends_some(
    registry: Registry, method: str, path: str
) -> None:
    answer = registry.client().request(method, path)

    assert answer.status_code == 401
    assert challenge_of(answer) == {"realm": f"{registry.server.url}/token", "service": SERVICE}
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    if method == "GET":
        assert oci.failure(answer) == (401, "UNAUTHORIZED")
    else:
        assert not answer.content


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_base_is_answered_200_with_credentials(
    registry: Registry, robot: tuple[str, str], method: str, path: str
) -> None:
    for identity in (robot, robot[1], registry.token(robot), registry.token(None)):
        assert registry.client(identity).request(method, path).status_code == 200


ROUTES = [
    ("GET", "/v2/{name}/manifests/v1", "pull"),
    ("HEAD", "/v2/{name}/manifests/v1", "pull"),
    ("GET", "/v2/{name}/manifests/" + ZERO, "pull"),
    ("PUT", "/v2/{name}/manifests/v1", "pull,push"),
    ("DELETE", "/v2/{name}/manifests/v1", "delete"),
    ("DELETE", "/v2/{name}/manifests/" + ZERO, "delete"),
    ("GET", "/v2/{name}/blobs/" + ZERO, "pull"),
    ("HEAD", "/v2/{name}/blobs/" + ZERO, "pull"),
    ("DELETE", "/v2/{name}/blobs/" + ZERO, "delete"),
    ("POST", "/v2/{name}/blobs/uploads/", "pull,push"),
    ("POST", "/v2/{name}/blobs/uploads", "pull,push"),
    ("POST", "/v2/{name}/blobs/uploads/?digest=" + ZERO, "pull,push"),
    ("GET", "/v2/{name}/blobs/uploads/" + UPLOAD, "pull,push"),
    ("HEAD", "/v2/{name}/blobs/uploads/" + UPLOAD, "pull,push"),
    ("PATCH", "/v2/{name}/blobs/uploads/" + UPLOAD, "pull,push"),
    ("PUT", "/v2/{name}/blobs/uploads/" + UPLOAD + "?digest=" + ZERO, "pull,push"),
    ("DELETE", "/v2/{name}/blobs/uploads/" + UPLOAD, "pull,push"),
    ("GET", "/v2/{name}/tags/list", "pull"),
    ("HEAD", "/v2/{name}/tags/list", "pull"),
    ("GET", "/v2/{name}/referrers/" + ZERO, "pull"),
]


@pytest.mark.parametrize(("method", "path", "actions"), ROUTES, ids=[f"{row[0]} {row[1][:40]}" for row in ROUTES])
def test_each_route_names_the_scope_that_it_needs(
    registry: Registry, robot: tuple[str, str], method: str, path: str, actions: str
) -> None:
    where = path.format(name="closed/web")
    expected = {
        "realm": f"{registry.server.url}/token",
        "service": SERVICE,
        "scope": f"repository:closed/web:{actions}",
    }

    nobody = registry.client().request(method, where)
    too_little = registry.client(registry.token(robot)).request(method, where)
    forged = registry.client("not.a.token").request(method, where)
    basic = registry.client(robot).request(method, where)

    assert (nobody.status_code, challenge_of(nobody)) == (401, expected)
    assert (too_little.status_code, challenge_of(too_little)) == (401, {**expected, "error": "insufficient_scope"})
    assert (forged.status_code, challenge_of(forged)) == (401, {**expected, "error": "invalid_token"})
    assert basic.status_code == 403
    assert "WWW-Authenticate" not in basic.headers
    if method != "HEAD":
        codes = [oci.failure(answer)[1] for answer in (nobody, too_little, forged, basic)]
        assert codes == ["UNAUTHORIZED", "DENIED", "UNAUTHORIZED", "DENIED"]


def test_a_mount_names_its_sources_scope_too(registry: Registry) -> None:
    answer = registry.client().post(f"/v2/closed/web/blobs/uploads/?mount={ZERO}&from=other/base")

    assert challenge_of(answer)["scope"] == "repository:closed/web:pull,push repository:other/base:pull"


@pytest.mark.parametrize("source", ['x",error="y', "x y", "X", "x\r\nSet-Cookie: a=b", "", "x" * 300, "é"])
def test_a_source_that_is_no_name_does_not_come_into_the_challenge(registry: Registry, source: str) -> None:
    answer = registry.client().post("/v2/closed/web/blobs/uploads/", params={"mount": ZERO, "from": source})

    assert challenge_of(answer)["scope"] == "repository:closed/web:pull,push"
    assert "set-cookie" not in answer.headers


def test_the_scope_of_a_challenge_is_what_the_client_then_gets(registry: Registry, robot: tuple[str, str]) -> None:
    path = f"/v2/{robot[0]}/challenged/blobs/uploads/"
    challenge = challenge_of(registry.client().post(path))

    token = registry.client().get(
        challenge["realm"],
        params={"service": challenge["service"], "scope": challenge["scope"]},
        headers=authorization(robot),
    )

    assert registry.client(token.json()["token"]).post(path).status_code == 202


def test_the_rest_of_the_site_needs_no_login_and_says_nothing_of_the_content(registry: Registry) -> None:
    oci.push_image(registry.admin, "secret/name", "v1")

    for path in ("/", "/healthz", "/readyz", "/v1/_ping", "/.well-known/jwks.json", "/nothing", "/v2/x"):
        answer = registry.client().get(path)
        assert answer.status_code in (200, 404), path
        assert "secret" not in answer.text


def test_search_needs_no_login_and_finds_what_one_may_pull(registry: Registry, robot: tuple[str, str]) -> None:
    oci.push_image(registry.client(robot), f"{robot[0]}/found", "v1")
    oci.push_image(registry.admin, f"public/{robot[0]}-found", "v1")

    def found(identity: Any) -> list[str]:
        answer = registry.client(identity).get("/v1/search", params={"q": f"{robot[0]}"})
        return [result["name"] for result in answer.json()["results"]]

    both = [f"public/{robot[0]}-found", f"{robot[0]}/found"]
    assert found(None) == both[:1]
    for identity in (robot, *(registry.token(robot, f"registry:catalog:{how}") for how in ("*", "search"))):
        assert sorted(found(identity)) == sorted(both)
    assert found(registry.token(robot, f"repository:{robot[0]}/found:pull")) == both[1:]


# --- the realm


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that trusts no proxy."""
    from tests.support.accounts import registry_with_accounts
    from tests.support.server import Server

    with registry_with_accounts(Server(tmp_path_factory.mktemp("plain"))) as running:
        yield running


def realm_of(registry: Registry, host: str | None, **headers: str) -> str:
    """The realm that a client is told whose requests have these headers."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    with Wire(registry.server.port) as wire:
        sent = request("GET", "/v2/", fields | ({} if host is None else {"Host": host}))
        if host is None:
            sent = re.sub(rb"Host: [^\r]*\r\n", b"", sent).replace(b"HTTP/1.1", b"HTTP/1.0")
        answer = wire.ask(sent)
    assert answer.status == 401
    match = re.fullmatch(r'Bearer realm="([^"]*)",service="hythe"', answer.headers["www-authenticate"])
    assert match, answer.headers["www-authenticate"]
    return match[1]


@pytest.mark.parametrize(
    "host", ["localhost:5000", "registry.example.com", "10.0.0.1:80", "[::1]:5000", "a-b.c_d:1"]
)
def test_the_realm_is_where_the_client_asked(plain: Registry, host: str) -> None:
    assert realm_of(plain, host) == f"http://{host}/token"


@pytest.mark.parametrize(
    "host",
    [
        'evil",error="x',
        "evil/path",
        "user@evil",
        "evil?x",
        "evil#x",
        "evil:port",
        "a b",
        "<script>",
        "",
        "evil\\",
        None,
        "evil:99999999",
        "é",
        ",",
        "[::1",
        "evil, other",
    ],
)
def test_a_host_that_is_none_does_not_come_into_the_realm(plain: Registry, host: str | None) -> None:
    assert realm_of(plain, host) == f"http://127.0.0.1:{plain.server.port}/token"


FORWARDED = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "registry.example.com"}


def test_what_is_forwarded_by_nobody_who_is_trusted_is_ignored(plain: Registry) -> None:
    assert realm_of(plain, "localhost:5000", **FORWARDED) == "http://localhost:5000/token"


def test_what_a_trusted_proxy_forwards_counts(registry: Registry) -> None:
    assert realm_of(registry, "10.0.0.1", **FORWARDED) == "https://registry.example.com/token"
    assert realm_of(registry, "10.0.0.1", X_Forwarded_Proto="https") == "https://10.0.0.1/token"
    assert realm_of(registry, "10.0.0.1", X_Forwarded_Host="a.b:8443") == "http://a.b:8443/token"


@pytest.mark.parametrize("host", ['evil",error="x', "a b", "evil/x", "user@evil"])
def test_a_trusted_proxy_that_passes_nonsense_on_does_no_harm(registry: Registry, host: str) -> None:
    found = realm_of(registry, "10.0.0.1", X_Forwarded_Host=host, X_Forwarded_Proto="javascript")

    assert found == f"http://127.0.0.1:{registry.server.port}/token"


def test_of_several_the_nearest_proxys_word_counts(registry: Registry) -> None:
    forwarded = {"X_Forwarded_Proto": "http, https", "X_Forwarded_Host": "evil.example, registry.example.com"}

    assert realm_of(registry, "10.0.0.1", **forwarded) == "https://registry.example.com/token"


def test_the_operators_address_wins_over_whatever_a_request_says(make_registry: MakeRegistry) -> None:
    registry = make_registry(server={"public_url": "https://hub.example.com", **FROM_ANYWHERE})

    assert realm_of(registry, "evil.example", **FORWARDED) == "https://hub.example.com/token"
    assert realm_of(registry, None) == "https://hub.example.com/token"
