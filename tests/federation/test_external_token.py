"""A token service of somebody else's in place of ours, as GitLab and Harbor have one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from registry.oci.errors import ConfigurationError
from registry.server import federation
from tests.federation.conftest import MakeRegistry, server_at
from tests.federation.provider import FORGERIES, Key, Provider, forge
from tests.federation.test_pages import settings_of
from tests.support import oci, peers
from tests.support.accounts import Registry, challenge_of, registry_with_accounts

REALM = "https://gitlab.example.com/jwt/auth?from=registry"
ISSUER, SERVICE = "gitlab-issuer", "container_registry"
KEYS = {algorithm: Key("gitlab-1", algorithm) for algorithm in ("RS256", "ES256", "EdDSA")}


def claims(*access: tuple[str, str, list[str]], **more: Any) -> dict[str, Any]:
    """What GitLab's token says."""
    now = int(time.time())
    entries = [{"type": kind, "name": name, "actions": actions} for kind, name, actions in access]
    times = {"iat": now, "nbf": now - 5, "exp": now + 300}
    return {"iss": ISSUER, "aud": SERVICE, "sub": "alice", "jti": "x", **times, "access": entries, **more}


def on(repository: str, *actions: str) -> tuple[str, str, list[str]]:
    return "repository", repository, list(actions)


def token(*access: tuple[str, str, list[str]], **more: Any) -> str:
    return KEYS["RS256"].sign(claims(*access, **more))


