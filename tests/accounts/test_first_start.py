"""The first start: one password, printed once; no default of anything; open only where nobody else can come."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import bcrypt
import httpx
import pytest

from tests.accounts.conftest import MakeRegistry
from tests.conftest import MakeServer
from tests.support.accounts import Registry, authorization, first_password
from tests.support.server import Server, Settings

PASSWORDS = re.compile(r"^ *Password: (\S+)$", re.MULTILINE)


def base(server: Server, *identity: str) -> int:
    """The status of `/v2/` for somebody."""
    headers = authorization((identity[0], identity[1])) if identity else {}
    return httpx.get(f"{server.url}/v2/", headers=headers, trust_env=False, timeout=30).status_code


def has_a_file(server: Server) -> None:
    """Skip where the index is a database's."""
    if server.settings.get("index", {}).get("url"):
        pytest.skip("the index is no file here")


def test_the_administrators_password_is_printed_at_the_first_start_and_never_again(
    make_registry: MakeRegistry,
) -> None:
    registry = make_registry(server={"workers": 2})
    server = registry.server
    assert PASSWORDS.findall(server.log()) == [registry.password]
    assert "Username: admin\n" in server.log()
    assert "shown this once" in server.log()
    assert base(server, "admin", registry.password) == 200

    for _ in range(2):
        server.restart()
        assert PASSWORDS.findall(server.log()) == [registry.password]

    assert server.log().count(registry.password) == 1
    assert re.search(
        rf"One has to log in: (docker|hythe) login localhost:{server.port}$", server.log(), re.MULTILINE
    )
    assert base(server, "admin", registry.password) == 200


def test_a_server_on_every_address_is_called_by_one_that_others_can_use(make_registry: MakeRegistry) -> None:
    server = make_registry(server={"host": "0.0.0.0"}).server

    [address] = re.findall(rf"(?:docker|hythe) login (\S+):{server.port}$", server.log(), re.MULTILINE)
    assert address != "0.0.0.0"
    with socket.create_connection((address, server.port), 5):
        pass


def test_no_two_registries_share_a_password_or_a_key(make_registry: MakeRegistry) -> None:
    registries = [make_registry(), make_registry()]

    assert len({registry.password for registry in registries}) == 2
    assert len({registry.signing_key().id for registry in registries}) == 2
    assert len({registry.signing_key().private_pem for registry in registries}) == 2
    assert all(len(registry.password) >= 24 for registry in registries)


def test_no_password_that_anybody_could_know_opens_it(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    known = ["admin", "password", "", "hythe", "Harbor12345"]

    answers = {base(registry.server, "admin", password) for password in known}
    answers |= {base(registry.server, name, name) for name in ("root", "hythe", "user", "anonymous", "operator")}

    assert answers == {401}


def test_the_password_lies_nowhere_in_the_data(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    registry.user("bob", "correct horse battery")
    token = registry.personal_token("bob")
    assert registry.client(token).get("/v2/").status_code == 200
    registry.server.stop()

    for path in registry.server.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (registry.password, "correct horse battery", token, token.split("_", 2)[2]):
                assert secret.encode() not in content, path


def test_only_its_owner_can_read_the_index(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    has_a_file(registry.server)
    registry.user("bob", "correct horse")
    found = sorted(registry.server.data.glob("index.sqlite3*"))

    assert {path.name for path in found} >= {"index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"}
    for path in found:
        if path.stat().st_size:  # the file that processes take turns by has nothing in it
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_an_index_that_others_could_read_is_closed_at_the_next_start(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    has_a_file(registry.server)
    path = registry.server.data / "index.sqlite3"
    path.chmod(0o644)

    registry.server.restart()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_command_line_makes_no_index_that_others_can_read_either(tmp_path: Path) -> None:
    registry = Registry.at_rest(tmp_path)
    has_a_file(registry.server)
    before = os.umask(0)
    try:
        registry.do("user", "list")
    finally:
        os.umask(before)

    assert stat.S_IMODE((registry.server.data / "index.sqlite3").stat().st_mode) == 0o600


def test_what_was_signed_before_a_restart_holds_after_it(make_registry: MakeRegistry) -> None:
    registry = make_registry(server={"workers": 2})
    token, keys = (
        registry.token(("admin", registry.password)),
        registry.client().get("/.well-known/jwks.json").json(),
    )
    registry.close()

    registry.server.restart()

    assert registry.client(token).get("/v2/").status_code == 200
    assert registry.client().get("/.well-known/jwks.json").json() == keys


OPEN = "It is open to everybody who can reach it: there are no accounts (accounts.enabled)."


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.10"])
def test_a_registry_that_only_this_machine_can_reach_is_open_and_says_so_in_a_line(
    make_server: MakeServer, host: str
) -> None:
    server = make_server(server={"host": host}, start=False)
    if host == "127.8.9.10":
        server.settings["server"]["host"] = "127.0.0.1"  # where `Server` looks for it; the rule is config's
    server.start()

    assert server.log().splitlines().count(OPEN) == 1
    assert not PASSWORDS.findall(server.log())
    assert base(server) == 200
    assert httpx.post(f"{server.url}/v2/a/blobs/uploads/", trust_env=False).status_code == 202
    for path in ("/token", "/.well-known/jwks.json"):
        assert httpx.get(server.url + path, trust_env=False).status_code == 404


@pytest.mark.parametrize("settings", [{"server": {"host": "0.0.0.0"}}, {"accounts": {"enabled": "always"}}])
def test_a_registry_that_others_can_reach_is_closed(make_server: MakeServer, settings: Settings) -> None:
    server = make_server(**settings)

    assert OPEN not in server.log()
    assert base(server) == 401
    assert httpx.post(f"{server.url}/v2/a/blobs/uploads/", trust_env=False).status_code == 401
    assert base(server, "admin", first_password(server)) == 200


def test_an_operator_may_open_it_to_all_and_is_told(make_server: MakeServer) -> None:
    server = make_server(server={"host": "0.0.0.0"}, accounts={"enabled": "never"})

    assert server.log().splitlines().count(OPEN) == 1
    assert base(server) == 200


def test_accounts_that_are_turned_on_later_begin_then(make_server: MakeServer) -> None:
    server = make_server()
    assert base(server) == 200
    pushed = httpx.post(f"{server.url}/v2/a/blobs/uploads/", trust_env=False)
    server.settings["accounts"] = {"enabled": "always"}

    server.restart()

    assert base(server) == 401
    identity = ("admin", first_password(server))
    assert base(server, *identity) == 200
    # What everybody could begin belongs to nobody who logs in.
    answer = httpx.get(server.url + pushed.headers["Location"], headers=authorization(identity), trust_env=False)
    assert answer.status_code == 404


def test_who_made_an_administrator_before_the_first_start_gets_no_second_one(tmp_path: Path) -> None:
    registry = Registry.at_rest(tmp_path)
    name, password = registry.user("root-of-all", admin=True)
    server = registry.server
    try:
        server.start()
        assert not PASSWORDS.findall(server.log())
        assert base(server, name, password) == 200
        assert base(server, "admin", password) == 401
    finally:
        server.kill()


def test_the_people_of_a_file_are_no_administrators_and_so_there_is_one(
    make_server: MakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "people"
    path.write_text("bob:" + bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode() + "\n")

    server = make_server(accounts={"enabled": "always", "htpasswd": str(path)})

    assert base(server, "bob", "correct horse") == 200
    assert base(server, "admin", first_password(server)) == 200
    server.restart()
    assert len(PASSWORDS.findall(server.log())) == 1
