"""A right counts at the moment of the change: it is asked for again inside the change's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from registry.oci.errors import Denied, Unauthorized
from registry.server.auth import passwords
from registry.server.index import accounts as rows
from registry.server.index.engine import EmbeddedIndex
from registry.server.index.migrate import migrate_sqlite
from registry.server.service.access import Access
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor
from registry.server.service.callers import Login
from registry.server.service.history import History
from registry.server.service.keyring import KeyRing
from registry.server.service.policy import Policy
from registry.server.service.quotas import Quotas
from registry.server.web.api.call import Call, Care
from registry.server.web.api.guards import Guard, administrators, seen_by_maintainers
from registry.server.web.api.problems import Hidden
from registry.server.web.http import Request

OPERATOR = Actor("operator", "local")
PASSWORD = "a good password"


class Bench:
    """Accounts on an index of their own: alice, an administrator who maintains `web`, and a robot."""

    def __init__(self, index: EmbeddedIndex) -> None:
        self.index = index
        self.accounts = Accounts(index)
        self.access = Access(index, KeyRing(index, 300), "hythe", "hythe")

    async def fill(self) -> None:
        await self.accounts.set_up()
        await self.accounts.add_user(OPERATOR, "alice", PASSWORD, is_admin=True)
        await self.accounts.teams.add(OPERATOR, "web")
        await self.accounts.teams.join(OPERATOR, "web", "alice", "maintainer")
        await self.accounts.add_robot(OPERATOR, "ci")

    async def login(self, with_token: bool) -> Login:
        secret = PASSWORD
        if with_token:
            secret = str(await self.accounts.tokens.add(OPERATOR, "alice", "hers"))
        return await self.access.login("alice", secret, "127.0.0.1")

    def call(self, login: Login, guard: Guard) -> Call:
        """A call that its guard has let in."""

        async def receive() -> Any:
            raise AssertionError("there is no body")

        scope = {"method": "PUT", "path": "/", "headers": [], "query_string": b""}
        care = Care(History(self.index, Policy()), Quotas(self.index, ()))
        request = Request(scope, receive, 1.0, "127.0.0.1")
        call = Call(request, b"", {"team": "web"}, login, self.access, self.accounts, care)
        call.require(lambda rights: guard(rights, {"team": "web"}))
        return call

    async def members(self) -> list[str]:
        return [one.name for one in (await self.accounts.teams.members("web", "", 10)).items]


def on_a_bench(directory: Path, test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run *test* with accounts of its own."""

    async def run() -> None:
        path = directory / "index.sqlite3"
        migrate_sqlite(path)
        index = EmbeddedIndex(path)
        try:
            bench = Bench(index)
            await bench.fill()
            await test(bench)
        finally:
            index.close()

    asyncio.run(run())


Event = Callable[[Bench, Login], Awaitable[None]]
EVENTS: dict[str, tuple[Event, Guard, type[Exception]]] = {
    "no longer an administrator": (
        lambda bench, login: bench.accounts.set_admin(OPERATOR, "alice", False),
        administrators,
        Unauthorized,
    ),
    "disabled": (
        lambda bench, login: bench.accounts.set_enabled(OPERATOR, "alice", False),
        seen_by_maintainers,
        Unauthorized,
    ),
    "another password": (
        lambda bench, login: bench.accounts.set_password(OPERATOR, "alice", "entirely another"),
        seen_by_maintainers,
        Unauthorized,
    ),
    "gone": (lambda bench, login: bench.accounts.remove(OPERATOR, "alice"), seen_by_maintainers, Unauthorized),
    "without the token": (
        lambda bench, login: bench.accounts.tokens.remove(OPERATOR, "alice", login.credential),
        seen_by_maintainers,
        Unauthorized,
    ),
}


@pytest.mark.parametrize("event", EVENTS)
def test_a_right_that_was_taken_away_after_the_guard_had_let_one_in_is_none(tmp_path: Path, event: str) -> None:
    happen, guard, expected = EVENTS[event]

    async def test(bench: Bench) -> None:
        login = await bench.login(with_token=event == "without the token")
        call = bench.call(login, guard)
        await happen(bench, login)
        before = await bench.members()
        with pytest.raises(expected):
            await bench.accounts.teams.join(call.actor, "web", "ci", "member")
        assert await bench.members() == before

    on_a_bench(tmp_path, test)


def test_a_maintainer_who_was_taken_out_changes_nothing_any_more(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.accounts.set_admin(OPERATOR, "alice", False)
        call = bench.call(await bench.login(with_token=False), seen_by_maintainers)
        await bench.accounts.teams.leave(OPERATOR, "web", "alice")
        with pytest.raises(Hidden):
            await bench.accounts.teams.join(call.actor, "web", "alice", "maintainer")
        assert await bench.members() == []

    on_a_bench(tmp_path, test)


def test_everything_that_was_required_is_asked_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        call = bench.call(await bench.login(with_token=False), seen_by_maintainers)
        asked: list[bool] = []

        def once(rights: object) -> None:
            asked.append(True)
            if len(asked) > 1:
                raise Denied("no longer")

        call.require(once)
        with pytest.raises(Denied):
            await bench.accounts.teams.join(call.actor, "web", "ci", "member")
        assert await bench.members() == ["alice"]

    on_a_bench(tmp_path, test)


def test_a_right_that_still_holds_is_enough(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        call = bench.call(await bench.login(with_token=True), seen_by_maintainers)
        await bench.accounts.teams.join(call.actor, "web", "ci", "member")
        assert await bench.members() == ["alice", "ci"]

    on_a_bench(tmp_path, test)


def test_a_better_hash_never_brings_an_old_password_back(tmp_path: Path) -> None:
    """A login makes a weak hash anew; meanwhile the password may have been changed."""

    async def test(bench: Bench) -> None:
        before = (await bench.accounts.get("alice")).password_hash
        assert before is not None
        better = passwords.hash_verified(PASSWORD)
        account = await bench.accounts.get("alice")
        await bench.accounts.set_password(OPERATOR, "alice", "entirely another")
        await bench.index.write(rows.better_hash, account.id, before, better)
        await bench.access.login("alice", "entirely another", "127.0.0.1")
        with pytest.raises(Unauthorized):
            await bench.access.login("alice", PASSWORD, "127.0.0.1")

    on_a_bench(tmp_path, test)
