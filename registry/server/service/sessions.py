"""Sessions of browsers. A cookie has a random secret, the index its hash.

A session holds while its account is enabled and of the same generation: it ends at once when the account is
locked, its password is changed, or an administrator ends its sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from registry.oci.errors import Unauthorized
from registry.server.index import accounts, sessions
from registry.server.index.accounts import Account
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.index.standings import Standing
from registry.server.service.access import Access

_FORM = re.compile(r"[A-Za-z0-9_-]{43}")


def new_secret() -> str:
    """What a cookie says: 256 random bits."""
    return secrets.token_urlsafe(32)


def is_secret(text: str) -> bool:
    """Whether *text* has the form of a cookie of ours."""
    return _FORM.fullmatch(text) is not None


def form_token(secret: str) -> str:
    """What a form has to bring along from a browser with this cookie; it gives the cookie away to nobody."""
    return hmac.digest(secret.encode(), b"form", hashlib.sha256).hex()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody in a browser."""

    secret: str
    standing: Standing

    @property
    def account(self) -> Account:
        """Whose session it is."""
        return self.standing.account


class Sessions:
    """Begins, finds and ends sessions."""

    def __init__(self, index: Index, access: Access, lifetime_seconds: float) -> None:
        self._index = index
        self._access = access
        self.lifetime_seconds = lifetime_seconds

    async def begin(self, account_id: int, instead_of: str | None = None) -> str:
        """A new session of an account, in place of the one that the browser had; returns what its cookie says.

        Raises Unauthorized for an account that is locked.
        """
        secret = new_secret()
        expires_ms = now_ms() + int(self.lifetime_seconds * 1000)

        def begin(tx: Transaction) -> bool:
            account = accounts.by_id(tx, account_id)
            if instead_of is not None:
                sessions.remove(tx, _hash(instead_of))
            if account is None or not account.enabled:
                return False
            sessions.add(tx, _hash(secret), account.id, account.generation, expires_ms)
            return True

        if not await self._index.write(begin):
            raise Unauthorized("this account is locked; ask an administrator")
        return secret

    async def find(self, secret: str) -> SignedIn | None:
        """Who is signed in with this cookie."""
        session = await self._index.read(sessions.get, _hash(secret)) if is_secret(secret) else None
        standing = None if session is None else await self._access.standing(session.account_id)
        if session is None or standing is None or standing.account.generation != session.generation:
            return None
        return SignedIn(secret, standing)

    async def end(self, secret: str) -> None:
        """End a session; safe to repeat."""
        await self._index.write(sessions.remove, _hash(secret))


def still_holds(tx: Transaction, signed_in: SignedIn) -> None:
    """Raise Unauthorized unless a session holds as this transaction sees it."""
    session = sessions.get(tx, _hash(signed_in.secret))
    account = accounts.by_id(tx, signed_in.account.id)
    if session is None or account is None or not account.enabled or account.generation != session.generation:
        raise Unauthorized("you are signed out; sign in again")
