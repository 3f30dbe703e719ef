"""Who is asking: from a password, a token of ours or a signed access token to a Caller.

Whatever a client brings, its account and rights are read anew under the index's epoch: a disabled account, a
removed grant or a deleted token stops to work on every worker with the next request, also for access tokens
that were signed before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from registry.oci.errors import TooManyRequests, Unauthorized
from registry.oci.reference import Repository
from registry.server.auth import passwords, secrets, tokens
from registry.server.auth.caller import Action
from registry.server.auth.jobs import USER_NAME, Job, Rule
from registry.server.auth.keys import SigningKey
from registry.server.auth.passwords import Verifier
from registry.server.auth.rights import Grant, Limit, Rights, within
from registry.server.auth.tokens import Claims, TokenInvalid
from registry.server.index import accounts, credentials
from registry.server.index.accounts import Account, Standing
from registry.server.index.credentials import Attempts, Credential, StoredKey
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.service.hot import Hot
from registry.server.service.jobs import REFUSED as JOB_REFUSED
from registry.server.service.jobs import Jobs

# Failures that are free, the longest block, and for how long failures are remembered, in seconds. An account
# under attack from elsewhere is slowed for seconds, never locked: its owner comes in between.
_PAIR = (5, 300.0, 3600.0)
_ADDRESS = (30, 300.0, 3600.0)
_ACCOUNT = (50, 5.0, 600.0)
_NOTE_USE_EVERY_MS = 60_000
# A login from an address where the account came in within a day is not slowed by what others try on it.
_WELCOME_AGAIN_MS = 3_600_000
# No refusal comes sooner, so that the kind of hash, or that there is none, cannot be read from the time.
_REFUSED_AFTER_SECONDS = 0.2
_TOKEN_ACTION = {"overwrite": "push"}  # docker's token protocol knows no right to overwrite

REFUSED = "the name or the password is wrong"


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody who proved who they are.

    `credential` is the token that they came with, "" for a password, and `expires_ms` when its time is over.
    """

    standing: Standing
    limits: tuple[Limit, ...] = ()
    credential: str = ""
    expires_ms: int | None = None

    @property
    def account(self) -> Account:
        """The account that it is."""
        return self.standing.account


@dataclass(frozen=True, slots=True)
class AccountCaller:
    """A caller with rights: those of an account or of everybody, within a token's limits and its scopes."""

    name: str
    address: str
    rights: Rights
    limits: tuple[Limit, ...] = ()
    claims: Claims | None = None
    is_anonymous: bool = False

    def may(self, action: Action, repository: Repository) -> bool:
        if self.claims is not None:
            asked = _TOKEN_ACTION.get(action, action)
            if not self.claims.covers("repository", repository, asked):
                return False
        return within(self.limits, action, repository) and self.rights.may(action, repository)

    def may_list(self, how: str = "*") -> bool:
        if self.claims is not None and not self.claims.covers("registry", "catalog", how):
            return False
        return not self.is_anonymous or bool(self.rights.grants)

    def listing(self, how: str = "*") -> AccountCaller:
        """The same caller for lists of repositories: a token for them names the list, not each one in it."""
        return replace(self, claims=None) if self.may_list(how) else self


