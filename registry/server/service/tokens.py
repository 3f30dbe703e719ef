"""The token service: what docker's token protocol asks for is granted as far as the caller's rights go.

Source: docker's token documents, "Token Authentication Specification" and "Docker Registry v2 OAuth2".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from registry.oci.errors import NameInvalid
from registry.oci.reference import Repository
from registry.oci.scope import Scope
from registry.server.auth import secrets, tokens
from registry.server.auth.caller import Action
from registry.server.auth.jobs import Job
from registry.server.auth.tokens import Claims
from registry.server.index import credentials
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.service.access import Access
from registry.server.service.callers import AccountCaller, Login, rights_still
from registry.server.service.keyring import KeyRing

# Docker keeps a refresh token until it is told to log out.
_REFRESH_LIFETIME_MS = 90 * 86_400_000
# What the token protocol knows; overwriting and administration are decided by rights alone.
_GRANTABLE: tuple[Action, ...] = ("pull", "push", "delete")


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer of the token service; `scopes` are what was granted of what was asked for."""

    token: str
    expires_in_seconds: int
    issued_at: float
    scopes: tuple[Scope, ...]
    refresh_token: str | None = None


class Tokens:
    """Issues access tokens and refresh tokens."""

    def __init__(
        self, index: Index, access: Access, keys: KeyRing, issuer: str, audience: str, lifetime_seconds: float
    ) -> None:
        self._index = index
        self._access = access
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._lifetime_seconds = lifetime_seconds

    async def issue(
        self, login: Login | None, scopes: Sequence[Scope], address: str, offline: bool = False, client: str = ""
    ) -> Issued:
        """A token for as much of *scopes* as *login* (None: the anonymous) may do.

        With *offline* also a refresh token, which remembers *client* as its label; the anonymous get none.
        """
        if login is None:
            caller = await self._access.anonymous(address)
        else:
            caller = self._access.caller(login, address)
        access = _grant(caller, scopes)
        now = time.time()
        claims = Claims(
            subject="" if login is None else login.account.name,
            access=access,
            account=None if login is None else login.account.id,
            generation=0 if login is None else login.account.generation,
            credential="" if login is None else login.credential,
        )
        refresh = await self._refresh_token(login, client) if offline and login is not None else None
        return await self._issued(claims, now, self._lifetime_seconds, refresh)

    async def issue_for_job(self, job: Job, scopes: Sequence[Scope], address: str) -> Issued:
        """A token for as much of *scopes* as a job may do; it lives as others do, and ends with the job's time."""
        caller = await self._access.job_caller(job, address)
        claims = Claims(job.rule.caller, _grant(caller, scopes), rule=(job.rule.name, job.rule.mark()))
        now = time.time()
        return await self._issued(claims, now, min(self._lifetime_seconds, job.expires_at - now))

    async def exchange(self, job: Job, scopes: Sequence[Scope] | None, address: str) -> Issued:
        """A token in exchange for a job's own, for as long as its rule says.

        When *scopes* is None it is for all that the rule allows, and may be the password of `docker login`.
        """
        caller = await self._access.job_caller(job, address)
        mark = (job.rule.name, job.rule.mark())
        claims = Claims(job.rule.caller, _grant(caller, scopes or ()), rule=mark, is_whole=scopes is None)
        now = time.time()
        return await self._issued(claims, now, job.expires_at - now)

    async def _issued(
        self, claims: Claims, now: float, lifetime_seconds: float, refresh_token: str | None = None
    ) -> Issued:
        key = await self._keys.signing()
        token = tokens.issue(key, self._issuer, self._audience, claims, now, lifetime_seconds)
        granted = tuple(Scope(kind, name, actions) for (kind, name), actions in claims.access.items() if actions)
        return Issued(token, int(lifetime_seconds), now, granted, refresh_token)

    async def _refresh_token(self, login: Login, client: str) -> str:
        """A refresh token: good as long as the account, and as the token that it came from."""
        secret = secrets.new("hyr")
        expires_ms = now_ms() + _REFRESH_LIFETIME_MS
        if login.expires_ms is not None:
            expires_ms = min(expires_ms, login.expires_ms)
        label = "".join(filter(str.isprintable, client))[:100]

        def add(tx: Transaction) -> None:
            rights_still(tx, login)
            hashed, parent = secret.hash(), login.credential or None
            credentials.add(
                tx, secret.id, login.account.id, "refresh", hashed, label, login.limits, expires_ms, parent
            )

        await self._index.write(add)
        return str(secret)


def _grant(caller: AccountCaller, scopes: Sequence[Scope]) -> dict[tuple[str, str], frozenset[str]]:
    granted: dict[tuple[str, str], frozenset[str]] = {}
    for (kind, name), wanted in tokens.asked_for(scopes).items():
        if (kind, name) == ("registry", "catalog"):
            granted[kind, name] = wanted & {"*", "search"} if caller.may_list() else frozenset()
        elif kind == "repository":
            repository, actions = _repository_actions(caller, name, wanted)
            granted[kind, repository] = granted.get((kind, repository), frozenset()) | actions
    return granted


def _repository_actions(caller: AccountCaller, name: str, wanted: frozenset[str]) -> tuple[str, frozenset[str]]:
    """The name as the registry knows it, and what may be done of what was asked for; `*` asks for all."""
    if ":" in name:  # a client that has our host and port in its own names
        name = name.partition("/")[2]
    try:
        repository = Repository.parse(name)
    except NameInvalid:
        return name, frozenset()
    asked = _GRANTABLE if "*" in wanted else tuple(action for action in _GRANTABLE if action in wanted)
    return repository, frozenset(action for action in asked if caller.may(action, repository))
