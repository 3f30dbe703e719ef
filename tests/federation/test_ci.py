"""Jobs of CI systems: a job's own token is exchanged for rights here, and no secret is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from registry.oci.errors import ConfigurationError
from registry.server import federation
from tests.federation.conftest import MakeRegistry, server_at
from tests.federation.provider import FORGERIES, Provider
from tests.federation.test_pages import settings_of
from tests.support import oci, peers
from tests.support.accounts import Registry, challenge_of, registry_with_accounts

AUDIENCE = "https://registry.example.com"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
TYPE = "urn:ietf:params:oauth:token-type:"


def github(issuer: str, **more: Any) -> dict[str, Any]:
    """What GitHub's token says of a job."""
    now = int(time.time())
    return {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": "repo:acme/web:ref:refs/heads/main",
        "jti": "a-job",
        "iat": now,
        "nbf": now - 300,
        "exp": now + 300,
        "repository": "acme/web",
        "repository_owner": "acme",
        "repository_owner_id": 65,
        "ref": "refs/heads/main",
        "ref_protected": "true",
        "environment": "production",
        "run_attempt": "1",
        **more,
    }


def rules(issuer: str) -> list[dict[str, Any]]:
    """Three rules: the narrow ones first."""
    common = {"issuer": issuer, "audience": AUDIENCE}
    return [
        {
            **common,
            "name": "web-release",
            "claims": {"repository": "acme/web", "ref": "refs/tags/v*"},
            "allow": ["pull,push,overwrite:team/web", "pull:base/*"],
            "lifetime_seconds": 600,
        },
        {
            **common,
            "name": "web",
            "claims": {"sub": "repo:acme/web:ref:refs/heads/*", "repository_owner_id": "65"},
            "allow": ["pull,push:team/web", "pull:base/*"],
            "lifetime_seconds": 900,
        },
        {
            **common,
            "name": "acme",
            "audience": "another",
            "claims": {"repository": "acme/*"},
            "allow": ["pull:base/*"],
        },
    ]


