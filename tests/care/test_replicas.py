"""Healing from another registry, which may want a login, lie, or be gone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError
from registry.oci.reference import Repository
from registry.transfer.fetch import FetchFailed
from registry.transfer.replica import Replica
from tests.care.conftest import Admin, StartServer, client
from tests.care.damage import Vandal
from tests.gc.keeper import Keeper
from tests.support.faulty import Answer, faulty
from tests.support.oci import blob, blob_path, config, image, manifest_path, push_blob, push_manifest
from tests.support.warm import WarmServer

REPOSITORY = "team/app"


@pytest.mark.parametrize("wants_login", [False, True])
def test_what_is_wrong_is_healed_from_another_registry(
    wants_login: bool, start: StartServer, hythe: Admin
) -> None:
    other = start(accounts={"enabled": "always" if wants_login else "never"})
    login: dict[str, Any] = {}
    if wants_login:
        password = json.loads(hythe(other, "--json", "user", "add", "hythe", "--admin")[1])["password"]
        login = {"username": "hythe", "password": password}
    own = start(scrub={"enabled": "never", "replicas": [{"url": other.url, **login}]})
    layer, made = blob(3_000_000), config()
    manifest = image(made, [layer])
    auth = ("hythe", login["password"]) if login else None
    with client(own) as http, httpx.Client(base_url=other.url, trust_env=False, auth=auth) as there:
        for each in (http, there):
            push_blob(each, REPOSITORY, layer)
            push_blob(each, REPOSITORY, made)
            push_manifest(each, REPOSITORY, manifest, "v1")
        for harm in (Vandal(own).flip, Vandal(own).remove):
            harm(layer.digest)
            status, out, _ = hythe(own, "scrub", "--rate", "0")
            assert status == 0
            assert "1 healed" in out
            assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data
        Vandal(own).flip(manifest.digest)
        Keeper(own.data).execute("UPDATE manifest SET payload = x'00'")
        assert hythe(own, "scrub")[0] == 0
        assert http.get(manifest_path(REPOSITORY, "v1")).content == manifest.data
    assert hythe(own, "verify", "--all")[0] == 0


def test_one_that_has_wrong_bytes_or_none_heals_nothing_and_later_another_does(
    start: StartServer, hythe: Admin
) -> None:
    wrong, right = start(), start()
    own = start(go=False)
    own.settings["scrub"] = {"enabled": "never", "replicas": [{"url": wrong.url}, {"url": "http://127.0.0.1:1"}]}
    own.start()
    layer, made = blob(200_000), config()
    for server in (own, wrong, right):
        with client(server) as http:
            push_blob(http, REPOSITORY, layer)
            push_blob(http, REPOSITORY, made)
            push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
    Vandal(wrong).flip(layer.digest)
    Vandal(own).remove(layer.digest)
    assert hythe(own, "scrub")[0] == 1
    with client(own) as http:
        assert http.head(blob_path(REPOSITORY, layer.digest)).status_code == 404
        assert Keeper(own.data).leftovers() == []
        own.settings["scrub"]["replicas"].append({"url": right.url})
        assert hythe(own, "scrub")[0] == 0
        assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, {"WWW-Authenticate": 'Bearer realm="ELSEWHERE/token",service="x"'}),
        Answer(401, {"WWW-Authenticate": 'Bearer realm="https://evil.example/token",service="x"'}),
        Answer(307, {"Location": "ELSEWHERE/blob"}),
        Answer(307, {"Location": "file:///etc/passwd"}),
        Answer(401, {"WWW-Authenticate": "Negotiate"}),
        Answer(500),
    ],
)
def test_nobody_is_asked_who_was_not_named(answer: Answer) -> None:
    with faulty(lambda asked: Answer(200, {}, b"")) as elsewhere:
        headers = {name: value.replace("ELSEWHERE", elsewhere.url) for name, value in answer.headers.items()}
        with faulty(lambda asked: replace(answer, headers=headers)) as other:
            replica = Replica(other.url, "hythe", "secret")

            async def main() -> None:
                async with replica.open(Repository(REPOSITORY), "blobs", Digest.of(b"")):
                    raise AssertionError("nothing was given")

            with pytest.raises(FetchFailed):
                asyncio.run(main())
            assert len(other.asked) == 1
        assert not elsewhere.asked


def test_an_address_that_cannot_be_asked_is_a_mistake_of_the_settings(near: WarmServer, hythe: Admin) -> None:
    with pytest.raises(ConfigurationError, match="no address"):
        Replica("http://other.example")
    near.settings["scrub"] = {"replicas": [{"url": "https://x.example", "password_file": "/nowhere"}]}
    assert "/nowhere" in hythe(near, "verify", "--all")[2]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
