"""Logins: guessing is slowed and its victims are not, passwords are no lever, nonsense is no fault."""

from __future__ import annotations

import base64
import contextlib
import itertools
import random
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from registry.server.auth.passwords import is_weaker_than_ours
from registry.server.index import credentials
from registry.server.index.schema import attempt
from tests.accounts.conftest import FROM_ANYWHERE, MakeRegistry
from tests.support import oci, processes
from tests.support.accounts import Registry, authorization, elsewhere
from tests.support.server import Server
from tests.support.wire import Answer, Wire, request

PASSWORD = "correct horse"
CHEAP = "x" * 1025  # as wrong as any, and refused without being hashed
Origin = dict[str, str]


def log_in(registry: Registry, name: str, password: str, origin: Origin) -> httpx.Response:
    return registry.client().get("/token", headers={**authorization((name, password)), **origin})


def guess(registry: Registry, name: str, origin: Origin, times: int = 1) -> None:
    """Try so many wrong passwords."""
    guess_at_once(registry, [(name, origin)] * times)


def guess_at_once(registry: Registry, tries: list[tuple[str, Origin]]) -> None:
    """Try a wrong password for each of these, many at a time."""
    with ThreadPoolExecutor(16) as pool:
        answers = set(pool.map(lambda each: log_in(registry, each[0], CHEAP, each[1]).status_code, tries))
    assert answers == {401}


def time_passes(registry: Registry, seconds: float, *of: str) -> None:
    """Let what is counted under names or addresses, and until when they are blocked, be so much older."""
    earlier = int(seconds * 1000)

    def make_older(tx: Any) -> None:
        for part in of:
            row = attempt.c.key.contains(part, autoescape=True)
            values = {"until_ms": attempt.c.until_ms - earlier, "touched_ms": attempt.c.touched_ms - earlier}
            tx.execute(attempt.update().where(row).values(**values))

    registry.change(make_older)


def wait_of(answer: httpx.Response) -> int:
    """The seconds after which a login that was slowed down may be tried again."""
    assert oci.failure(answer) == (429, "TOOMANYREQUESTS")
    return int(answer.headers["Retry-After"])


# --- guessing