@pytest.fixture(scope="module")
def registry(shared_provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One with two workers."""
    server = server_at(
        tmp_path_factory.mktemp("ci") / "server",
        {"workers": 2, "trusted_proxies": ["127.0.0.1"]},
        ci=rules(shared_provider.url),
        anonymous_pull=["public/*"],
    )
    with registry_with_accounts(server) as running:
        yield running
        assert not peers.faults(running.server)


def job(provider: Provider, **more: Any) -> tuple[str, str]:
    """The name and the password of a job's `docker login`."""
    return "oidc", provider.mint(github(provider.url, **more))


def exchange(registry: Registry, token: str, **more: str) -> httpx.Response:
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": TYPE + "jwt", **more}
    return registry.client().post("/token", data=form)


def said(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


# --- docker login


def test_a_job_logs_in_with_its_own_token_and_does_what_its_rule_allows(
    registry: Registry, provider: Provider
) -> None:
    """As docker does it: /v2/, the challenge, the token service, /v2/ again; then a push and a pull."""
    me = job(provider)
    assert challenge_of(registry.client().get("/v2/"))["realm"] == f"{registry.server.url}/token"
    login = registry.ask_token(me, account="oidc", client_id="docker", offline_token="true")
    assert login.status_code == 200
    assert "refresh_token" not in login.json()
    assert registry.client(login.json()["token"]).get("/v2/").status_code == 200

    pushing = registry.client(registry.token(me, "repository:team/web:pull,push,delete"))
    image = oci.push_image(pushing, "team/web", "one")

    assert pushing.get(oci.manifest_path("team/web", "one")).content == image.data
    assert pushing.delete(oci.manifest_path("team/web", "one")).status_code == 401
    body = said(registry.token(me, "repository:team/web:pull,push", "repository:other/x:pull"))
    assert body["access"] == [{"type": "repository", "name": "team/web", "actions": ["pull", "push"]}]
    assert body["sub"] == "ci:web"
    assert 0 < body["exp"] - body["iat"] <= 300


def test_basic_is_enough_for_tools_that_know_no_bearer(registry: Registry, provider: Provider) -> None:
    client = registry.client(job(provider))

    assert client.get("/v2/").status_code == 200
    oci.push_blob(client, "team/web", oci.blob(100))
    assert client.get(oci.tags_path("other/x")).status_code == 403
    assert client.get(oci.tags_path("public/x")).status_code == 404  # what everybody may
    assert client.get(oci.tags_path("base/x")).status_code == 404
    assert client.post(oci.uploads_path("base/x")).status_code == 403


def test_containerd_asks_with_a_form(registry: Registry, provider: Provider) -> None:
    name, password = job(provider)
    form = {"grant_type": "password", "username": name, "password": password, "scope": "repository:team/web:pull"}

    answer = registry.client().post("/token", data={**form, "access_type": "offline", "client_id": "containerd"})

    assert answer.status_code == 200
    assert "refresh_token" not in answer.json()
    assert registry.client(answer.json()["access_token"]).get(oci.tags_path("team/web")).status_code in (200, 404)


def test_the_first_rule_that_lets_a_job_in_counts(registry: Registry, provider: Provider) -> None:
    tag = job(provider, ref="refs/tags/v1", sub="repo:acme/web:ref:refs/tags/v1")
    assert said(registry.token(tag, "repository:team/web:push"))["sub"] == "ci:web-release"

    pushing = registry.client(registry.token(tag, "repository:team/web:pull,push"))
    oci.push_image(pushing, "team/web", "v1")
    oci.push_image(pushing, "team/web", "v1")  # it may overwrite

    branch = registry.client(registry.token(job(provider), "repository:team/web:pull,push"))
    manifest = pushing.get(oci.manifest_path("team/web", "v1"))
    other = oci.push_image(branch, "team/web", "v2")
    refused = branch.put(
        oci.manifest_path("team/web", "v1"), content=other.data, headers={"Content-Type": other.media_type}
    )
    assert refused.status_code in (401, 403)  # push alone makes new tags
    assert pushing.get(oci.manifest_path("team/web", "v1")).content == manifest.content


def test_there_is_no_account_behind_a_job(registry: Registry, provider: Provider) -> None:
    me = job(provider)
    before = registry.do("user", "list")

    registry.token(me)

    assert registry.do("user", "list") == before
    assert registry.client(me).get("/api/v1/users").status_code == 401
    assert registry.run("user", "add", "oidc").status != 0
    assert registry.run("robot", "add", "oidc").status != 0
    assert registry.run("user", "add", "ci:web").status != 0


# --- which jobs are let in


@pytest.mark.parametrize(
    "change",
    [
        {"repository": "acme/web", "sub": "repo:acme/web2:ref:refs/heads/main"},
        {"sub": "repo:acme/web:ref:refs/heads/feature/x"},  # a star reaches over no slash
        {"sub": "repo:acme/web:ref:refs/heads/main:x"},
        {"sub": "Repo:acme/web:ref:refs/heads/main"},
        {"sub": "repo:acme/web:ref:refs/heads/main\n"} | {"repository_owner_id": 66},
        {"sub": "repo:evil/web:ref:refs/heads/main", "repository": "evil/web"},
        {"sub": "xrepo:acme/web:ref:refs/heads/main"},
        {"sub": "repo:acme/web:pull_request"},
        {"sub": "repo:acme/web:environment:production"},
        {"sub": ""},
        {"repository_owner_id": 66},
        {"repository_owner_id": "65 "},
        {"repository_owner_id": [65]},
        {"repository_owner_id": None},
        {"repository_owner_id": 65.0},
        {"aud": "another"},
        {"aud": [AUDIENCE, "another"]},
        {"aud": AUDIENCE + "/"},
        {"aud": ["https://registry.example.com.evil"]},
        {"iat": int(time.time()) - 2 * 86_400, "exp": int(time.time()) + 86_400},
    ],
    ids=lambda change: ",".join(change),
)
def test_a_job_of_which_one_claim_is_another_is_not_let_in(
    registry: Registry, provider: Provider, change: dict[str, Any]
) -> None:
    me = job(provider, **{"ref": "refs/heads/main", **change})

    answer = registry.ask_token(me, "repository:team/web:pull,push")

    if change.get("aud") == "another":  # the third rule's, which allows next to nothing
        assert said(answer.json()["token"])["access"] == []
        return
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Hythe"'
    assert registry.client(me).get("/v2/").status_code == 401


@pytest.mark.parametrize("change", [{"repository_owner_id": "65"}, {"aud": [AUDIENCE]}, {"nbf": int(time.time())}])
def test_a_claim_may_be_written_in_another_way(
    registry: Registry, provider: Provider, change: dict[str, Any]
) -> None:
    assert registry.ask_token(job(provider, **change)).status_code == 200


@pytest.mark.parametrize("how", [*FORGERIES, "without_nbf", "without_sub"])
def test_a_job_token_that_is_wrong_in_one_way_is_refused_everywhere(
    registry: Registry, provider: Provider, how: str
) -> None:
    made = provider.mint(github(provider.url), how)
    elsewhere = provider.hits("/elsewhere")

    assert registry.ask_token(("oidc", made)).status_code in (401, 431)
    assert registry.client(("oidc", made)).get("/v2/").status_code in (401, 431)
    if how != "too_long":
        answer = exchange(registry, made)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert registry.client(made).get(oci.tags_path("team/web")).status_code == 401
    assert provider.hits("/elsewhere") == elsewhere


def test_a_job_token_is_no_bearer_token_here_and_no_password_of_anybody_else(
    registry: Registry, provider: Provider
) -> None:
    _, token = job(provider, sub="repo:acme/web:ref:refs/heads/main")

    assert registry.client(token).get(oci.tags_path("team/web")).status_code == 401
    for name in ("admin", "OIDC", "ci:web", "web", ""):
        assert registry.ask_token((name, token)).status_code == 401


def test_many_failures_of_jobs_do_not_lock_out_their_machines(registry: Registry, provider: Provider) -> None:
    wrong = provider.mint(github(provider.url), "expired")

    assert {registry.ask_token(("oidc", wrong)).status_code for _ in range(40)} == {401}

    assert registry.ask_token(("admin", registry.password)).status_code == 200


# --- token exchange


def test_a_jobs_token_is_exchanged_for_one_of_ours(registry: Registry, provider: Provider) -> None:
    answer = exchange(registry, job(provider)[1], scope="repository:team/web:pull,push")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    found = answer.json()
    assert found["issued_token_type"] == TYPE + "access_token"
    assert found["token_type"] == "Bearer"
    assert 890 <= found["expires_in"] <= 900
    assert found["scope"] == "repository:team/web:pull,push"
    client = registry.client(found["access_token"])
    oci.push_blob(client, "team/web", oci.blob(100))
    assert client.get(oci.tags_path("base/x")).status_code == 401  # of the scope alone
    assert registry.ask_token(("oidc", found["access_token"])).status_code == 401  # and no password


def test_without_a_scope_the_token_is_for_all_of_the_rule_and_a_password_too(
    registry: Registry, provider: Provider
) -> None:
    token = exchange(registry, job(provider)[1]).json()["access_token"]

    client = registry.client(token)
    assert client.get(oci.tags_path("base/x")).status_code == 404
    assert client.post(oci.uploads_path("base/x")).status_code == 401
    assert client.post(oci.uploads_path("team/web")).status_code == 202
    assert client.get("/v2/_catalog").status_code == 200
    body = said(registry.token(("oidc", token), "repository:team/web:push"))
    assert body["access"] == [{"type": "repository", "name": "team/web", "actions": ["push"]}]
    assert body["exp"] <= said(token)["exp"]
    again = exchange(registry, token).json()
    assert said(again["access_token"])["exp"] <= said(token)["exp"]  # nothing lives on by being exchanged


@pytest.mark.parametrize("scope", ["nonsense", "repository:other/x:pull", " ", "repository:*:*"])
def test_a_scope_that_grants_nothing_is_not_a_missing_one(
    registry: Registry, provider: Provider, scope: str
) -> None:
    token = exchange(registry, job(provider)[1], scope=scope).json()["access_token"]

    assert registry.client(token).get(oci.tags_path("base/x")).status_code == 401


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"subject_token_type": ""}, "subject_token_type"),
        ({"subject_token_type": TYPE + "saml2"}, "subject_token_type"),
        ({"subject_token_type": TYPE + "access_token"}, "subject_token_type"),
        ({"requested_token_type": TYPE + "refresh_token"}, "requested_token_type"),
        ({"actor_token": "x"}, "actor_token"),
        ({"subject_token": ""}, "no rule lets this job in"),
        ({"subject_token": "hyt_0123456789abcdef_" + "x" * 32}, "no rule lets this job in"),
    ],
)
def test_an_exchange_of_something_else_is_refused_as_oauth_says(
    registry: Registry, provider: Provider, form: dict[str, str], error: str
) -> None:
    answer = (
        exchange(
            registry, **{"token": job(provider)[1], **{k: v for k, v in form.items() if k != "subject_token"}}
        )
        if "subject_token" not in form
        else exchange(registry, form["subject_token"])
    )

    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_request"
    assert error in answer.json()["error_description"]