class KeyRing:
    """The keys that sign and verify, as the index has them now."""

    def __init__(self, index: Index, lifetime_seconds: float) -> None:
        self._index = index
        # A retired key verifies for as long as what it signed may live.
        self._kept_ms = int((lifetime_seconds + 2 * tokens.LEEWAY_SECONDS) * 1000)
        self._hot: Hot[list[StoredKey]] = Hot(1 << 20, index.epoch)

    async def _all(self) -> list[StoredKey]:
        found = await self._hot.get("keys")
        if found is None:
            moment = self._hot.moment
            found = await self._index.read(credentials.keys)
            self._hot.put("keys", found, 1000, moment)
        return found

    async def signing(self) -> SigningKey:
        """The key that signs now."""
        for stored in await self._all():
            if stored.retired_ms is None:
                return stored.key
        raise LookupError("the index has no signing key")

    async def verifying(self) -> dict[str, SigningKey]:
        """The keys whose signatures hold now, by their ids."""
        oldest = now_ms() - self._kept_ms
        return {
            stored.key.id: stored.key
            for stored in await self._all()
            if stored.retired_ms is None or stored.retired_ms > oldest
        }


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
            found = await self._index.read(accounts.standing, account_id)
            if found is not None:
                found = replace(found, rights=found.rights.with_grants(self._public))
                self._standings.put(account_id, found, 1000 + 300 * len(found.rights.grants), moment)
        return found

    async def anonymous(self, address: str, claims: Claims | None = None) -> AccountCaller:
        """The caller who has not signed in."""
        rights = await self._anonymous.get("rights")
        if rights is None:
            moment = self._anonymous.moment
            rights = (await self._index.read(accounts.anonymous_rights)).with_grants(self._public)
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
        counters = _Counters.of(name, address)
        if secret is not None:
            # Nobody guesses 192 random bits: a pipeline's token is not slowed by what others try on its account.
            await self.require_unblocked(address)
            found = await self._by_token(name, secret)
        else:
            known = await self._require_unblocked(counters)
            found = await self._by_password(name, password)
            if found is not None and (counters.pair in known or not counters.is_fresh(known)):
                await self._index.note(credentials.succeeded, counters.pair, counters.welcome)
        if found is None:
            await self._index.note(_count_failure, counters)
            if secret is None:
                await asyncio.sleep(max(0.0, began + _REFUSED_AFTER_SECONDS - time.monotonic()))
            raise Unauthorized(REFUSED)
        return found

    async def require_unblocked(self, address: str) -> None:
        """Raise TooManyRequests for an address from which too much failed."""
        of_address = _Counters.of("", address).address
        _require_past((await self._index.read(credentials.attempts, [of_address])).values())

    async def note_failure(self, address: str) -> None:
        """Count something that failed from an address, as failed logins are."""
        await self._index.note(credentials.failed, _Counters.of("", address).address, *_ADDRESS)

    async def _require_unblocked(self, counters: _Counters) -> dict[str, Attempts]:
        """What is counted, when nothing of it stands in the way now. Raises TooManyRequests."""
        known = await self._index.read(credentials.attempts, list(counters))
        _require_past(
            attempts for key, attempts in known.items() if key != counters.account or counters.welcome not in known
        )
        return known

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


def rights_still(tx: Transaction, login: Login) -> Rights:
    """What *login* may do as this transaction sees it. Raises Unauthorized when it holds no longer."""
    standing = accounts.standing(tx, login.account.id)
    has_changed = standing is None or standing.account.generation != login.account.generation
    if standing is None or has_changed or (login.credential and credentials.get(tx, login.credential) is None):
        raise Unauthorized("what you logged in with has just stopped to hold")
    return standing.rights


class _Counters(NamedTuple):
    """The rows under which logins of a name from an address are counted; `welcome` is there after a good one."""

    pair: str
    address: str
    account: str
    welcome: str

    @classmethod
    def of(cls, name: str, address: str) -> _Counters:
        """Those of a login."""
        who, origin = name.lower()[:130], _origin(address)
        return cls(f"pair:{who}@{origin}", f"address:{origin}", f"account:{who}", f"welcome:{who}@{origin}")

    def is_fresh(self, known: Mapping[str, Attempts]) -> bool:
        """Whether the good login was noted so lately that this one need not be."""
        return self.welcome in known and known[self.welcome].touched_ms > now_ms() - _WELCOME_AGAIN_MS


def _origin(address: str) -> str:
    """What counts as one address: of IPv6, the network that one customer is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _require_past(counted: Iterable[Attempts]) -> None:
    wait_ms = max((attempts.until_ms for attempts in counted), default=0) - now_ms()
    if wait_ms > 0:
        raise TooManyRequests("too many failed logins; wait, then try again", 1 + wait_ms // 1000)


def _count_failure(tx: Transaction, counters: _Counters) -> None:
    for key, bounds in zip(counters[:3], (_PAIR, _ADDRESS, _ACCOUNT), strict=True):
        credentials.failed(tx, key, *bounds)
