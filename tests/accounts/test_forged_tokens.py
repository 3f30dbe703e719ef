"""Access tokens that nobody should take: forged in each field, and overtaken by what happened since.

Each is asked for on both workers of a server, at once: no worker needs another's memory.
"""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from registry.server.auth.keys import SigningKey, new_key
from registry.server.auth.tokens import LEEWAY_SECONDS, TOKEN_MAX_CHARACTERS
from registry.server.index import credentials
from registry.server.index.schema import signing_key
from tests.accounts.conftest import MakeRegistry
from tests.support import oci
from tests.support.accounts import SERVICE, Registry, authorization, challenge_of, encoded, part, signed

TAKEN = {200}
REFUSED = {401}
WHERE = "forged/web"


@pytest.fixture(scope="module")
def bob(pair: Registry) -> tuple[str, str]:
    """Whom the forged tokens name: he may pull and push `forged/*`."""
    oci.push_image(pair.admin, WHERE, "v1")
    made = pair.robot("forged-bob")
    pair.grant("user:forged-bob", "pull,push", "forged/*")
    return made


@pytest.fixture
def claims(pair: Registry, bob: tuple[str, str]) -> dict[str, Any]:
    """A good token's claims, for pulling."""
    return pair.claims(bob[0], (WHERE, ["pull"]))


def statuses(registry: Registry, token: str, path: str = f"/v2/{WHERE}/tags/list") -> set[int]:
    """How the workers, each of them, answer a token."""
    return {answer.status for answer in registry.workers.ask("GET", path, {"Authorization": f"Bearer {token}"})}


def test_the_claims_of_these_tests_are_good_ones(pair: Registry, claims: dict[str, Any]) -> None:
    assert statuses(pair, pair.forge(claims)) == TAKEN


def test_a_refused_token_is_told_as_invalid_and_not_why(pair: Registry, claims: dict[str, Any]) -> None:
    answers = [
        pair.client(token).get(f"/v2/{WHERE}/tags/list")
        for token in (
            pair.forge(claims, exp=5),
            pair.forge(claims, key=new_key()),
            pair.forge(claims, acc=10**6),
            "x",
        )
    ]

    assert {answer.status_code for answer in answers} == REFUSED
    assert {challenge_of(answer)["error"] for answer in answers} == {"invalid_token"}
    assert len({answer.text for answer in answers}) == 1


# --- the key


def test_a_foreign_key_under_our_id_is_refused(pair: Registry, claims: dict[str, Any]) -> None:
    foreign = SigningKey(pair.signing_key().id, new_key().private_pem)

    assert statuses(pair, pair.forge(claims, key=foreign)) == REFUSED


def test_a_foreign_key_under_its_own_id_is_refused(pair: Registry, claims: dict[str, Any]) -> None:
    assert statuses(pair, pair.forge(claims, key=new_key())) == REFUSED


