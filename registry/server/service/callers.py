"""Who somebody turned out to be, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from registry.oci.errors import Unauthorized
from registry.oci.reference import Repository
from registry.server.auth.caller import Action
from registry.server.auth.rights import Limit, Rights, within
from registry.server.auth.tokens import Claims
from registry.server.index import credentials, standings
from registry.server.index.accounts import Account
from registry.server.index.engine import Transaction
from registry.server.index.standings import Standing

_TOKEN_ACTION = {"overwrite": "push"}  # docker's token protocol knows no right to overwrite


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


def rights_still(tx: Transaction, login: Login) -> Rights:
    """What *login* may do as this transaction sees it. Raises Unauthorized when it holds no longer."""
    standing = standings.of(tx, login.account.id)
    has_changed = standing is None or standing.account.generation != login.account.generation
    if standing is None or has_changed or (login.credential and credentials.get(tx, login.credential) is None):
        raise Unauthorized("what you logged in with has just stopped to hold")
    return standing.rights
