"""A registry with accounts for tests: its command line, its people, and tokens, issued or forged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from unittest import mock

import httpx
import jwt
import yaml

from registry import config
from registry.cli import admin, main
from registry.server import wiring
from registry.server.auth.keys import SigningKey
from registry.server.index import accounts, credentials
from registry.server.index.accounts import Account
from registry.server.index.engine import Index, Transaction
from tests.support.server import Server
from tests.support.workers import Workers

_parser = functools.cache(admin.parser)  # to make it takes as long as all the rest of a command

P = ParamSpec("P")
T = TypeVar("T")

# Who asks: a name with its password or token, an access token, or nobody.
Identity = tuple[str, str] | str | None
SERVICE = "hythe"


def authorization(identity: Identity) -> dict[str, str]:
    """The header with which *identity* asks: Basic for a pair, Bearer for a token."""
    if identity is None:
        return {}
    if isinstance(identity, str):
        return {"Authorization": f"Bearer {identity}"}
    name, password = identity
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def challenge_of(answer: httpx.Response) -> dict[str, str]:
    """The parameters of the one Bearer challenge of an answer, each of which must be quoted."""
    [header] = answer.headers.get_list("WWW-Authenticate")
    scheme, _, rest = header.partition(" ")
    assert scheme == "Bearer", header
    assert re.fullmatch(r'[a-z]+="[^"\\]*"(?:,[a-z]+="[^"\\]*")*', rest), header
    found = re.findall(r'([a-z]+)="([^"]*)"', rest)
    assert len(dict(found)) == len(found), header
    return dict(found)


_elsewhere = itertools.count(1)


def elsewhere() -> dict[str, str]:
    """The header of a request from an address that no other test has; the server must trust its proxy."""
    number = next(_elsewhere)
    return {"X-Forwarded-For": f"198.18.{number // 250}.{number % 250 + 1}"}


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Registry:
    """A server with accounts, and what its operator can do with it."""

    def __init__(self, server: Server, password: str | None = None) -> None:
        self.server = server
        self.password = first_password(server) if password is None else password
        self.workers = Workers(server)
        self._clients: dict[Identity, httpx.Client] = {}
        self._making = threading.Lock()

    @classmethod
    def at_rest(cls, directory: Path) -> Registry:
        """A registry that does not run and never did: its settings, for the command line."""
        made = cls(Server(directory, {"accounts": {"enabled": "always"}}), password="")
        Path(made.config).write_text(yaml.safe_dump(made.server.settings))
        return made

    @property
    def config(self) -> str:
        """The path of its settings."""
        return str(self.server.directory / "config.yaml")

    @property
    def host(self) -> str:
        """Host and port, as a client names the registry."""
        return self.server.host

    # --- over HTTP

    def client(self, identity: Identity = None) -> httpx.Client:
        """A client that asks as *identity* each time; it is closed with the registry."""
        with self._making:
            if identity not in self._clients:
                self._clients[identity] = httpx.Client(
                    base_url=self.server.url, timeout=30, trust_env=False, headers=authorization(identity)
                )
            return self._clients[identity]

    @property
    def admin(self) -> httpx.Client:
        """The first administrator's client."""
        return self.client(("admin", self.password))

    def ask_token(self, identity: Identity = None, *scopes: str, **parameters: str) -> httpx.Response:
        """`GET /token` as *identity*."""
        fields = {"service": SERVICE, "scope": scopes, **parameters}
        return self.client().get("/token", params=fields, headers=authorization(identity))

    def token(self, identity: Identity = None, *scopes: str) -> str:
        """An access token of *identity* for *scopes*, as far as they are granted."""
        answer = self.ask_token(identity, *scopes)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def close(self) -> None:
        """Close its clients; the server goes on."""
        self.workers.close()
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    # --- the command line

    def run(self, *words: str, stdin: str = "") -> Done:
        """`hythe admin WORDS` in this process, which saves half a second of imports."""
        out, err = io.StringIO(), io.StringIO()
        was = sys.stdin
        sys.stdin = io.StringIO(stdin)
        try:
            printed = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
            with printed[0], printed[1], mock.patch.object(admin, "parser", _parser):
                main.run(["admin", "--config", self.config, *words])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdin = was
        return Done(status, out.getvalue(), err.getvalue())

    def spawn(self, *words: str, stdin: bytes = b"") -> Done:
        """`python -m registry admin WORDS`, as an operator runs it."""
        done = subprocess.run(
            [sys.executable, "-m", "registry", "admin", "--config", self.config, *words],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def do(self, *words: str, stdin: str = "") -> str:
        """As `run`, for what must succeed; returns what it printed."""
        done = self.run(*words, stdin=stdin)
        assert done.status == 0, f"{' '.join(words)}: {done.err}"
        return done.out

    def json(self, *words: str, stdin: str = "") -> Any:
        """As `do` with --json; returns what it printed, parsed."""
        return json.loads(self.do("--json", *words, stdin=stdin))

    def user(self, name: str, password: str | None = None, admin: bool = False) -> tuple[str, str]:
        """Add a person and return the name with the password."""
        words = ["user", "add", name, *(["--admin"] if admin else [])]
        if password is not None:
            self.do(*words, "--password-stdin", stdin=password + "\n")
            return name, password
        return name, str(self.json(*words)["password"])

    def robot(self, name: str, *limits: str) -> tuple[str, str]:
        """Add a robot with a token and return its name with the token; robots cost no password hash."""
        self.do("robot", "add", name)
        return name, self.personal_token(name, *limits)

    def personal_token(self, name: str, *limits: str, expires: str = "", label: str = "for a test") -> str:
        """A new token of an account, confined to *limits* (`pull:team/*`)."""
        words = ["token", "add", name, label, *(word for limit in limits for word in ("--allow", limit))]
        return str(self.json(*words, *(["--expires", expires] if expires else []))["token"])

    def grant(self, subject: str, actions: str, pattern: str) -> None:
        """`hythe admin grant add`"""
        self.do("grant", "add", subject, actions, pattern)

    def audit(self, **wanted: str) -> list[dict[str, Any]]:
        """The audit log, those entries that say what is *wanted*."""
        entries = [json.loads(line) for line in self.do("--json", "audit").splitlines()]
        return [entry for entry in entries if all(entry[key] == value for key, value in wanted.items())]

    # --- the index

    def look(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function of the index says of it."""
        return self._with_index(lambda index: index.read(function, *args, **kwargs))

    def change(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Change the index as no public door does: to make time pass, or to damage it."""
        return self._with_index(lambda index: index.write(function, *args, **kwargs))

    def _with_index(self, ask: Callable[[Index], Awaitable[T]]) -> T:
        async def ask_and_close() -> T:
            index = wiring.make_index(config.load(self.server.directory / "config.yaml", {}))
            try:
                return await ask(index)
            finally:
                index.close()

        return asyncio.run(ask_and_close())

    def signing_key(self) -> SigningKey:
        """The key that signs now."""
        [key] = [stored.key for stored in self.look(credentials.keys) if stored.retired_ms is None]
        return key

    def account(self, name: str) -> Account:
        """An account as the index has it."""
        return self.look(accounts.get, name)

    # --- tokens that the token service did not issue

    def claims(self, name: str, *access: tuple[str, Sequence[str]], age_seconds: float = 0.0) -> dict[str, Any]:
        """What an access token of an account says that was issued *age_seconds* ago, for repositories."""
        account = self.account(name)
        issued = int(time.time() - age_seconds)
        return {
            "iss": SERVICE,
            "aud": SERVICE,
            "sub": account.name,
            "iat": issued,
            "nbf": issued,
            "exp": issued + 300,
            "jti": f"test-{time.time_ns()}",
            "access": [{"type": "repository", "name": where, "actions": list(what)} for where, what in access],
            "acc": account.id,
            "gen": account.generation,
            "crd": "",
        }

    def forge(
        self,
        claims: dict[str, Any],
        key: SigningKey | None = None,
        headers: dict[str, Any] | None = None,
        without: Sequence[str] = (),
        **changes: Any,
    ) -> str:
        """A token of *claims* with *changes* and *without* some, signed by *key*, else by the registry's."""
        signing = self.signing_key() if key is None else key
        body = {name: value for name, value in {**claims, **changes}.items() if name not in without}
        return signed(body, signing, {"kid": signing.id, **(headers or {})})


def signed(body: Any, key: SigningKey, headers: dict[str, Any]) -> str:
    """A JWT of any body at all: PyJWT's own `encode` checks some types."""
    algorithm = jwt.get_algorithm_by_name("ES256")
    head = {"alg": "ES256", "typ": "JWT", **headers}
    text = f"{part(head)}.{part(body)}"
    return f"{text}.{encoded(algorithm.sign(text.encode(), key.private))}"


def encoded(data: bytes) -> str:
    """Base64 as JWTs have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: Any) -> str:
    """A part of a JWT."""
    return encoded(value if isinstance(value, bytes) else json.dumps(value).encode())


def first_password(server: Server) -> str:
    """The administrator's password that the first start printed."""
    [password] = re.findall(r"^ *Password: (\S+)$", server.log(), re.MULTILINE)
    return str(password)


@contextlib.contextmanager
def registry_with_accounts(server: Server) -> Iterator[Registry]:
    """*server*, started with accounts; it ends with the context."""
    server.settings.setdefault("accounts", {}).setdefault("enabled", "always")
    try:
        registry = Registry(server.start())
        try:
            yield registry
        finally:
            registry.close()
    finally:
        server.kill()
