"""Who is asking: from a password, a token of ours or a signed access token to a Caller.

Whatever a client brings, its account and rights are read anew under the index's epoch: a disabled account, a
removed grant or a deleted token stops to work on every worker with the next request, also for access tokens
that were signed before.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from registry.oci.errors import Unauthorized
from registry.server.auth import passwords, secrets, tokens
from registry.server.auth.jobs import USER_NAME, Job, Rule
from registry.server.auth.passwords import Verifier
from registry.server.auth.rights import Grant, Limit, Rights
from registry.server.auth.tokens import Claims, TokenInvalid
from registry.server.index import accounts, credentials, standings
from registry.server.index.credentials import Credential
from registry.server.index.engine import Index
from registry.server.index.names import now_ms
from registry.server.index.standings import Standing
from registry.server.service.callers import AccountCaller, Login
from registry.server.service.hot import Hot
from registry.server.service.jobs import REFUSED as JOB_REFUSED
from registry.server.service.jobs import Jobs
from registry.server.service.keyring import KeyRing
from registry.server.service.slowing import Counters, Slowing

_NOTE_USE_EVERY_MS = 60_000
# No refusal comes sooner, so that the kind of hash, or that there is none, cannot be read from the time.
_REFUSED_AFTER_SECONDS = 0.2

REFUSED = "the name or the password is wrong"


class Foreigners(Protocol):
    """A token service of somebody else's."""

    async def caller(self, token: str, address: str) -> AccountCaller:
        """The caller that a token of it describes. Raises TokenInvalid, or Unavailable."""
        ...


