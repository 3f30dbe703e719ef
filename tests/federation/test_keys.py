"""Keys of others: which are taken, from where they are fetched, and how often."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa

from registry.oci.errors import ConfigurationError, Unavailable
from registry.server.auth import foreign
from registry.server.auth.foreign import KeysRefused
from registry.server.auth.jobs import Rule
from registry.server.auth.rights import Limit
from registry.server.auth.tokens import TokenInvalid
from registry.server.service.keysets import Remembered
from registry.transfer.fetch import Fetcher, FetchFailed
from tests.federation.provider import Key, Provider

RSA, EC, ED = Key("r"), Key("e", "ES256"), Key("d", "EdDSA")


# --- which keys are taken


def test_each_key_has_the_one_algorithm_of_its_kind() -> None:
    keys = foreign.read_key_set({"keys": [RSA.jwk(), EC.jwk(), ED.jwk()]})

    assert [(key.id, key.algorithm) for key in keys] == [("r", "RS256"), ("e", "ES256"), ("d", "EdDSA")]
    of_pem = foreign.read_pem(RSA.public_pem() + EC.public_pem() + ED.public_pem())
    assert [(key.id, key.algorithm) for key in of_pem] == [(None, "RS256"), (None, "ES256"), (None, "EdDSA")]


def test_an_rsa_key_may_say_which_of_its_family() -> None:
    for said in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        [key] = foreign.read_key_set({"keys": [{**RSA.jwk(), "alg": said}]})
        assert key.algorithm == said
    without = {name: value for name, value in RSA.jwk().items() if name not in ("alg", "use")}
    assert foreign.read_key_set({"keys": [without]})[0].algorithm == "RS256"


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "RSA-OAEP"},
        {"alg": "ES256"},
        {"alg": ["RS256"]},
        {"use": "enc"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"kty": None},
        {"n": "!!"},
        {"n": 5},
        {"e": ""},
        {"d": "AQAB"},
    ],
    ids=str,
)
def test_a_key_that_cannot_verify_is_passed_over(change: dict[str, Any]) -> None:
    odd = {**RSA.jwk(), **change}

    assert [key.id for key in foreign.read_key_set({"keys": [odd, EC.jwk(), 7, None, "x", []]})] == ["e"]
    with pytest.raises(KeysRefused):
        foreign.read_key_set({"keys": [odd]})


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": None}, "keys", 7])
def test_what_is_no_key_set_is_refused(document: Any) -> None:
    with pytest.raises(KeysRefused):
        foreign.read_key_set(document)


def pem_of(private: Any) -> bytes:
    made: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return made


def test_weak_and_unknown_keys_are_refused_with_a_sentence() -> None:
    table = [
        (pem_of(rsa.generate_private_key(65537, 1024)), "1024 bits is too short"),
        (pem_of(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        (pem_of(ed448.Ed448PrivateKey.generate()), "only RSA"),
        (pem_of(dsa.generate_private_key(2048)), "only RSA"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "."),
        (b"", "no public key"),
        (b"ssh-ed25519 AAAA", "no public key"),
    ]
    for pem, sentence in table:
        with pytest.raises(KeysRefused, match=sentence):
            foreign.read_pem(pem)


def test_a_certificate_is_read_for_its_key() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gitlab")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(RSA.private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(RSA.private, hashes.SHA256())
    )

    [key] = foreign.read_pem(certificate.public_bytes(serialization.Encoding.PEM))

    assert key.algorithm == "RS256"


def test_a_key_of_another_algorithm_verifies_nothing_even_with_the_right_id() -> None:
    body = {"iss": "i", "aud": "a", "exp": time.time() + 60}
    keys = foreign.read_key_set({"keys": [{**RSA.jwk(), "alg": "PS256"}]})

    with pytest.raises(TokenInvalid):
        foreign.verify(RSA.sign(body), keys, "i", "a", ())


# --- from where they are fetched


@pytest.mark.parametrize(
    "address",
    [
        "https://login.example.com/keys",
        "https://login.example.com:443/keys",
        "https://LOGIN.example.com/keys?x=1",
        "https://www.keys.example/certs",
        "https://other.example:8443/",
    ],
)
def test_configured_hosts_may_be_asked(address: str) -> None:
    fetcher = Fetcher("https://login.example.com/realm", ("www.keys.example", "other.example:8443"))

    assert fetcher.require_allowed(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://login.example.com/keys",
        "https://login.example.com:8443/keys",
        "https://evil.example/keys",
        "https://login.example.com.evil.example/",
        "https://login.example.com@evil.example/",
        "https://evil.example#@login.example.com/",
        "https://evil.example\\@login.example.com/",
        "https://user:password@login.example.com/",
        "https://user@login.example.com/",
        "https://login.example.com./keys",
        "https://other.example/",
        "//login.example.com/keys",
        "/keys",
        "",
        "None",
        "file:///etc/passwd",
        "ftp://login.example.com/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://127.0.0.1/",
        "https://login.example.com\r\nHost: evil.example/",
        "https://login.example.com:99999/",
        "https://",
    ],
)
def test_no_other_address_is_asked(address: str) -> None:
    fetcher = Fetcher("https://login.example.com/realm", ("other.example:8443",))

    with pytest.raises(FetchFailed):
        fetcher.require_allowed(address)
    with pytest.raises(FetchFailed):
        asyncio.run(fetcher.get(address))


@pytest.mark.parametrize(
    ("configured", "is_good"),
    [
        ("https://login.example.com", True),
        ("http://127.0.0.1:8080/realm", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("http://login.example.com", False),
        ("http://10.0.0.1", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://0.0.0.0", False),
        ("login.example.com", False),
        ("https://", False),
        ("file:///keys", False),
    ],
)
def test_plain_http_is_for_this_machine_alone(configured: str, is_good: bool) -> None:
    if is_good:
        Fetcher(configured)
        return
    with pytest.raises(ConfigurationError):
        Fetcher(configured)


def test_a_host_without_a_port_is_meant_with_the_usual_one() -> None:
    fetcher = Fetcher("https://login.example.com:8443", ("WWW.keys.example",))

    assert fetcher.require_allowed("https://www.keys.example/certs")
    for address in ("https://www.keys.example:8443/", "https://login.example.com/"):
        with pytest.raises(FetchFailed):
            fetcher.require_allowed(address)
    for host in ("", "https://x.example", "x.example/keys"):
        with pytest.raises(ConfigurationError):
            Fetcher("https://login.example.com", (host,))


def test_a_provider_on_this_machine_cannot_name_other_ports_of_it(provider: Provider) -> None:
    with pytest.raises(FetchFailed):
        Fetcher(provider.url).require_allowed("http://127.0.0.1:22/")


@pytest.mark.parametrize("how", ["redirect", "huge", "compressed", "nested", "gone", "slow"])
def test_what_is_no_small_json_document_at_once_is_not_taken(provider: Provider, how: str) -> None:
    provider.control(keys_answer=how)
    began = time.monotonic()

    with pytest.raises(FetchFailed) as failed:
        asyncio.run(Fetcher(provider.url, seconds=2.0).get(f"{provider.url}/keys"))

    assert time.monotonic() - began < 10
    assert "127.0.0.1" in str(failed.value)
    assert provider.hits("/elsewhere") == 0


def test_nobody_listening_is_a_failure_like_others() -> None:
    with pytest.raises(FetchFailed):
        asyncio.run(Fetcher("http://127.0.0.1:9").get("http://127.0.0.1:9/keys"))


def test_a_certificate_that_nobody_vouches_for_is_not_believed(provider: Provider) -> None:
    with pytest.raises(FetchFailed):
        asyncio.run(
            Fetcher(provider.url.replace("http", "https")).get(provider.url.replace("http", "https") + "/keys")
        )


# --- how often they are asked for


class Publisher:
    """Says how often it was asked, and fails when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.fails = False
        self.pause: asyncio.Event | None = None

    async def load(self) -> int:
        self.asked += 1
        if self.pause is not None:
            await self.pause.wait()
        if self.fails:
            raise FetchFailed("gone")
        return self.asked

    def remembered(self) -> Remembered[int]:
        return Remembered("keys", self.load, 600.0, 3600.0, 60.0, lambda: self.now)


