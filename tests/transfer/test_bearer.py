"""Being let in: challenges, token services good and bad, and our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import Denied, HytheError, Unauthorized
from registry.oci.reference import ImageName, Tag
from registry.transfer.bearer import Authority, Challenge, Credentials
from registry.transfer.copy import copy
from registry.transfer.errors import AnswerInvalid
from registry.transfer.http import Http
from registry.transfer.login import log_in
from registry.transfer.reach import Reach
from tests.support.accounts import Registry
from tests.support.faulty import Answer, Asked, Faulty, Script, faulty
from tests.transfer.conftest import MakeWay
from tests.transfer.memory import Memory
from tests.transfer.test_copy import small_image

V1 = Tag("v1")


def authority(base: str, credentials: Credentials | None = None) -> Authority:
    async def look_up() -> Credentials | None:
        return credentials

    return Authority(Http(environment={}), base, look_up)


@pytest.mark.parametrize(
    ("text", "scheme", "parameters"),
    [
        ('Bearer realm="https://a/t",service="s"', "bearer", {"realm": "https://a/t", "service": "s"}),
        (
            'bearer  Realm="x" , scope="repository:a:pull,push"',
            "bearer",
            {"realm": "x", "scope": "repository:a:pull,push"},
        ),
        (r'Basic realm="a \"quoted\" one"', "basic", {"realm": 'a "quoted" one'}),
        ("Basic realm=plain", "basic", {"realm": "plain"}),
        ("Basic", "basic", {}),
        ("", "", {}),
    ],
)
def test_challenges_are_read(text: str, scheme: str, parameters: dict[str, str]) -> None:
    found = Challenge.parse(text)
    assert (found.scheme, found.parameters) == (scheme, parameters)


@given(st.text())
def test_no_challenge_makes_the_reader_fail(text: str) -> None:
    Challenge.parse(text)


@pytest.mark.parametrize(
    ("base", "realm", "may"),
    [
        ("https://registry.example", "https://registry.example/token", True),
        ("https://registry.example", "https://auth.example/token", True),
        ("https://registry.example", "http://registry.example/token", False),
        ("https://registry.example", "http://auth.example/token", False),
        ("http://registry.example:5000", "http://registry.example:5001/token", True),
        ("http://registry.example:5000", "http://auth.example/token", False),
        ("http://registry.example:5000", "https://auth.example/token", True),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", True),
        ("http://localhost:5000", "http://127.0.0.1:5001/token", True),
        ("https://registry.example", "https://127.0.0.1/token", False),
        ("https://registry.example", "https://169.254.169.254/latest", False),
        ("https://registry.example", "https://[::1]/token", False),
        ("https://registry.example", "https://localhost/token", False),
        ("https://registry.example", "https://ann:secret@auth.example/token", False),
        ("https://registry.example", "https://registry.example@evil.example/token", False),
        ("https://registry.example", "//auth.example/token", False),
        ("https://registry.example", "/token", False),
        ("https://registry.example", "", False),
        ("https://registry.example", "file:///etc/passwd", False),
    ],
)
def test_a_token_service_is_asked_only_where_credentials_may_go(base: str, realm: str, may: bool) -> None:
    if may:
        assert authority(base).require_realm(realm) == realm
    else:
        with pytest.raises(AnswerInvalid):
            authority(base).require_realm(realm)


# --- a token service that the tests write


def with_tokens(token: Script, good: str = "Bearer good") -> Callable[[Asked], Answer]:
    """A registry with a token service beside it; the name of the server is known once it runs."""

    def script(asked: Asked) -> Answer:
        if asked.path == "/token":
            return token(asked)
        if asked.headers.get("authorization") == good:
            return Answer(200, {}, b'{"tags":["a"]}')
        realm = f'Bearer realm="http://{asked.headers["host"]}/token",service="s",scope="repository:a/b:pull"'
        return Answer(401, {"WWW-Authenticate": realm})

    return script


def tags(way: Reach, host: str) -> list[str]:
    async def main() -> list[str]:
        async with way:
            return [tag async for tag in way.source(ImageName.parse(f"{host}/a/b")).tags()]

    return asyncio.run(main())


def token_answer(**fields: object) -> Answer:
    return Answer(200, {}, json.dumps(fields).encode())


def test_without_credentials_a_token_is_asked_for_anonymously(make_way: MakeWay) -> None:
    with faulty(with_tokens(lambda asked: token_answer(token="good"))) as server:
        assert tags(make_way(), server.host) == ["a"]
        [asked] = server.requests(part="/token")
        assert asked.query == {"service": ["s"], "scope": ["repository:a/b:pull"]}
        assert "authorization" not in asked.headers


def test_with_a_password_the_token_is_asked_for_with_it(make_way: MakeWay) -> None:
    with faulty(with_tokens(lambda asked: token_answer(access_token="good"))) as server:
        assert tags(make_way({server.host: ("ann", "secret")}), server.host) == ["a"]
        [asked] = server.requests(part="/token")
        assert asked.headers["authorization"] == Credentials("ann", "secret").basic()
        assert asked.query["account"] == ["ann"]
        others = [each for each in server.asked if each.path != "/token"]
        assert {each.headers.get("authorization") for each in others} == {None, "Bearer good"}


def test_a_refresh_token_is_exchanged_by_form(make_way: MakeWay) -> None:
    with faulty(with_tokens(lambda asked: token_answer(token="good"))) as server:
        way = make_way()
        way._credentials.store(server.host, Credentials("ann", "", "refreshing"))
        assert tags(way, server.host) == ["a"]
        [asked] = server.requests("POST", "/token")
        form = parse_qs(asked.body.decode())
        assert form["grant_type"] == ["refresh_token"]
        assert form["refresh_token"] == ["refreshing"]
        assert form["scope"] == ["repository:a/b:pull"]


def test_a_service_that_knows_only_forms_gets_one(make_way: MakeWay) -> None:
    def token(asked: Asked) -> Answer:
        return Answer(405) if asked.method == "GET" else token_answer(access_token="good")

    with faulty(with_tokens(token)) as server:
        assert tags(make_way({server.host: ("ann", "secret")}), server.host) == ["a"]
        form = parse_qs(server.requests("POST", "/token")[0].body.decode())
        assert form["grant_type"] == ["password"]
        assert form["password"] == ["secret"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {}, b"not json"),
        Answer(200, {}, b"[]"),
        token_answer(),
        token_answer(token=7),
        token_answer(token="with\r\nnewline"),
        token_answer(token="good", expires_in="soon"),
        Answer(302, {"Location": "https://elsewhere.example/token"}),
        Answer(500),
    ],
)
def test_a_token_service_that_answers_nonsense_is_an_error_of_one_line(make_way: MakeWay, answer: Answer) -> None:
    with faulty(with_tokens(lambda asked: answer)) as server:
        with pytest.raises(HytheError) as failed:
            tags(make_way({server.host: ("ann", "secret")}), server.host)
        assert "\n" not in str(failed.value)
        assert "secret" not in str(failed.value)


def test_refused_credentials_are_told_in_the_services_words(make_way: MakeWay) -> None:
    refusal = Answer(401, {}, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong password, ann"}]}')
    script = with_tokens(lambda asked: refusal)
    with faulty(script) as server, pytest.raises(Unauthorized, match="wrong password, ann"):
        tags(make_way({server.host: ("ann", "secret")}), server.host)


def test_a_token_that_is_not_enough_ends_and_is_not_asked_for_for_ever(make_way: MakeWay) -> None:
    with faulty(with_tokens(lambda asked: token_answer(token="useless"))) as server:
        with pytest.raises(HytheError):
            tags(make_way({server.host: ("ann", "secret")}), server.host)
        assert len(server.requests(part="/token")) <= 2


def test_a_realm_elsewhere_that_is_not_https_gets_nothing(make_way: MakeWay) -> None:
    with faulty(lambda asked: token_answer(token="good"), "127.0.0.1") as thief:

        def script(asked: Asked) -> Answer:
            return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://evil.invalid:{thief.port}/token"'})

        with faulty(script) as server, pytest.raises(AnswerInvalid, match="where we do not go"):
            tags(make_way({server.host: ("ann", "secret")}), server.host)
        assert not thief.asked


# --- ours


def repositories(registry: Registry, way: Reach, name: str):  # type: ignore[no-untyped-def]
    return way.target(ImageName.parse(f"{registry.host}/{name}"))


def test_our_own_accounts_let_their_people_push_and_strangers_pull_what_is_public(
    guarded: Registry, make_way: MakeWay
) -> None:
    name, password = guarded.user("transferer")
    guarded.grant("user:transferer", "pull,push", "public/*")
    guarded.grant("user:transferer", "pull,push", "hidden/*")
    memory = Memory()
    memory.put(small_image(1), "v1")

    async def main() -> None:
        async with make_way({guarded.host: (name, password)}) as way:
            for place in ("public/x", "hidden/x", "public/y"):
                await copy(memory, V1, repositories(guarded, way, place), V1)
            with pytest.raises(Denied, match="transferer may not do this, or it does not exist"):
                await repositories(guarded, way, "others/x").resolve(V1)

    async def strange() -> None:
        async with make_way() as way:
            back = Memory()
            await copy(repositories(guarded, way, "public/x"), V1, back, V1)
            assert back.contents == memory.contents
            with pytest.raises(HytheError, match="try: hythe login"):
                await repositories(guarded, way, "hidden/x").resolve(V1)
            with pytest.raises(HytheError, match="try: hythe login"):
                await copy(memory, V1, repositories(guarded, way, "public/z"), V1)

    asyncio.run(main())
    make_way()._credentials.erase(guarded.host)
    asyncio.run(strange())


def test_a_login_is_tried_before_it_is_kept(guarded: Registry, make_way: MakeWay) -> None:
    name, password = guarded.user("loginer")

    async def main() -> None:
        async with make_way() as way:
            host = way.registry(guarded.host)
            kept = await log_in(host, Credentials(name, password))
            assert kept.username == name
            with pytest.raises(Unauthorized):
                await log_in(host, Credentials(name, "wrong"))

    asyncio.run(main())


def test_a_registry_with_basic_alone_is_logged_in_to(make_way: MakeWay) -> None:
    good = Credentials("ann", "secret")

    def script(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == good.basic():
            return Answer(200)
        return Answer(401, {"WWW-Authenticate": "Basic realm=x"})

    server: Faulty
    with faulty(script) as server:

        async def main() -> None:
            async with make_way() as way:
                assert await log_in(way.registry(server.host), good) == good
                with pytest.raises(Unauthorized):
                    await log_in(way.registry(server.host), Credentials("ann", "wrong"))

        asyncio.run(main())