class Access:
    """Answers who is asking. *issuer* and *audience* are what its tokens say."""

    def __init__(
        self,
        index: Index,
        keys: KeyRing,
        issuer: str,
        audience: str,
        public: Sequence[Grant] = (),
        jobs: Jobs | None = None,
        foreigners: Foreigners | None = None,
    ) -> None:
        self._public = tuple(public)
        self._jobs = jobs
        self._foreigners = foreigners
        self._index = index
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._verifier = Verifier()
        self.slowing = Slowing(index)
        self._standings: Hot[Standing] = Hot(16 << 20, index.epoch)
        self._anonymous: Hot[Rights] = Hot(1 << 20, index.epoch)
        self._credentials: Hot[Credential] = Hot(8 << 20, index.epoch)
        self._claims: Hot[tuple[Claims, float]] = Hot(32 << 20, index.epoch)
        self._used_ms: OrderedDict[str, int] = OrderedDict()

    # --- what the index says now

    async def standing(self, account_id: int) -> Standing | None:
        """An enabled account and its rights."""
        found = await self._standings.get(account_id)
        if found is None:
            moment = self._standings.moment
            found = await self._index.read(standings.of, account_id)
            if found is not None:
                found = replace(found, rights=found.rights.with_grants(self._public))
                self._standings.put(account_id, found, 1000 + 300 * len(found.rights.grants), moment)
        return found

    async def anonymous(self, address: str, claims: Claims | None = None) -> AccountCaller:
        """The caller who has not signed in."""
        rights = await self._anonymous.get("rights")
        if rights is None:
            moment = self._anonymous.moment
            rights = (await self._index.read(standings.anonymous)).with_grants(self._public)
            self._anonymous.put("rights", rights, 1000, moment)
        return AccountCaller("anonymous", address, rights, claims=claims, is_anonymous=True)

    async def _credential(self, credential_id: str) -> Credential | None:
        found = await self._credentials.get(credential_id)
        if found is None:
            moment = self._credentials.moment
            found = await self._index.read(credentials.get, credential_id)
            if found is not None:
                self._credentials.put(credential_id, found, 1000, moment)
        return None if found is None or found.is_expired() else found

    # --- names and passwords

    async def login(self, name: str, password: str, address: str) -> Login:
        """The account of a name and its password or token.

        Raises Unauthorized, with the same words for every reason, and TooManyRequests after many failures.
        """
        began = time.monotonic()
        name = name.replace("\0", "\N{REPLACEMENT CHARACTER}")  # which no database keeps
        secret = secrets.parse(password)
        counters = Counters.of(name, address)
        if secret is not None:
            # Nobody guesses 192 random bits: a pipeline's token is not slowed by what others try on its account.
            await self.slowing.require_address(address)
            found = await self._by_token(name, secret)
        else:
            known = await self.slowing.require(counters)
            found = await self._by_password(name, password)
            if found is not None:
                await self.slowing.succeeded(counters, known)
        if found is None:
            await self.slowing.failed(counters)
            if secret is None:
                await asyncio.sleep(max(0.0, began + _REFUSED_AFTER_SECONDS - time.monotonic()))
            raise Unauthorized(REFUSED)
        return found

    async def _by_password(self, name: str, password: str) -> Login | None:
        account = await self._index.read(accounts.find, name)
        usable = account is not None and account.enabled and account.kind == "user"
        stored = account.password_hash if account is not None and usable else None
        if not await self._verifier.verify(stored, password) or account is None:
            return None
        if account.origin == "local" and stored and passwords.is_weaker_than_ours(stored):
            better = await asyncio.to_thread(passwords.hash_verified, password)
            await self._index.write(accounts.better_hash, account.id, stored, better)
            stored = better
        standing = await self.standing(account.id)
        # A password that was changed while it was verified is none of it any more.
        return None if standing is None or standing.account.password_hash != stored else Login(standing)

    async def _by_token(self, name: str, secret: secrets.Secret) -> Login | None:
        if secret.prefix != "hyt":
            return None
        login = await self._by_secret(secret)
        return login if login is not None and login.account.name == name.lower() else None

    async def _by_secret(self, secret: secrets.Secret) -> Login | None:
        credential = await self._credential(secret.id)
        kind = {"hyt": "token", "hyr": "refresh"}[secret.prefix]
        if credential is None or credential.kind != kind or not secret.is_hashed_as(credential.hash):
            return None
        standing = await self.standing(credential.account_id)
        if standing is None:
            return None
        await self._note_use(credential)
        return Login(standing, credential.limits, credential.id, credential.expires_ms)

    async def _note_use(self, credential: Credential) -> None:
        """Note now and then when a token was used; the kept row does not tell of what was noted since."""
        moment = now_ms()
        if moment - max(credential.used_ms or 0, self._used_ms.get(credential.id, 0)) <= _NOTE_USE_EVERY_MS:
            return
        self._used_ms[credential.id] = moment
        if len(self._used_ms) > 10_000:
            self._used_ms.popitem(last=False)
        await self._index.note(credentials.use, credential.id)

    async def refresh(self, token: str) -> Login:
        """The account of a refresh token. Raises Unauthorized."""
        secret = secrets.parse(token)
        login = await self._by_secret(secret) if secret is not None and secret.prefix == "hyr" else None
        if login is None:
            raise Unauthorized("the refresh token is not valid, or no longer: log in again")
        return login

    def caller(self, login: Login, address: str) -> AccountCaller:
        """The caller that a login is."""
        return AccountCaller(login.account.name, address, login.standing.rights, login.limits)

    # --- jobs of CI systems

    def takes_job_tokens_of(self, name: str) -> bool:
        """Whether the password that comes with this name is a job's token."""
        return self._jobs is not None and name == USER_NAME

    async def job(self, token: str, address: str) -> Job:
        """The job of its CI system's token, or of one of ours that it got for that. Raises Unauthorized."""
        if self._jobs is None:
            raise Unauthorized(JOB_REFUSED)
        try:
            claims = await self._verified(token)
        except TokenInvalid:
            return await self._jobs.exchange(token, address)
        if not claims.is_whole or claims.expires_at <= time.time():
            raise Unauthorized(JOB_REFUSED)
        return Job(self._rule_of(claims), claims.subject, claims.expires_at)

    async def job_caller(self, job: Job, address: str) -> AccountCaller:
        """The caller that a job is."""
        return await self._job_caller(job.rule, address, None)

    def _rule_of(self, claims: Claims) -> Rule:
        if self._jobs is None:
            raise TokenInvalid("the token is not valid here, or no longer")
        return self._jobs.rule_of(claims)

    async def _job_caller(self, rule: Rule, address: str, claims: Claims | None) -> AccountCaller:
        everybody = await self.anonymous(address)
        return AccountCaller(rule.caller, address, rule.rights(everybody.rights.grants), claims=claims)

    # --- access tokens

    async def bearer(self, token: str, address: str) -> AccountCaller:
        """The caller of an access token, or of a token of ours without its name. Raises TokenInvalid."""
        if secrets.parse(token) is not None:
            return self.caller(await self.token(token), address)
        try:
            claims = await self._verified(token)
        except TokenInvalid:
            if self._foreigners is None:
                raise
            return await self._foreigners.caller(token, address)
        if claims.rule is not None:
            return await self._job_caller(self._rule_of(claims), address, claims)
        if claims.account is None:
            return await self.anonymous(address, claims)
        standing = await self.standing(claims.account)
        if standing is None or standing.account.generation != claims.generation:
            raise TokenInvalid("the token is not valid here, or no longer")
        limits: tuple[Limit, ...] = ()
        if claims.credential:
            credential = await self._credential(claims.credential)
            if credential is None:
                raise TokenInvalid("the token is not valid here, or no longer")
            limits = credential.limits
        return AccountCaller(standing.account.name, address, standing.rights, limits, claims)

    async def token(self, token: str) -> Login:
        """The account of a personal or robot's token that came without its name. Raises TokenInvalid."""
        secret = secrets.parse(token)
        login = await self._by_secret(secret) if secret is not None and secret.prefix == "hyt" else None
        if login is None:
            raise TokenInvalid("the token is not valid here, or no longer")
        return login

    async def _verified(self, token: str) -> Claims:
        """What a token says. A signature is checked once while the index stands still; the time each time."""
        now = time.time()
        known = await self._claims.get(token)
        if known is not None and known[1] > now:
            return known[0]
        moment = self._claims.moment
        ring = await self._keys.verifying()
        claims = tokens.verify(token, ring.get, self._issuer, self._audience)
        self._claims.put(token, (claims, claims.expires_at), 3 * len(token) + 500, moment)
        return claims