def certificate(private: Any) -> str:
    """A certificate of a key that it signed itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVICE)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(private, hashes.SHA256())
    )
    return base64.b64encode(built.public_bytes(serialization.Encoding.DER)).decode()


@pytest.mark.parametrize("own_id", [True, False])
@pytest.mark.parametrize("header", ["jwk", "jku", "x5u", "x5c", "x5t"])
def test_a_key_that_the_token_brings_or_names_is_not_used(
    pair: Registry, claims: dict[str, Any], header: str, own_id: bool
) -> None:
    foreign = new_key()
    brought = {
        "jwk": foreign.jwk() | {"kid": pair.signing_key().id},
        "jku": f"{pair.server.url}/.well-known/jwks.json",
        "x5u": f"{pair.server.url}/certificate.pem",
        "x5c": [certificate(foreign.private)],
        "x5t": "AAAA",
    }[header]
    kid = pair.signing_key().id if own_id else foreign.id

    assert statuses(pair, pair.forge(claims, foreign, {"kid": kid, header: brought})) == REFUSED


@pytest.mark.parametrize("kid", [None, 5, [], {}, "", "../../etc/passwd", "' OR 1=1 --", "x" * 9000, "\0", True])
def test_a_key_id_of_any_kind_finds_no_key(pair: Registry, claims: dict[str, Any], kid: Any) -> None:
    assert statuses(pair, pair.forge(claims, None, {"kid": kid})) == REFUSED


def test_without_a_key_id_no_key_is_tried(pair: Registry, claims: dict[str, Any]) -> None:
    key = pair.signing_key()

    assert statuses(pair, signed(claims, key, {})) == REFUSED


def test_another_registrys_key_is_refused(pair: Registry, registry: Registry, claims: dict[str, Any]) -> None:
    theirs = registry.token(("admin", registry.password), f"repository:{WHERE}:pull")

    assert statuses(pair, theirs) == REFUSED
    assert statuses(pair, pair.forge(claims, registry.signing_key())) == REFUSED


# --- the algorithm


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_an_unsigned_token_is_refused(
    pair: Registry, claims: dict[str, Any], algorithm: str | None, signature: str
) -> None:
    head = part({"alg": algorithm, "typ": "JWT", "kid": pair.signing_key().id})

    assert statuses(pair, f"{head}.{part(claims)}.{signature}") == REFUSED


@pytest.mark.parametrize("form", ["pem", "der", "jwk", "id"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_the_public_key_is_no_shared_secret(
    pair: Registry, claims: dict[str, Any], algorithm: str, form: str
) -> None:
    key = pair.signing_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    secret = {
        "pem": lambda: key.public.public_bytes(serialization.Encoding.PEM, spki),
        "der": lambda: key.public.public_bytes(serialization.Encoding.DER, spki),
        "jwk": lambda: json.dumps(key.jwk()).encode(),
        "id": lambda: key.id.encode(),
    }[form]()
    text = f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': key.id})}.{part(claims)}"
    mac = hmac.digest(secret, text.encode(), algorithm.replace("HS", "sha"))

    assert statuses(pair, f"{text}.{encoded(mac)}") == REFUSED


def test_an_rsa_signature_is_refused(pair: Registry, claims: dict[str, Any]) -> None:
    private = rsa.generate_private_key(65537, 2048)

    assert statuses(pair, jwt.encode(claims, private, "RS256", {"kid": pair.signing_key().id})) == REFUSED


@pytest.mark.parametrize("algorithm", ["ES384", "ES512", "RS256", "PS256", "EdDSA", ["ES256"], {"alg": 1}])
def test_our_own_signature_under_another_algorithms_name_is_refused(
    pair: Registry, claims: dict[str, Any], algorithm: Any
) -> None:
    assert statuses(pair, pair.forge(claims, None, {"alg": algorithm})) == REFUSED


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"crit": ["zip"], "zip": 1}]
)
def test_a_critical_header_that_is_not_understood_is_refused(
    pair: Registry, claims: dict[str, Any], header: dict[str, Any]
) -> None:
    assert statuses(pair, pair.forge(claims, None, header)) == REFUSED


def test_a_signature_holds_for_its_own_text_alone(pair: Registry, claims: dict[str, Any]) -> None:
    head, body, signature = pair.forge(claims).split(".")
    more = part({**claims, "access": [{"type": "repository", "name": WHERE, "actions": ["pull", "push"]}]})

    for token in (
        f"{head}.{more}.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}.{encoded(bytes(64))}",
        f"{head}.{body}.{encoded(bytes(72))}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.{signature}",
        f"{body}.{head}.{signature}",
    ):
        assert statuses(pair, token) == REFUSED


# --- the claims


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "nbf", "iat", "jti", "sub"])
def test_a_token_without_a_required_claim_is_refused(pair: Registry, claims: dict[str, Any], name: str) -> None:
    assert statuses(pair, pair.forge(claims, without=[name])) == REFUSED
    assert statuses(pair, pair.forge(claims, **{name: None})) == REFUSED


@pytest.mark.parametrize("name", ["iss", "aud"])
@pytest.mark.parametrize(
    "value",
    ["elsewhere", "", "HYTHE", "hythe ", "hythe\0", 5, True, [SERVICE], ["*", SERVICE], {"hythe": 1}, "*"],
)
def test_a_token_of_or_for_somebody_else_is_refused(
    pair: Registry, claims: dict[str, Any], name: str, value: Any
) -> None:
    assert statuses(pair, pair.forge(claims, **{name: value})) == REFUSED


def test_an_expired_token_is_refused(pair: Registry, claims: dict[str, Any]) -> None:
    now = int(time.time())

    assert statuses(pair, pair.forge(claims, exp=now - LEEWAY_SECONDS - 5)) == REFUSED
    assert statuses(pair, pair.forge(claims, exp=0)) == REFUSED
    assert statuses(pair, pair.forge(claims, exp=-now)) == REFUSED


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused(pair: Registry, claims: dict[str, Any], name: str) -> None:
    assert statuses(pair, pair.forge(claims, **{name: int(time.time()) + LEEWAY_SECONDS + 5})) == REFUSED


def test_clocks_may_differ_by_the_leeway(pair: Registry, claims: dict[str, Any]) -> None:
    now, skew = int(time.time()), LEEWAY_SECONDS - 10

    assert statuses(pair, pair.forge(claims, exp=now - skew)) == TAKEN
    assert statuses(pair, pair.forge(claims, nbf=now + skew, iat=now + skew)) == TAKEN


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["tomorrow", "", [], {}, True, [9999999999], "9" * 400])
def test_a_time_that_is_none_is_refused(pair: Registry, claims: dict[str, Any], name: str, value: Any) -> None:
    assert statuses(pair, pair.forge(claims, **{name: value})) == REFUSED


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 5000])
def test_a_time_beyond_all_times_is_refused_and_no_fault(
    pair: Registry, claims: dict[str, Any], number: bytes
) -> None:
    body = part(claims)
    text = base64.urlsafe_b64decode(body + "==").replace(str(claims["exp"]).encode(), number)

    assert statuses(pair, signed(text, pair.signing_key(), {"kid": pair.signing_key().id})) <= {200, 401}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acc", "1"),
        ("acc", True),
        ("acc", 1.0),
        ("acc", []),
        ("acc", -1),
        ("acc", 10**30),
        ("gen", "1"),
        ("gen", None),
        ("gen", True),
        ("gen", 1.0),
        ("gen", 10**30),
        ("crd", "0123456789abcdef"),
        ("crd", ["x"]),
        ("access", "pull"),
        ("access", {"type": "repository"}),
        ("access", [1]),
        ("access", [{"type": "repository", "name": WHERE}]),
        ("access", [{"type": "repository", "name": WHERE, "actions": "pull"}]),
        ("access", [{"type": "repository", "name": [WHERE], "actions": ["pull"]}]),
        ("access", [{"type": ["repository"], "name": WHERE, "actions": ["pull"]}]),
        ("access", [{"type": "repository", "name": WHERE.upper(), "actions": ["pull"]}]),
        ("access", [{"type": "repository", "name": f"{WHERE}/", "actions": ["pull"]}]),
        ("access", [{"type": "repository", "name": "forged/*", "actions": ["pull"]}]),
        ("access", [{"type": "repository", "name": WHERE, "actions": [["pull"]]}]),
        ("access", [{"type": "registry", "name": WHERE, "actions": ["pull"]}]),
        ("access", []),
        ("access", None),
        ("sub", 5),
        ("sub", None),
        ("jti", 5),
    ],
)
def test_a_claim_of_another_type_gives_nothing(
    pair: Registry, claims: dict[str, Any], name: str, value: Any
) -> None:
    assert statuses(pair, pair.forge(claims, **{name: value})) == REFUSED


def test_without_a_generation_an_account_is_not_believed(pair: Registry, claims: dict[str, Any]) -> None:
    assert statuses(pair, pair.forge(claims, without=["gen"])) == REFUSED


def test_without_an_account_a_token_is_the_anonymouss_whatever_its_subject(
    pair: Registry, claims: dict[str, Any]
) -> None:
    assert statuses(pair, pair.forge(claims, without=["acc"], sub="admin")) == REFUSED


def test_a_subject_does_not_change_who_the_account_is(pair: Registry, claims: dict[str, Any]) -> None:
    token = pair.forge(
        claims, sub="admin", access=[{"type": "repository", "name": "other/x", "actions": ["pull"]}]
    )

    assert statuses(pair, token, "/v2/other/x/tags/list") == REFUSED


@pytest.mark.parametrize("actions", [["*"], ["pull", "push", "delete", "overwrite", "admin", "*"]])
def test_a_token_for_everything_gives_no_more_than_the_accounts_rights(
    pair: Registry, bob: tuple[str, str], actions: list[str]
) -> None:
    client = pair.client(pair.forge(pair.claims(bob[0], (WHERE, actions), ("other/x", actions))))

    assert client.get(f"/v2/{WHERE}/tags/list").status_code == 200
    assert client.delete(f"/v2/{WHERE}/manifests/v1").status_code == 401
    assert client.get("/v2/other/x/tags/list").status_code == 401
    assert client.post("/v2/other/x/blobs/uploads/").status_code == 401


def test_a_huge_token_is_refused_and_costs_little(pair: Registry, claims: dict[str, Any]) -> None:
    many = [{"type": "repository", "name": f"{WHERE}{number}", "actions": ["pull"]} for number in range(600)]
    token = pair.forge(claims, access=[*claims["access"], *many])
    assert len(token) > 40_000
    began = time.perf_counter()

    assert statuses(pair, token) == REFUSED
    tokens = [pair.forge(claims, access=[*claims["access"], *many[:count]]) for count in range(300, 500, 5)]
    allowed = max((token for token in tokens if len(token) <= TOKEN_MAX_CHARACTERS), key=len)
    above = min((token for token in tokens if len(token) > TOKEN_MAX_CHARACTERS), key=len)
    assert (statuses(pair, allowed), statuses(pair, above)) == (TAKEN, REFUSED)
    assert statuses(pair, "x" * 60_000) == REFUSED
    assert statuses(pair, "." * 60_000) == REFUSED
    assert statuses(pair, f"{encoded(b'[' * 20_000)}.e30.AAAA") == REFUSED
    assert statuses(pair, f"{encoded(b'{' + b' ' * 20_000)}.e30.AAAA") == REFUSED
    assert time.perf_counter() - began < 10


def test_a_token_of_a_hundred_scopes_still_works(pair: Registry, bob: tuple[str, str]) -> None:
    scopes = [f"repository:forged/{'n' * 80}{number}:pull,push" for number in range(99)]
    token = pair.token(bob, f"repository:{WHERE}:pull", *scopes)

    assert statuses(pair, token) == TAKEN


# --- keys over time


def test_a_retired_key_holds_for_as_long_as_what_it_signed_lives(make_registry: MakeRegistry) -> None:
    registry = make_registry(server={"workers": 2}, accounts={"token_lifetime_seconds": 60})
    oci.push_image(registry.admin, WHERE, "v1")
    old, admin = registry.signing_key(), ("admin", registry.password)
    before = registry.token(admin, f"repository:{WHERE}:pull")

    registry.do("key", "rotate")
    assert registry.signing_key().id != old.id
    after = registry.token(admin, f"repository:{WHERE}:pull")
    assert jwt.get_unverified_header(after)["kid"] == registry.signing_key().id
    assert statuses(registry, before) == TAKEN
    assert statuses(registry, after) == TAKEN
    published = registry.client().get("/.well-known/jwks.json").json()["keys"]
    assert {key["kid"] for key in published} == {old.id, registry.signing_key().id}

    registry.change(retire, old.id, 60 + LEEWAY_SECONDS)
    assert statuses(registry, before) == TAKEN
    late = 60 + 2 * LEEWAY_SECONDS + 5
    registry.change(retire, old.id, late)

    fresh = registry.forge(registry.claims("admin", (WHERE, ["pull"])), key=old)
    assert statuses(registry, fresh) == REFUSED
    assert statuses(registry, after) == TAKEN
    published = registry.client().get("/.well-known/jwks.json").json()["keys"]
    assert [key["kid"] for key in published] == [registry.signing_key().id]

    registry.change(credentials.remove_key, registry.signing_key().id)
    assert statuses(registry, after) == REFUSED


def retire(tx: Any, key_id: str, seconds_ago: float) -> None:
    """Make it so that a key was retired some time ago."""
    from registry.server.index import changes

    moment = int((time.time() - seconds_ago) * 1000)
    tx.execute(signing_key.update().where(signing_key.c.id == key_id).values(retired_ms=moment))
    changes.mark(tx)


# --- what happened since


Since = Callable[[Registry, str], None]


def delete_and_add_again(registry: Registry, name: str) -> None:
    registry.do("user", "remove", name)
    registry.do("robot", "add", name)
    registry.grant(f"user:{name}", "pull,push,overwrite,delete", f"{name}/*")


def remove_the_grant(registry: Registry, name: str) -> None:
    registry.do("grant", "remove", f"user:{name}", f"{name}/*")


def narrow_the_grant(registry: Registry, name: str) -> None:
    registry.grant(f"user:{name}", "push", f"{name}/*")


def disable(registry: Registry, name: str) -> None:
    registry.do("user", "disable", name)


def disable_and_enable(registry: Registry, name: str) -> None:
    disable(registry, name)
    registry.do("user", "enable", name)


def change_the_password(registry: Registry, name: str) -> None:
    registry.do("user", "passwd", name, "--password-stdin", stdin="another horse\n")


def remove_the_account(registry: Registry, name: str) -> None:
    registry.do("user", "remove", name)


CHANGES = [
    remove_the_grant,
    narrow_the_grant,
    remove_the_account,
    delete_and_add_again,
    disable,
    disable_and_enable,
]


@pytest.mark.parametrize("since", CHANGES, ids=lambda change: change.__name__)
def test_a_token_is_overtaken_at_once_by(pair: Registry, name: str, since: Since) -> None:
    oci.push_image(pair.admin, f"{name}/web", "v1")
    who = pair.robot(name)
    pair.grant(f"user:{name}", "pull", f"{name}/*")
    token, path = pair.token(who, f"repository:{name}/web:pull"), f"/v2/{name}/web/tags/list"
    assert statuses(pair, token, path) == TAKEN

    since(pair, name)

    assert statuses(pair, token, path) == REFUSED


def test_a_token_is_overtaken_at_once_by_a_changed_password(pair: Registry, name: str) -> None:
    oci.push_image(pair.admin, f"{name}/web", "v1")
    who = pair.user(name, "correct horse")
    pair.grant(f"user:{name}", "pull", f"{name}/*")
    token, path = pair.token(who, f"repository:{name}/web:pull"), f"/v2/{name}/web/tags/list"
    assert statuses(pair, token, path) == TAKEN

    change_the_password(pair, name)

    assert statuses(pair, token, path) == REFUSED
    assert statuses(pair, pair.token((name, "another horse"), f"repository:{name}/web:pull"), path) == TAKEN


def test_a_token_is_overtaken_at_once_by_a_demotion(pair: Registry, name: str) -> None:
    oci.push_image(pair.admin, f"{name}/web", "v1")
    who = pair.user(name, "correct horse", admin=True)
    token, path = pair.token(who, f"repository:{name}/web:pull"), f"/v2/{name}/web/tags/list"
    assert statuses(pair, token, path) == TAKEN

    pair.do("user", "demote", name)

    assert statuses(pair, token, path) == REFUSED


def test_a_token_is_overtaken_at_once_by_leaving_or_losing_the_team(pair: Registry, name: str) -> None:
    oci.push_image(pair.admin, f"{name}/web", "v1")
    pair.do("team", "add", name)
    path = f"/v2/{name}/web/tags/list"
    leaver, staying = pair.robot(f"{name}-a"), pair.robot(f"{name}-b")
    for who in (leaver, staying):
        pair.do("team", "join", name, who[0])
    tokens = [pair.token(who, f"repository:{name}/web:pull") for who in (leaver, staying)]
    assert [statuses(pair, token, path) for token in tokens] == [TAKEN, TAKEN]

    pair.do("team", "leave", name, leaver[0])
    assert [statuses(pair, token, path) for token in tokens] == [REFUSED, TAKEN]

    pair.do("team", "remove", name)
    assert [statuses(pair, token, path) for token in tokens] == [REFUSED, REFUSED]


def test_a_token_is_overtaken_at_once_by_the_deletion_of_the_personal_token_that_made_it(
    pair: Registry, name: str
) -> None:
    oci.push_image(pair.admin, f"{name}/web", "v1")
    who = pair.robot(name)
    other = pair.personal_token(name)
    pair.grant(f"user:{name}", "pull", f"{name}/*")
    path = f"/v2/{name}/web/tags/list"
    tokens = [pair.token((name, secret), f"repository:{name}/web:pull") for secret in (who[1], other)]
    assert [statuses(pair, token, path) for token in (*tokens, who[1], other)] == [TAKEN] * 4

    pair.do("token", "remove", name, who[1].split("_")[1])

    assert [statuses(pair, token, path) for token in (tokens[0], who[1])] == [REFUSED, REFUSED]
    assert [statuses(pair, token, path) for token in (tokens[1], other)] == [TAKEN, TAKEN]


def test_a_token_is_overtaken_by_the_end_of_the_personal_token_that_made_it(pair: Registry, name: str) -> None:
    from registry.server.index.schema import credential

    oci.push_image(pair.admin, f"{name}/web", "v1")
    pair.do("robot", "add", name)
    secret = pair.personal_token(name, expires="1h")
    pair.grant(f"user:{name}", "pull", f"{name}/*")
    token, path = pair.token((name, secret), f"repository:{name}/web:pull"), f"/v2/{name}/web/tags/list"
    assert statuses(pair, token, path) == TAKEN

    def end(tx: Any) -> None:
        from registry.server.index import changes

        row = credential.c.id == secret.split("_")[1]
        tx.execute(credential.update().where(row).values(expires_ms=int(time.time() * 1000) - 1))
        changes.mark(tx)

    pair.change(end)

    assert statuses(pair, token, path) == REFUSED
    assert statuses(pair, secret, path) == REFUSED
    assert pair.client().get("/v2/", headers=authorization((name, secret))).status_code == 401


def test_what_was_granted_meanwhile_needs_a_new_token_but_no_new_login(pair: Registry, name: str) -> None:
    oci.push_image(pair.admin, f"{name}/web", "v1")
    who, path = pair.robot(name), f"/v2/{name}/web/tags/list"
    before = pair.token(who, f"repository:{name}/web:pull")

    pair.grant(f"user:{name}", "pull", f"{name}/*")

    assert statuses(pair, before, path) == REFUSED
    assert statuses(pair, pair.token(who, f"repository:{name}/web:pull"), path) == TAKEN
