"""What an account signs in with beside its password: its tokens, and the refresh tokens of its sessions."""

from __future__ import annotations

from collections.abc import Sequence

from registry.server.auth import secrets
from registry.server.auth.rights import Limit
from registry.server.index import accounts, credentials
from registry.server.index.accounts import AccountUnknown
from registry.server.index.credentials import Credential, CredentialKind
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.service.administration import changes
from registry.server.service.administration.changes import Actor, InTheWay, Page, Refused, page_of

TOKEN_LIFETIME_MAX_SECONDS = 10 * 366 * 86_400
TOKENS_PER_ACCOUNT_MAX = 1000


class Tokens:
    """Reads and changes of accounts' tokens."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def of(self, name: str) -> Sequence[Credential]:
        """An account's tokens, without their secrets."""

        def read(tx: Transaction) -> Sequence[Credential]:
            return credentials.of_account(tx, accounts.get(tx, name).id)

        return await self._index.read(read)

    async def page(self, name: str, kind: CredentialKind, after: str, limit: int) -> Page[Credential]:
        """An account's tokens or refresh tokens, oldest first. Raises AccountUnknown, Refused."""
        created_ms, _, last = after.partition("-")
        if after and not (created_ms.isascii() and created_ms.isdigit() and len(created_ms) < 18):
            raise Refused("that is no place in this list; take it from the Link of the page before")
        place = (int(created_ms or 0), last)

        def read(tx: Transaction) -> Sequence[Credential]:
            return credentials.page(tx, accounts.get(tx, name).id, kind, place, limit + 1)

        return page_of(await self._index.read(read), limit, lambda one: f"{one.created_ms}-{one.id}")

    async def get(self, name: str, token_id: str) -> Credential:
        """A token of an account. Raises AccountUnknown."""

        def read(tx: Transaction) -> Credential:
            return _credential_of(tx, name, token_id, "token")

        return await self._index.read(read)

    async def add(
        self,
        actor: Actor,
        name: str,
        label: str,
        limits: Sequence[Limit] = (),
        lifetime_seconds: float | None = None,
        maker: str | None = None,
    ) -> secrets.Secret:
        """A new token of an account, whose text is shown this once. Raises AccountUnknown, Refused.

        *maker* is the token that asks for it, if one does: the new one goes when that one goes.
        """
        if lifetime_seconds is not None and not 0 < lifetime_seconds <= TOKEN_LIFETIME_MAX_SECONDS:
            raise Refused("a token lives for more than no time and at most ten years")
        if not label.strip() or len(label) > 100 or not label.isprintable():
            raise Refused("a token needs a name of up to 100 characters, so that you know it again")
        secret = secrets.new("hyt")
        expires_ms = None if lifetime_seconds is None else now_ms() + int(lifetime_seconds * 1000)

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            if credentials.count(tx, account.id, "token") >= TOKENS_PER_ACCOUNT_MAX:
                raise InTheWay(f"{name!r} has {TOKENS_PER_ACCOUNT_MAX} tokens; delete those that nobody uses")
            credentials.add(tx, secret.id, account.id, "token", secret.hash(), label, limits, expires_ms, maker)

        await changes.make(self._index, actor, "token.add", f"{name}/{secret.id}", change)
        return secret

    async def remove(self, actor: Actor, name: str, token_id: str) -> None:
        """Delete a token of an account; it stops to hold at once. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            credentials.remove(tx, _credential_of(tx, name, token_id, "token").id)

        await changes.make(self._index, actor, "token.remove", f"{name}/{token_id[:40]}", change)

    async def remove_session(self, actor: Actor, name: str, session_id: str) -> None:
        """Delete a refresh token of an account; what came of it stops to hold at once. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            credentials.remove(tx, _credential_of(tx, name, session_id, "refresh").id)

        await changes.make(self._index, actor, "session.remove", f"{name}/{session_id[:40]}", change)

    async def remove_sessions(self, actor: Actor, name: str) -> None:
        """Delete all refresh tokens of an account, and end whatever was signed for it. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            accounts.change(tx, account.id, revoke=True)
            credentials.remove_all(tx, account.id, "refresh")

        await changes.make(self._index, actor, "session.remove", f"{name}/*", change)


def _credential_of(tx: Transaction, name: str, credential_id: str, kind: CredentialKind) -> Credential:
    """A credential, if it is this account's and of this kind. Raises AccountUnknown."""
    account = accounts.get(tx, name)
    found = credentials.get(tx, credential_id)
    if found is None or found.account_id != account.id or found.kind != kind:
        word = "token" if kind == "token" else "session"
        raise AccountUnknown(f"{name!r} has no {word} {credential_id[:40]!r}")
    return found