def test_what_is_fresh_is_not_asked_for() -> None:
    publisher = Publisher()

    async def run() -> None:
        remembered = publisher.remembered()
        assert [await remembered.get() for _ in range(5)] == [1] * 5
        publisher.now += 601
        assert await remembered.get() == 2

    asyncio.run(run())


def test_an_unknown_key_makes_us_ask_once_a_minute_however_many_come() -> None:
    publisher = Publisher()

    async def run() -> None:
        remembered = publisher.remembered()
        await remembered.get()
        assert await remembered.newer() == 2  # the first one at once
        assert await asyncio.gather(*(remembered.newer() for _ in range(100))) == [2] * 100
        publisher.now += 59
        assert await remembered.newer() == 2
        publisher.now += 2
        assert await asyncio.gather(*(remembered.newer() for _ in range(100))) == [3] * 100

    asyncio.run(run())


def test_those_who_ask_at_once_wait_for_one_answer() -> None:
    publisher = Publisher()

    async def run() -> None:
        publisher.pause = asyncio.Event()
        remembered = publisher.remembered()
        asking = asyncio.gather(*(remembered.get() for _ in range(50)), *(remembered.newer() for _ in range(50)))
        await asyncio.sleep(0.05)
        publisher.pause.set()
        assert set(await asking) <= {1, 2}
        assert publisher.asked <= 2

    asyncio.run(run())


