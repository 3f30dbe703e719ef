"""A server with accounts, and people of every kind who use its API."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.register_assert_rewrite("tests.api.described")

from tests.api.described import Client, Description
from tests.support.server import Server

PASSWORD = "a good password"
_numbers = itertools.count(1)


class House:
    """A server with accounts, its first administrator, and everything that a test asks for."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.server = Server(directory, settings)
        self._clients: list[Client] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        server = self.server.start()
        found = re.search(r"Password: (\S+)", server.log())
        assert found is not None, server.log()
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as plain:
            self.description = Description(plain.get("/api/v1/openapi.json").json())
        self.admin = self.client(("admin", found[1]))

    def elsewhere(self, login: tuple[str, str] | None = None, bearer: str | None = None) -> Client:
        """The same for somebody whose every request comes from another address."""
        made = self.client(login, bearer)

        def come_from_elsewhere(request: httpx.Request) -> None:
            request.headers["x-forwarded-for"] = f"198.51.{next(_numbers) % 250}.{next(_numbers) % 250}"

        made.http.event_hooks = {"request": [come_from_elsewhere]}
        return made

    def client(self, login: tuple[str, str] | None = None, bearer: str | None = None) -> Client:
        """A client that comes with these credentials."""
        made = Client(self.server.url, self.description, login, bearer)
        self._clients.append(made)
        return made

    def close(self) -> None:
        """Close the connections and end the server."""
        for client in self._clients:
            client.close()
        self.server.kill()

    def name(self, kind: str) -> str:
        """A name that nobody has yet."""
        return f"{kind}-{next(_numbers)}"

    def user(self, is_admin: bool = False) -> Client:
        """A new person, logged in with their password."""
        name = self.name("user")
        self.admin.post("/users", {"name": name, "password": PASSWORD, "is_admin": is_admin})
        return self.client((name, PASSWORD))

    def robot(self) -> str:
        """A new robot's name."""
        name = self.name("robot")
        self.admin.post("/robots", {"name": name})
        return name

    def team(self, **members: Client) -> str:
        """A new team with members by their roles: `team(maintainer=alice)`."""
        name = self.name("team")
        self.admin.post("/teams", {"name": name})
        for role, client in members.items():
            self.admin.put(f"/teams/{name}/members/{client.name}", {"role": role})
        return name

    def token(self, of: str, **fields: Any) -> dict[str, Any]:
        """A new token of an account, made by the administrator."""
        made: dict[str, Any] = self.admin.post(f"/{of}/tokens", {"label": "of a test", **fields})
        return made

    def refresh_token(self, client: Client, client_id: str = "docker") -> str:
        """What docker keeps after `docker login`."""
        form = {
            "grant_type": "password",
            "username": client.name,
            "password": client.password,
            "service": "hythe",
            "client_id": client_id,
            "access_type": "offline",
        }
        answer = httpx.post(f"{self.server.url}/token", data=form, trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["refresh_token"])

    def access_token(self, client: Client, scope: str = "") -> str:
        """An access token of docker's token service."""
        answer = httpx.get(
            f"{self.server.url}/token",
            params={"service": "hythe", "scope": scope},
            auth=(client.name, client.password),
            trust_env=False,
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def refreshes(self, refresh_token: str) -> bool:
        """Whether a refresh token still gets an access token."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "service": "hythe"}
        return httpx.post(f"{self.server.url}/token", data=form, trust_env=False, timeout=60).status_code == 200

    def knows(self, login: tuple[str, str]) -> bool:
        """Whether somebody comes in with these."""
        client = self.elsewhere(login)
        return client.ask("GET", "/me").status_code == 200

    def audit_place(self) -> int:
        """Where the audit log ends now."""
        entries = self.admin.everything("/audit")
        return int(entries[-1]["id"])

    def audit_after(self, place: int) -> list[dict[str, Any]]:
        """What came into the audit log after a place."""
        found: list[dict[str, Any]] = self.admin.get(f"/audit?after={place}&limit=1000")
        return found


MakeHouse = Callable[..., House]


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One server with accounts that the tests of this directory share; take names of your own.

    Whoever fails to log in does so from an address of their own (`elsewhere`), as it is slowed down afterwards.
    """
    settings = {"accounts": {"enabled": "always"}, "server": {"trusted_proxies": ["127.0.0.1"]}}
    made = House(tmp_path_factory.mktemp("api"), **settings)
    yield made
    made.close()


@pytest.fixture
def make_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeHouse]:
    """Servers with accounts and with settings of the test's own."""
    houses: list[House] = []

    def make(**settings: Any) -> House:
        settings["accounts"] = {"enabled": "always", **settings.get("accounts", {})}
        houses.append(House(tmp_path_factory.mktemp("house"), **settings))
        return houses[-1]

    yield make
    for made in houses:
        made.close()