def test_an_id_token_may_be_called_one(registry: Registry, provider: Provider) -> None:
    assert exchange(registry, job(provider)[1], subject_token_type=TYPE + "id_token").status_code == 200


def test_every_worker_takes_the_token(registry: Registry, provider: Provider) -> None:
    token = exchange(registry, job(provider)[1]).json()["access_token"]

    for _ in range(20):  # new connections go to either worker
        answer = httpx.get(
            registry.server.url + oci.tags_path("base/x"),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
        assert answer.status_code == 404


def test_an_exchange_is_in_the_audit_log_and_no_token_is_in_any_log(
    registry: Registry, provider: Provider
) -> None:
    name, token = job(provider, jti=f"job-{time.time_ns()}")
    answer = exchange(registry, token)
    registry.ask_token((name, token))

    entries = [
        entry for entry in registry.audit(action="token.exchange") if entry["detail"]["jti"] == said(token)["jti"]
    ]

    assert [entry["actor"] for entry in entries] == ["ci:web", "ci:web"]
    assert entries[0]["target"] == "repo:acme/web:ref:refs/heads/main"
    assert entries[0]["detail"]["issuer"] == provider.url
    log = registry.server.log()
    for secret in (token, answer.json()["access_token"]):
        assert secret.rpartition(".")[2] not in log
    assert any(event.get("user") == "ci:web" for event in registry.server.events())


@pytest.mark.parametrize("sub", ["a\x00b", "\ud800", "x" * 5000, "\n{}"])
def test_hostile_claims_harm_no_log(registry: Registry, provider: Provider, sub: str) -> None:
    me = job(provider, sub=sub, jti=sub, ref="refs/tags/v1")

    assert registry.ask_token(me).status_code == 200
    assert registry.audit(action="token.exchange", actor="ci:web-release")[-1]["target"].isprintable()


def test_our_own_claims_cannot_be_written_by_a_ci_system(registry: Registry, provider: Provider) -> None:
    """Whatever an issuer's token says of rules and accounts, it counts as a job's token alone."""
    me = job(provider, rule="web-release", mark="x", whole=True, acc=1, gen=1, crd="", access=[])

    assert said(registry.token(me))["sub"] == "ci:web"
    ours = registry.signing_key()
    now = int(time.time())
    body = {"iss": "hythe", "aud": "hythe", "sub": "ci:web", "jti": "x", "iat": now, "nbf": now, "exp": now + 60}
    for rule in ({"rule": "web", "mark": "guessed"}, {"rule": "gone", "mark": "x"}, {"rule": "web"}, {"rule": 7}):
        forged = registry.forge({**body, "access": [], "whole": True, **rule}, ours)
        assert registry.client(forged).get(oci.tags_path("base/x")).status_code == 401


# --- rules that change


def test_a_token_ends_with_its_rule_and_follows_what_the_rule_allows(
    make_registry: MakeRegistry, provider: Provider
) -> None:
    registry = make_registry(ci=rules(provider.url))
    token = exchange(registry, job(provider)[1]).json()["access_token"]
    chosen = registry.server.settings["accounts"]

    def may(repository: str) -> int:
        return registry.client(token).get(oci.tags_path(repository)).status_code

    def restart() -> None:
        registry.close()
        registry.server.restart()

    assert (may("base/x"), may("team/web")) == (404, 404)
    chosen["ci"][1]["allow"] = ["pull:team/web"]
    restart()
    assert (may("base/x"), may("team/web")) == (401, 404)
    chosen["ci"][1]["claims"]["environment"] = "production"  # others than before are let in
    restart()
    assert (may("base/x"), may("team/web")) == (401, 401)
    chosen["ci"] = []
    restart()
    assert may("team/web") == 401
    assert registry.ask_token(job(provider)).status_code == 401


def test_what_a_job_is_given_lives_no_longer_than_its_rule_says(
    make_registry: MakeRegistry, provider: Provider
) -> None:
    registry = make_registry(ci=[{**rule, "lifetime_seconds": 60} for rule in rules(provider.url)])
    me = job(provider)
    exchanged = exchange(registry, me[1]).json()["access_token"]

    for token in (exchanged, registry.token(me), registry.token(("oidc", exchanged))):
        body = said(token)
        assert 0 < body["exp"] - body["iat"] <= 60
        assert body["exp"] <= time.time() + 60
    assert registry.ask_token(me).json()["expires_in"] <= 60


def test_a_job_system_that_changes_its_keys_is_followed(make_registry: MakeRegistry, rotating: Provider) -> None:
    registry = make_registry(ci=rules(rotating.url))
    for algorithm in ("RS256", "ES256"):
        rotating.control(rotate=algorithm)
        assert registry.ask_token(job(rotating)).status_code == 200


def test_keys_may_come_from_a_file_and_a_new_file_is_read(
    make_registry: MakeRegistry, rotating: Provider, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"

    def take_keys() -> None:
        keys.write_bytes(rotating.http.get("/keys").content)

    take_keys()
    registry = make_registry(ci=[{**rule, "jwks_file": str(keys)} for rule in rules(rotating.url)])
    asked = rotating.hits("/.well-known/openid-configuration")
    old = job(rotating)
    assert registry.ask_token(old).status_code == 200

    rotating.control(rotate="RS256")
    keys.write_text("{half a fi")  # somebody writes it at this moment
    time.sleep(3.1)
    assert registry.ask_token(old).status_code == 200
    take_keys()
    deadline = time.monotonic() + 30
    while registry.ask_token(job(rotating)).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert registry.ask_token(old).status_code == 401
    assert rotating.hits("/.well-known/openid-configuration") == asked


def test_a_job_system_that_does_not_answer_is_our_trouble(make_registry: MakeRegistry, provider: Provider) -> None:
    provider.control(keys_answer="gone")
    registry = make_registry(ci=rules(provider.url))

    answer = registry.ask_token(job(provider))

    assert answer.status_code == 503
    assert provider.url not in answer.text


def test_rules_that_cannot_work_are_told_at_the_start(provider: Provider, tmp_path: Path) -> None:
    [_, rule, _] = rules(provider.url)
    table = [
        ({"allow": ["everything"]}, r"accounts\.ci: web: allow.*no limit"),
        ({"allow": ["fly:team/*"]}, "is no action"),
        ({"allow": ["pull:**"]}, "no repository pattern"),
        ({"claims": {"repository": "*"}}, "strangers"),
        ({"claims": {"repository": "*/web", "ref": "*"}}, "strangers"),
        ({"issuer": "http://ci.example.com"}, r"accounts\.ci: web: issuer.*https"),
        ({"jwks_file": str(tmp_path / "absent")}, r"jwks_file.*No such file"),
    ]
    for change, sentence in table:
        with pytest.raises(ConfigurationError, match=sentence):
            federation.check(settings_of(server_at(tmp_path, ci=[{**rule, **change}])))


def test_rules_may_come_from_a_variable(provider: Provider, make_server: Any) -> None:
    server = make_server(
        {"HYTHE_ACCOUNTS_CI": json.dumps(rules(provider.url)), "HYTHE_ACCOUNTS_ENABLED": "always"}
    )
    name, token = job(provider)

    answer = httpx.get(f"{server.url}/token", auth=(name, token), trust_env=False)

    assert answer.status_code == 200