def settings(**more: str) -> dict[str, Any]:
    return {"realm": REALM, "service": SERVICE, "issuer": ISSUER, **more}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that verifies with a PEM file, and lets anybody pull `public/*`."""
    place = tmp_path_factory.mktemp("external")
    (place / "key.pem").write_bytes(KEYS["RS256"].public_pem())
    server = server_at(
        place / "server", external_token=settings(public_key=str(place / "key.pem")), anonymous_pull=["public/*"]
    )
    with registry_with_accounts(server) as running:
        yield running
        assert not peers.faults(running.server)


def tags(registry: Registry, repository: str, bearer: str | None) -> int:
    return registry.client(bearer).get(oci.tags_path(repository)).status_code


# --- challenges


def test_clients_are_sent_to_the_other_service_with_its_name_for_us(registry: Registry) -> None:
    for path, scope in (("/v2/", None), (oci.tags_path("team/web"), "repository:team/web:pull")):
        answer = registry.client().get(path)
        assert answer.status_code == 401
        found = challenge_of(answer)
        assert (found["realm"], found["service"], found.get("scope")) == (REALM, SERVICE, scope)

    refused = registry.client(token(on("team/web", "pull"))).post(oci.uploads_path("team/web"))
    assert refused.status_code == 401
    assert challenge_of(refused) | {"error": "insufficient_scope", "realm": REALM} == challenge_of(refused)


def test_a_token_flow_as_docker_does_it(registry: Registry) -> None:
    """/v2/, the challenge, a token of the other service for its scope, and the request again."""
    layer = oci.blob(1000)
    begun = registry.client().post(oci.uploads_path("team/web"))
    assert challenge_of(begun)["scope"] == "repository:team/web:pull,push"

    pushing = registry.client(token(on("team/web", "pull", "push")))
    assert pushing.get("/v2/").status_code == 200
    oci.push_blob(pushing, "team/web", layer)
    image = oci.push_image(pushing, "team/web", "v1")
    image = oci.push_image(pushing, "team/web", "v1")  # push implies overwriting
    pulling = registry.client(token(on("team/web", "pull")))

    assert pulling.get(oci.manifest_path("team/web", "v1")).content == image.data
    assert pulling.delete(oci.manifest_path("team/web", "v1")).status_code == 401
    deleting = registry.client(token(on("team/web", "delete")))
    assert deleting.delete(oci.manifest_path("team/web", "v1")).status_code == 202


# --- what its claims mean


@pytest.mark.parametrize(
    ("access", "pull", "push", "delete"),
    [
        ((), False, False, False),
        ((on("t/a", "pull"),), True, False, False),
        ((on("t/a", "push"),), False, True, False),
        ((on("t/a", "pull", "push"),), True, True, False),
        ((on("t/a", "delete"),), False, False, True),
        ((on("t/a", "*"),), True, True, True),
        ((on("t/a", "pull"), on("t/a", "push")), True, True, False),
        ((on("t/b", "*"),), False, False, False),
        ((on("t/*", "*"),), False, False, False),
        ((on("*", "*"),), False, False, False),
        ((on("T/A", "*"),), False, False, False),
        ((("registry", "catalog", ["*"]),), False, False, False),
        ((("repository(plugin)", "t/a", ["pull"]),), False, False, False),
        ((on("t/a", "PULL", "pull,push", " pull"),), False, False, False),
    ],
)
def test_the_access_claim_alone_decides(
    registry: Registry, access: tuple[Any, ...], pull: bool, push: bool, delete: bool
) -> None:
    client = registry.client(token(*access))
    gone = "sha256:" + "0" * 64

    assert client.get(oci.tags_path("t/a")).status_code == (404 if pull else 401)
    assert client.post(oci.uploads_path("t/a")).status_code == (202 if push else 401)
    assert client.delete(oci.manifest_path("t/a", gone)).status_code == (404 if delete else 401)


def test_the_catalogue_needs_its_own_entry(registry: Registry) -> None:
    with_it = token(("registry", "catalog", ["*"]))

    assert registry.client(with_it).get("/v2/_catalog").status_code == 200
    assert registry.client(token(on("t/a", "*"))).get("/v2/_catalog").status_code == 401


def test_the_name_in_it_brings_no_rights_of_an_account_here(registry: Registry) -> None:
    as_admin = token(on("t/a", "pull"), sub="admin", acc=1, gen=1, crd="")

    assert tags(registry, "t/b", as_admin) == 401
    assert registry.client(as_admin).get("/api/v1/users").status_code in (401, 403)
    assert (
        registry.client(token(sub="admin", rule="x", mark="y", whole=True)).get("/v2/_catalog").status_code == 401
    )


def test_a_mount_needs_the_right_on_its_source(registry: Registry) -> None:
    both = registry.client(token(on("m/a", "pull", "push"), on("m/b", "pull", "push")))
    blob = oci.push_blob(both, "m/a", oci.blob(100))
    mount = oci.with_query(oci.uploads_path("m/b"), mount=blob.digest, **{"from": "m/a"})

    assert registry.client(token(on("m/b", "pull", "push"))).post(mount).status_code == 202
    assert both.post(mount).status_code == 201


@pytest.mark.parametrize("sub", [None, "", "a\nb\x00c", "x" * 5000, "<b>", "\ud800"])
def test_any_subject_can_push(registry: Registry, sub: str | None) -> None:
    more = {} if sub is None else {"sub": sub}
    body = {name: value for name, value in claims(on("s/a", "pull", "push")).items() if name != "sub"}

    client = registry.client(KEYS["RS256"].sign({**body, **more}))

    oci.push_blob(client, "s/a", oci.blob(70_000))


@pytest.mark.parametrize(
    "access",
    [
        *(7, "x", {"type": "repository"}, [7], [["x"]], [{}], [None], [{"type": "repository", "name": "t/a"}]),
        [{"type": "repository", "name": "t/a", "actions": "pull"}],
    ],
)
def test_a_claim_of_another_form_is_no_token(registry: Registry, access: Any) -> None:
    assert tags(registry, "t/a", token(access=access)) == 401


def test_without_a_token_what_is_public_stays_so(registry: Registry) -> None:
    assert tags(registry, "public/a", None) == 404
    assert tags(registry, "t/a", None) == 401


def test_accounts_of_this_registry_go_on_with_basic_and_with_our_own_tokens(registry: Registry) -> None:
    assert registry.admin.get("/v2/_catalog").status_code == 200
    ours = registry.token(("admin", registry.password), "repository:t/a:pull")
    assert tags(registry, "t/a", ours) == 404


# --- what is no token of it


@pytest.mark.parametrize("how", [*FORGERIES, "without_nbf"])
def test_a_token_that_is_wrong_in_one_way_is_refused_with_the_same_words(registry: Registry, how: str) -> None:
    made = forge(how, KEYS["RS256"], claims(on("t/a", "*")))

    answer = registry.client().get(oci.tags_path("t/a"), headers={"Authorization": f"Bearer {made}"})

    assert answer.status_code == 401
    if how != "too_long":
        assert answer.json()["errors"][0]["message"] == "the token is not valid here, or no longer"
        assert challenge_of(answer)["error"] == "invalid_token"


def test_a_token_that_is_good_for_others_too_is_good(registry: Registry) -> None:
    assert tags(registry, "t/a", token(on("t/a", "pull"), aud=["other", SERVICE])) == 404


def test_a_clock_may_be_a_little_off_and_no_more(registry: Registry) -> None:
    now = int(time.time())
    for seconds, expected in ((20, 404), (60, 401)):
        assert tags(registry, "t/a", token(on("t/a", "pull"), iat=now + seconds, nbf=now + seconds)) == expected
        assert tags(registry, "t/a", token(on("t/a", "pull"), exp=now - seconds)) == expected


def test_our_own_key_signs_nothing_for_the_other_service(registry: Registry) -> None:
    ours = registry.signing_key()
    body = claims(on("t/a", "*"))

    assert tags(registry, "t/a", registry.forge(body, ours)) == 401


# --- where its keys come from


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_each_kind_of_key_may_be_in_a_pem_file_or_a_key_set(
    make_registry: MakeRegistry, tmp_path: Path, algorithm: str
) -> None:
    key = KEYS[algorithm]
    (tmp_path / "keys.pem").write_bytes(Key(None).public_pem() + b"\nnoise\n" + key.public_pem())
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [Key("old").jwk(), key.jwk()]}))
    body = claims(on("t/a", "pull"))
    for source in ({"public_key": str(tmp_path / "keys.pem")}, {"jwks_file": str(tmp_path / "keys.json")}):
        registry = make_registry(external_token=settings(**source))
        assert tags(registry, "t/a", key.sign(body)) == 404
        for other in KEYS.values():
            if other is not key:
                assert tags(registry, "t/a", other.sign(body)) == 401


def test_claims_that_its_tokens_lack_may_be_forgiven_by_a_setting(
    make_registry: MakeRegistry, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(KEYS["RS256"].public_pem())
    registry = make_registry(
        external_token=settings(public_key=str(tmp_path / "key.pem")) | {"may_lack": ["nbf", "iat"]}
    )
    body = claims(on("t/a", "pull"))

    for name, expected in (("nbf", 404), ("iat", 404), ("exp", 401), ("aud", 401), ("iss", 401)):
        without = {key: value for key, value in body.items() if key != name}
        assert tags(registry, "t/a", KEYS["RS256"].sign(without)) == expected, name


def test_keys_at_an_address_are_kept_and_asked_for_again_once_when_a_new_one_signs(
    make_registry: MakeRegistry, rotating: Provider
) -> None:
    registry = make_registry(external_token=settings(jwks_url=f"{rotating.url}/keys"))
    rotating.control(rotate="ES256")
    asked = rotating.hits("/keys")
    body = claims(on("t/a", "pull"))
    first = rotating.mint(body)

    assert [tags(registry, "t/a", first) for _ in range(3)] == [404] * 3
    assert rotating.hits("/keys") == asked + 1

    rotating.control(rotate="RS256")
    assert tags(registry, "t/a", rotating.mint(body)) == 404
    assert rotating.hits("/keys") == asked + 2
    assert tags(registry, "t/a", first) == 401  # its key is no longer listed

    for how in ("unknown_kid", "kid_path", "kid_sql", "jku"):
        assert tags(registry, "t/a", forge(how, Key("stranger"), body, f"{rotating.url}/elsewhere")) == 401
    assert rotating.hits("/keys") == asked + 2
    assert rotating.hits("/elsewhere") == 0


def test_what_a_token_names_is_never_fetched(make_registry: MakeRegistry, provider: Provider) -> None:
    registry = make_registry(external_token=settings(jwks_url=f"{provider.url}/keys"))
    evil = f"{provider.url}/elsewhere"
    stranger = Key("evil")

    for header in ({"jku": evil}, {"x5u": evil}, {"kid": evil}, {"jwk": stranger.jwk()}, {"iss": evil}):
        assert tags(registry, "t/a", stranger.sign(claims(on("t/a", "*")), **header)) == 401
    assert tags(registry, "t/a", stranger.sign(claims(on("t/a", "*"), iss=provider.url, jku=evil))) == 401

    hits = provider.control()["hits"]
    assert "/elsewhere" not in hits


def test_keys_that_cannot_be_had_are_our_trouble_and_not_the_clients(
    make_registry: MakeRegistry, provider: Provider
) -> None:
    provider.control(keys_answer="gone")
    registry = make_registry(external_token=settings(jwks_url=f"{provider.url}/keys"))

    answer = registry.client(token(on("t/a", "pull"))).get(oci.tags_path("t/a"))

    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert provider.url not in answer.text
    assert registry.admin.get("/v2/").status_code == 200


def test_settings_that_cannot_work_are_told_at_the_start(tmp_path: Path) -> None:
    private = tmp_path / "private.pem"
    private.write_bytes(
        KEYS["ES256"].private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    empty = tmp_path / "empty"
    empty.write_text("")
    no_set = tmp_path / "set.json"
    no_set.write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}')
    table = [
        ({"public_key": str(tmp_path / "absent")}, r"public_key.*No such file"),
        ({"public_key": str(private)}, "private key"),
        ({"public_key": str(empty)}, "no public key"),
        ({"jwks_file": str(empty)}, "not JSON"),
        ({"jwks_file": str(no_set)}, "no key of it can verify"),
        ({"jwks_url": "http://gitlab.example.com/keys"}, r"jwks_url.*https"),
    ]
    for source, sentence in table:
        with pytest.raises(ConfigurationError, match=sentence):
            federation.check(settings_of(server_at(tmp_path, external_token=settings(**source))))