def test_while_the_publisher_is_gone_what_it_said_before_holds_for_an_hour() -> None:
    publisher = Publisher()

    async def run() -> None:
        remembered = publisher.remembered()
        await remembered.get()
        publisher.fails = True
        publisher.now += 601
        assert [await remembered.get() for _ in range(10)] == [1] * 10
        assert publisher.asked == 2  # not again at once
        publisher.now += 61
        await remembered.get()
        assert publisher.asked == 3
        publisher.now += 3600
        with pytest.raises(Unavailable):
            await remembered.get()
        publisher.fails = False
        publisher.now += 6
        assert await remembered.get() == 5

    asyncio.run(run())


def test_one_that_never_answered_is_not_asked_at_every_request() -> None:
    publisher = Publisher()
    publisher.fails = True

    async def run() -> None:
        remembered = publisher.remembered()
        for _ in range(20):
            with pytest.raises(Unavailable):
                await remembered.get()
        assert publisher.asked == 1
        publisher.now += 6
        publisher.fails = False
        assert await remembered.get() == 2

    asyncio.run(run())


# --- claims of jobs


CLAIMS = [
    # pattern, values that match, values that do not
    ("acme/web", ["acme/web"], ["acme/webs", "acme", "Acme/web", "acme/web/x", " acme/web", "acme/web\n"]),
    ("acme/*", ["acme/web", "acme/"], ["acme", "acme/web/x", "acme2/web", "evil/acme/web", "acme/web:x"]),
    ("refs/heads/*", ["refs/heads/main"], ["refs/heads/a/b", "refs/tags/v1", "refs/heads"]),
    ("refs/tags/v*.*", ["refs/tags/v1.2", "refs/tags/v1.2.3"], ["refs/tags/v1", "refs/tags/1.2"]),
    (
        "repo:acme/*:ref:refs/heads/main",
        ["repo:acme/web:ref:refs/heads/main"],
        ["repo:acme/a:b:ref:refs/heads/main"],
    ),
    ("a*b*c", ["abc", "aXbXc", "abbcc"], ["ab", "ac", "abcd", "a/bc"]),
    ("a*a", ["aa", "aba"], ["a"]),
    ("[a-z]?.", ["[a-z]?."], ["a", "b?."]),
    ("true", ["true", True], ["True", False, 1, None, ["true"], {"true": 1}]),
    ("65", ["65", 65], [65.0, "065", [65], "6", 655]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), CLAIMS, ids=[row[0] for row in CLAIMS])
def test_a_claim_matches_as_a_whole_and_a_star_reaches_over_no_separator(
    pattern: str, good: list[Any], bad: list[Any]
) -> None:
    rule = Rule("r", "i", "a", {"c": pattern}, (Limit("*", frozenset({"pull"})),), 60.0)

    assert [value for value in good + bad if rule.lets_in({"c": value})] == good
    assert not rule.lets_in({})


def test_a_rule_without_claims_lets_nobody_in() -> None:
    assert not Rule("r", "i", "a", {}, (), 60.0).lets_in({"c": "x"})


def test_a_pattern_of_many_stars_costs_no_more_than_others() -> None:
    rule = Rule("r", "i", "a", {"c": "a*" * 100 + "b"}, (), 60.0)
    began = time.perf_counter()

    assert not rule.lets_in({"c": "a" * 1000})
    assert not rule.lets_in({"c": "a" * 1_000_000})

    assert time.perf_counter() - began < 0.5


def test_the_provider_of_these_tests_is_a_real_one(provider: Provider) -> None:
    """Its description, its keys and its errors are those of the standard."""
    described = httpx.get(f"{provider.url}/.well-known/openid-configuration", trust_env=False).json()
    assert described["issuer"] == provider.url
    assert json.loads(provider.http.get("/keys").text)["keys"][0]["kty"] in ("RSA", "EC", "OKP")
    wrong = provider.http.post("/token", data={"grant_type": "authorization_code", "code": "x"})
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