def test_five_wrong_passwords_are_free_and_the_next_ones_double_a_wait(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    origin, other = elsewhere(), elsewhere()
    guess(registry, name, origin, 6)

    waits = []
    for _ in range(4):
        waits.append(wait_of(log_in(registry, name, PASSWORD, origin)))
        assert log_in(registry, name, PASSWORD, other).status_code == 200  # only this pair is slowed
        time_passes(registry, waits[-1], name)
        guess(registry, name, origin)

    assert [wait - 1 for wait in waits] in ([1, 3, 7, 15], [2, 4, 8, 16])


def test_a_block_is_over_after_its_time_and_never_longer_than_five_minutes(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    origin = elsewhere()
    for _ in range(15):
        guess(registry, name, origin)
        time_passes(registry, 301, name)

    guess(registry, name, origin)
    assert 280 < wait_of(log_in(registry, name, PASSWORD, origin)) <= 301

    time_passes(registry, 301, name, origin["X-Forwarded-For"])
    assert log_in(registry, name, PASSWORD, origin).status_code == 200


def test_failures_are_forgotten_after_an_hour_and_after_a_login(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    origin = elsewhere()
    for forget in (lambda: time_passes(registry, 3601, name), lambda: log_in(registry, name, PASSWORD, origin)):
        guess(registry, name, origin, 5)
        forget()
        guess(registry, name, origin, 5)
        assert log_in(registry, name, PASSWORD, origin).status_code == 200


def test_a_name_that_nobody_has_is_slowed_like_one_that_somebody_has(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    ways = {}
    for who in (name, f"{name}-nobody"):
        origin = elsewhere()
        guess(registry, who, origin, 6)
        answer = log_in(registry, who, CHEAP, origin)
        ways[who] = (answer.status_code, answer.json()["errors"][0]["message"], set(answer.headers))

    assert ways[name] == ways[f"{name}-nobody"]


def test_one_address_that_guesses_at_many_names_is_slowed_for_all_of_them(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    origin = elsewhere()
    guess_at_once(registry, [(f"{name}-{number}", origin) for number in range(31)])

    assert wait_of(log_in(registry, name, PASSWORD, origin)) <= 3
    assert wait_of(registry.client().get("/v2/", headers={**authorization((name, PASSWORD)), **origin})) <= 3
    form = {"grant_type": "password", "username": name, "password": PASSWORD}
    assert wait_of(registry.client().post("/token", data=form, headers=origin)) <= 3
    assert log_in(registry, name, PASSWORD, elsewhere()).status_code == 200
    # Nobody guesses at what needs no login.
    assert registry.client().get("/token", headers=origin).status_code == 200


def test_the_addresses_of_one_ipv6_network_are_one(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    network = f"2001:db8:{random.randrange(1 << 16):x}:{random.randrange(1 << 16):x}"
    tries = [(f"{name}-{number}", {"X-Forwarded-For": f"{network}::{number + 1:x}"}) for number in range(31)]
    guess_at_once(registry, tries)

    assert log_in(registry, name, PASSWORD, {"X-Forwarded-For": f"{network}:1:2:3:4"}).status_code == 429
    other = {"X-Forwarded-For": f"2001:db9:{random.randrange(1 << 16):x}::1"}
    assert log_in(registry, name, PASSWORD, other).status_code == 200


def test_what_a_client_writes_as_its_address_is_not_believed(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    registry.user("bob", PASSWORD)
    guess_at_once(registry, [("bob", elsewhere()) for _ in range(6)])

    assert log_in(registry, "bob", PASSWORD, elsewhere()).status_code == 429


def under_attack(registry: Registry, name: str) -> None:
    """Let an account be attacked from many addresses until it is slowed, and hold that moment."""
    tries = [(name, elsewhere()) for _ in range(51)]
    with ThreadPoolExecutor(16) as pool:
        answers = set(pool.map(lambda each: log_in(registry, each[0], CHEAP, each[1]).status_code, tries))
    assert 401 in answers
    assert answers <= {401, 429}
    time_passes(registry, -60, f"account:{name}")


def test_an_account_that_is_attacked_from_everywhere_is_slowed_by_seconds(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    origin, key = elsewhere(), f"account:{name}"
    under_attack(registry, name)
    assert log_in(registry, name, PASSWORD, origin).status_code == 429

    for _ in range(3):
        time_passes(registry, 66, key)
        guess(registry, name, elsewhere())
        counted = registry.look(credentials.attempts, [key])[key]
        assert counted.failures > 50
        assert 0 < counted.until_ms - counted.touched_ms <= 5000

    time_passes(registry, 6, key)
    assert log_in(registry, name, PASSWORD, origin).status_code == 200


def test_the_victim_comes_in_from_where_they_came_in_before_while_the_attack_goes_on(
    registry: Registry, name: str
) -> None:
    registry.user(name, PASSWORD)
    home = elsewhere()
    assert log_in(registry, name, PASSWORD, home).status_code == 200
    under_attack(registry, name)
    over = threading.Event()
    attacks = []

    def attack() -> None:
        with httpx.Client(base_url=registry.server.url, trust_env=False, timeout=60) as client:
            for number in itertools.count():
                headers = {**authorization((name, f"{CHEAP}{number}")), **elsewhere()}
                attacks.append(client.get("/token", headers=headers).status_code)
                if over.is_set():
                    return

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(attack) for _ in range(4)]
        try:
            began = time.monotonic()
            answers = [log_in(registry, name, PASSWORD, home).status_code for _ in range(20)]
            took = time.monotonic() - began
        finally:
            over.set()
        for each in running:
            each.result()

    assert answers == [200] * 20
    assert took < 10
    assert set(attacks) <= {401, 429}
    assert 429 in attacks


def test_the_victims_address_is_no_way_around_the_limit_for_who_shares_it(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    home = elsewhere()
    assert log_in(registry, name, PASSWORD, home).status_code == 200

    guess(registry, name, home, 6)

    assert log_in(registry, name, PASSWORD, home).status_code == 429


def test_personal_tokens_are_not_slowed_by_guesses_at_the_password(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    token = registry.personal_token(name)
    origin = elsewhere()
    guess(registry, name, origin, 6)
    under_attack(registry, name)
    assert log_in(registry, name, PASSWORD, origin).status_code == 429

    for headers in (authorization((name, token)), authorization(token)):
        assert registry.client().get("/v2/", headers={**headers, **origin}).status_code == 200
    assert log_in(registry, name, token, origin).status_code == 200


def test_access_tokens_and_refresh_tokens_are_not_slowed_either(registry: Registry, name: str) -> None:
    who = registry.user(name, PASSWORD)
    token = registry.token(who)
    refresh = registry.ask_token(who, offline_token="true").json()["refresh_token"]
    origin = elsewhere()
    guess(registry, name, origin, 6)

    assert registry.client().get("/v2/", headers={**authorization(token), **origin}).status_code == 200
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    assert registry.client().post("/token", data=form, headers=origin).status_code == 200


def test_all_workers_count_together(pair: Registry, name: str) -> None:
    pair.user(name, PASSWORD)
    headers = {**authorization((name, CHEAP)), **elsewhere()}
    right = {**headers, **authorization((name, PASSWORD))}

    for _ in range(3):  # each of them asks both
        assert [answer.status for answer in pair.workers.ask("GET", "/token", headers)] == [401, 401]

    assert [answer.status for answer in pair.workers.ask("GET", "/token", right)] == [429, 429]


def test_a_restart_does_not_forget(make_registry: MakeRegistry) -> None:
    registry = make_registry(server=FROM_ANYWHERE)
    registry.user("bob", PASSWORD)
    origin = elsewhere()
    guess(registry, "bob", origin, 6)
    time_passes(registry, -60, "bob")

    registry.server.restart()

    assert log_in(registry, "bob", PASSWORD, origin).status_code == 429


# --- what the time tells


@pytest.fixture(scope="module")
def with_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Path]]:
    """A registry that serves an htpasswd file, and that file, which has `filed`."""
    from tests.support.accounts import registry_with_accounts

    directory = tmp_path_factory.mktemp("htpasswd")
    path = directory / "people"
    write_people(path, cost=10, filed=PASSWORD)
    server = Server(
        directory / "server", {"server": {"workers": 2, **FROM_ANYWHERE}, "accounts": {"htpasswd": str(path)}}
    )
    with registry_with_accounts(server) as running:
        yield running, path


def write_people(path: Path, cost: int = 4, **people: str) -> None:
    """Write an htpasswd file, as `htpasswd -B` does, in one step."""
    hashed = {name: bcrypt.hashpw(people[name].encode(), bcrypt.gensalt(cost)).decode() for name in people}
    lines = [f"{name}:{stored}\n" for name, stored in hashed.items()]
    new = path.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(path)


def test_the_time_of_a_refusal_does_not_tell_who_there_is(with_file: tuple[Registry, Path]) -> None:
    registry, _ = with_file
    registry.user("timed-local", PASSWORD)
    registry.user("timed-disabled", PASSWORD)
    registry.do("user", "disable", "timed-disabled")
    registry.do("robot", "add", "timed-robot")
    kinds = ("timed-local", "timed-disabled", "timed-robot", "filed", "timed-nobody")
    shortest = dict.fromkeys(kinds, float("inf"))  # what else the machine does only adds to it

    def are_alike() -> bool:
        # On a machine that is busy, hashing takes longer than what every refusal waits for.
        bound = 1.5 if min(shortest.values()) < 0.23 else 2.5
        return max(shortest.values()) < bound * min(shortest.values())

    # One that takes longer by itself does so each time, one that was only held up does not: it is asked again.
    for number in range(20):
        for kind in random.sample(kinds, len(kinds)):
            began = time.perf_counter()
            answer = log_in(registry, kind, f"wrong {number}", elsewhere())
            shortest[kind] = min(shortest[kind], time.perf_counter() - began)
            assert answer.status_code == 401
        if number >= 3 and are_alike():
            break
    assert are_alike(), shortest


def test_every_refusal_has_the_same_words(registry: Registry, name: str) -> None:
    registry.user(name, PASSWORD)
    registry.user(f"{name}-disabled", PASSWORD)
    registry.do("user", "disable", f"{name}-disabled")
    registry.do("robot", "add", f"{name}-robot")
    token = registry.personal_token(name)
    tries = [
        (name, "wrong"),
        (f"{name}-nobody", PASSWORD),
        (f"{name}-disabled", PASSWORD),
        (f"{name}-robot", ""),
        (name, ""),
        ("", ""),
        (name, token[:-1] + ("A" if token[-1] != "A" else "B")),
        (f"{name}-robot", token),
        (name, "hyt_0123456789abcdef_" + "x" * 32),
    ]
    said = set()
    for who, password in tries:
        answer = log_in(registry, who, password, elsewhere())
        headers = {name: value for name, value in answer.headers.items() if name != "date"}
        said.add((answer.status_code, answer.text, str(sorted(headers.items()))))

    assert len(said) == 1


# --- what is remembered


def test_a_right_password_is_verified_once_and_a_changed_one_is_not_remembered(pair: Registry, name: str) -> None:
    pair.user(name, PASSWORD)
    ask = {**authorization((name, PASSWORD)), **elsewhere()}
    pair.workers.ask("GET", "/healthz")
    times = []
    for _ in range(6):
        began = time.perf_counter()
        assert {answer.status for answer in pair.workers.ask("GET", "/v2/", ask)} == {200}
        times.append(time.perf_counter() - began)
    assert statistics.median(times[1:]) < times[0] / 2

    pair.do("user", "passwd", name, "--password-stdin", stdin="another horse\n")

    assert {answer.status for answer in pair.workers.ask("GET", "/v2/", ask)} == {401}
    again = {**authorization((name, "another horse")), **elsewhere()}
    assert {answer.status for answer in pair.workers.ask("GET", "/v2/", again)} == {200}


def test_a_remembered_password_does_not_open_a_disabled_or_deleted_account(pair: Registry, name: str) -> None:
    ask = {**authorization(pair.user(name, PASSWORD)), **elsewhere()}
    assert {answer.status for answer in pair.workers.ask("GET", "/v2/", ask)} == {200}

    pair.do("user", "disable", name)
    assert {answer.status for answer in pair.workers.ask("GET", "/v2/", ask)} == {401}
    pair.do("user", "enable", name)
    assert {answer.status for answer in pair.workers.ask("GET", "/v2/", ask)} == {200}
    pair.do("user", "remove", name)
    assert {answer.status for answer in pair.workers.ask("GET", "/v2/", ask)} == {401}


def test_a_personal_token_is_noted_when_used_and_not_at_each_request(registry: Registry, name: str) -> None:
    who = registry.robot(name)
    [before] = registry.json("token", "list", name)
    assert before["used_ms"] is None

    writes = count_writes(registry)
    for _ in range(50):
        assert registry.client(who).get("/v2/").status_code == 200

    [after] = registry.json("token", "list", name)
    assert abs(after["used_ms"] / 1000 - time.time()) < 60
    assert count_writes(registry) - writes < 10


def count_writes(registry: Registry) -> int:
    """How many pages were ever written to the index's log; every commit adds some."""
    wal = registry.server.data / "index.sqlite3-wal"
    return wal.stat().st_size // 4096 if wal.exists() else 0


# --- passwords as a lever


def test_many_wrong_logins_at_once_do_not_stall_the_server(registry: Registry, name: str) -> None:
    robot = registry.robot(f"{name}-robot")
    oci.push_image(registry.admin, "public/of-logins", "v1")

    def ask() -> float:
        began = time.perf_counter()
        assert registry.client().get("/healthz").status_code == 200
        assert registry.client(robot).get("/v2/").status_code == 200
        assert registry.client().get(oci.manifest_path("public/of-logins", "v1")).status_code == 200
        return time.perf_counter() - began

    ask()
    usual = statistics.median(ask() for _ in range(20))
    times = []
    with ThreadPoolExecutor(24) as pool:
        attacks = [pool.submit(log_in, registry, f"{name}-{number}", "wrong", elsewhere()) for number in range(16)]
        while not all(each.done() for each in attacks):
            times.append(ask())

    assert {each.result().status_code for each in attacks} <= {401, 429}
    assert len(times) > 10
    assert statistics.median(times) < 10 * usual + 0.1


@pytest.mark.parametrize("size", [1025, 20_000])
def test_a_very_long_password_is_refused_without_hashing(registry: Registry, name: str, size: int) -> None:
    registry.user(name, PASSWORD)
    assert log_in(registry, name, "x" * size, elsewhere()).status_code == 401
    form = {"grant_type": "password", "username": name, "password": "x" * size}
    assert registry.client().post("/token", data=form, headers=elsewhere()).status_code == 401


@pytest.mark.parametrize(
    "password",
    [
        "pässwörter",
        "密码密码密码密码",
        "🐎🔋📎✅🐎🔋📎✅",
        "with: some: colons",
        "x" * 1024,
        "percent%00zero",
    ],
)
def test_a_password_of_any_characters_logs_in_by_each_way(registry: Registry, name: str, password: str) -> None:
    registry.user(name, password)
    form = {"grant_type": "password", "username": name, "password": password}

    assert log_in(registry, name, password, elsewhere()).status_code == 200
    assert registry.client().post("/token", data=form, headers=elsewhere()).status_code == 200
    assert log_in(registry, name, password.swapcase() + "-", elsewhere()).status_code == 401


def test_a_name_is_read_in_any_case(registry: Registry, name: str) -> None:
    registry.user(name.capitalize(), PASSWORD)

    for written in (name, name.upper(), name.capitalize()):
        assert log_in(registry, written, PASSWORD, elsewhere()).status_code == 200


@pytest.mark.parametrize(
    "given", ["a\0b", "\0", "x" * 5000, "é", "' OR 1=1 --", "%", "_", "admin\n", " admin", "*"]
)
def test_a_name_that_nobody_can_have_is_refused_like_others(registry: Registry, given: str) -> None:
    answer = log_in(registry, given, PASSWORD, elsewhere())

    assert oci.failure(answer) == (401, "UNAUTHORIZED")


MALFORMED = [
    "Basic",
    "Basic ",
    "Basic =",
    "Basic ====",
    "Basic YWRtaW4",
    "Basic !!!!",
    "Basic " + base64.b64encode(b"no colon").decode(),
    "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
    "Basic YWRtaW46 YWRtaW46",
    "Basic YWRtaW46,YWRtaW46",
    "Basic\tYWRtaW46",
    "Bearer",
    "Bearer ",
    "Bearer  a  b",
    "Bearer .",
    "Bearer ..",
    "Bearer a.b.c, Bearer d.e.f",
    "Digest username=admin",
    "Negotiate YII=",
    "admin",
    ":",
    ",",
    "Basic " + "Q" * 50_000,
    "Bearer " + "Q" * 50_000,
    "Basic é",
]


@pytest.mark.parametrize("header", MALFORMED, ids=lambda header: repr(header[:24]))
def test_a_header_that_cannot_be_read_is_refused_and_no_fault(registry: Registry, header: str) -> None:
    def ask(path: str) -> Answer:
        headers = {"Authorization": header.encode().decode("latin-1"), **elsewhere()}
        with Wire(registry.server.port) as wire:
            return wire.ask(request("GET", path, headers))

    for path in ("/v2/", "/v2/some/where/tags/list", "/v2/_catalog", "/v1/search?q=a"):
        answer = ask(path)
        assert (answer.status, answer.code()) == (401, "UNAUTHORIZED"), path
        assert answer.headers["www-authenticate"].startswith('Bearer realm="')
    assert ask("/token").status == 401


def test_two_headers_are_not_one_of_them(registry: Registry, name: str) -> None:
    who = registry.robot(name)
    one, other = authorization(who)["Authorization"], authorization(("admin", "wrong"))["Authorization"]

    with Wire(registry.server.port) as wire:
        twice = {"Authorization": one, "authorization": other, **elsewhere()}
        assert wire.ask(request("GET", "/v2/", twice)).status == 401


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "Basic"])
def test_the_scheme_is_read_in_any_case(registry: Registry, name: str, scheme: str) -> None:
    value = authorization(registry.robot(name))["Authorization"].partition(" ")[2]

    assert registry.client().get("/v2/", headers={"Authorization": f"{scheme} {value}"}).status_code == 200
    assert registry.client().get("/v2/", headers={"Authorization": f"{scheme}   {value}"}).status_code == 200


def test_no_password_and_no_token_is_ever_logged(make_registry: MakeRegistry) -> None:
    registry = make_registry(logging={"level": "debug"})
    secrets = [PASSWORD, "wrong horse"]
    registry.user("bob", PASSWORD)
    token = registry.personal_token("bob")
    access = registry.token(("bob", token), "registry:catalog:*")
    refresh = registry.ask_token(("bob", token), offline_token="true").json()["refresh_token"]
    registry.client().get("/token", headers=authorization(("bob", "wrong horse")))
    registry.client().get("/v2/", headers=authorization(access))
    registry.client().get("/v2/", headers=authorization(access + "x"))
    registry.client().post("/token", data={"grant_type": "refresh_token", "refresh_token": refresh})
    registry.client().post("/token", data={"grant_type": "password", "username": "bob", "password": PASSWORD})

    log = registry.server.log().replace(registry.password, "", 1)
    secrets += [token, token.split("_", 2)[2], access, access.split(".")[2], refresh, registry.password]
    secrets += [value.partition(" ")[2] for value in authorization(("bob", PASSWORD)).values()]
    assert [secret for secret in secrets if secret in log] == []
    assert [secret for secret in secrets if secret in str(registry.audit())] == []


# --- htpasswd files


def may_come_in(registry: Registry, name: str, password: str) -> set[int]:
    """What each worker answers to a login."""
    headers = {**authorization((name, password)), **elsewhere()}
    return {answer.status for answer in registry.workers.ask("GET", "/v2/", headers)}


def test_the_people_of_a_served_file_log_in_and_changes_are_followed(with_file: tuple[Registry, Path]) -> None:
    registry, path = with_file
    assert may_come_in(registry, "filed", PASSWORD) == {200}
    assert may_come_in(registry, "filed", "wrong") == {401}

    write_people(path, filed="another horse", newcomer=PASSWORD)

    assert processes.wait_until(lambda: may_come_in(registry, "newcomer", PASSWORD) == {200}, 30, 0.5)
    assert may_come_in(registry, "filed", PASSWORD) == {401}
    assert may_come_in(registry, "filed", "another horse") == {200}
    token = registry.token(("filed", "another horse"))

    write_people(path, newcomer=PASSWORD)

    assert processes.wait_until(lambda: may_come_in(registry, "filed", "another horse") == {401}, 30, 0.5)
    bearer = registry.workers.ask("GET", "/v2/", authorization(token))
    assert {answer.status for answer in bearer} == {401}

    path.write_text("this: is no bcrypt\n")
    assert processes.wait_until(lambda: "htpasswd.failed" in registry.server.log(), 30, 0.5)
    assert may_come_in(registry, "newcomer", PASSWORD) == {200}

    write_people(path, filed=PASSWORD, newcomer=PASSWORD)
    assert processes.wait_until(lambda: may_come_in(registry, "filed", PASSWORD) == {200}, 30, 0.5)


def test_what_an_administrator_locks_out_the_file_does_not_let_in_again(with_file: tuple[Registry, Path]) -> None:
    registry, path = with_file
    write_people(path, filed=PASSWORD, shut=PASSWORD)
    assert processes.wait_until(lambda: may_come_in(registry, "shut", PASSWORD) == {200}, 30, 0.5)
    registry.do("user", "disable", "shut")
    assert may_come_in(registry, "shut", PASSWORD) == {401}

    write_people(path, filed=PASSWORD, shut="another horse", later=PASSWORD)

    assert processes.wait_until(lambda: may_come_in(registry, "later", PASSWORD) == {200}, 30, 0.5)
    assert may_come_in(registry, "shut", "another horse") == {401}
    registry.do("user", "enable", "shut")
    assert may_come_in(registry, "shut", "another horse") == {200}


def test_the_password_of_a_served_file_is_not_changed_here(with_file: tuple[Registry, Path]) -> None:
    registry, _ = with_file

    done = registry.run("user", "passwd", "filed", "--password-stdin", stdin="another horse\n")

    assert done.status == 1
    assert done.err == "hythe: 'filed' has no password of this registry's\n"


def test_imported_people_log_in_and_their_hashes_become_ours(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "people"
    write_people(path, **{name: PASSWORD, f"{name}-b": PASSWORD})
    assert registry.json("htpasswd", "import", str(path)) == {"added": 2, "changed": 0}
    before = registry.account(name).password_hash
    assert before is not None
    assert is_weaker_than_ours(before)

    assert log_in(registry, name, "wrong", elsewhere()).status_code == 401
    assert registry.account(name).password_hash == before
    for _ in range(2):
        assert log_in(registry, name, PASSWORD, elsewhere()).status_code == 200

    after = registry.account(name).password_hash
    assert after is not None
    assert after.startswith("$argon2id$")
    other = registry.account(f"{name}-b").password_hash
    assert other is not None
    assert other.startswith("$2b$")


def test_an_import_gives_no_password_to_a_robot_and_opens_nobody_who_is_locked_out(
    registry: Registry, name: str, tmp_path: Path
) -> None:
    registry.do("robot", "add", f"{name}-robot")
    registry.user(f"{name}-shut", PASSWORD)
    registry.do("user", "disable", f"{name}-shut")
    path = tmp_path / "people"
    write_people(path, **{f"{name}-robot": PASSWORD, f"{name}-shut": "another horse"})

    registry.do("htpasswd", "import", str(path))

    assert registry.account(f"{name}-robot").password_hash is None
    assert not registry.account(f"{name}-shut").enabled
    for who, password in ((f"{name}-robot", PASSWORD), (f"{name}-shut", "another horse")):
        assert log_in(registry, who, password, elsewhere()).status_code == 401


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"bob:plain\n", "line 1: only bcrypt entries are read (htpasswd -B)"),
        (b"\xff\xfe", ""),
        (None, "No such file"),
        (b"a b:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)) + b"\n", "'a b' cannot name an account"),
    ],
    ids=["no hash", "no text", "no file", "no name"],
)
def test_a_file_that_cannot_be_served_is_said_at_the_start(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "people"
    if content is not None:
        path.write_bytes(content)
    server = Server(tmp_path / "server", {"accounts": {"enabled": "always", "htpasswd": str(path)}})

    with contextlib.suppress(AssertionError):
        server.start()

    assert server.wait_dead() == 1
    [line] = server.log().splitlines()
    assert line.startswith("hythe: ")
    assert sentence in line
