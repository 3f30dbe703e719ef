"""Accounts of people and robots, and the way to what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from registry.server.auth import keys, passwords, patterns, secrets
from registry.server.auth.rights import Grant
from registry.server.index import accounts, audit, credentials, identities
from registry.server.index.accounts import Account, Kind
from registry.server.index.audit import Entry
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms
from registry.server.service.administration import changes
from registry.server.service.administration.changes import Actor, InTheWay, Page, page_of
from registry.server.service.administration.grants import Grants
from registry.server.service.administration.teams import Teams
from registry.server.service.administration.tokens import Tokens

FIRST_ADMINISTRATOR = "admin"
# What the audit log calls each change of an account.
_CHANGES = {
    ("enabled", True): "account.enable",
    ("enabled", False): "account.disable",
    ("is_admin", True): "user.admin",
    ("is_admin", False): "user.no-admin",
}


class Accounts:
    """Reads and changes of accounts, and of what belongs to them: `tokens`, `teams`, `grants`."""

    def __init__(self, index: Index, public: Sequence[Grant] = ()) -> None:
        self._index = index
        self._hashing = passwords.Bounded()
        self.tokens = Tokens(index)
        self.teams = Teams(index)
        self.grants = Grants(index, public)

    # --- the first start

    async def set_up(self) -> str | None:
        """Make what a registry with accounts needs: a signing key, and on the first start an administrator.

        Returns the administrator's password, to be shown once; None when there are accounts already.
        """
        password = secrets.new_password()
        hashed = passwords.hash_password(password)
        made = await self._index.write(_set_up, hashed)
        return password if made else None

    async def rotate_key(self, actor: Actor) -> str:
        """Sign with a new key from now on; tokens of the old one hold until they expire. Returns its id."""
        key = keys.new_key()
        await changes.make(self._index, actor, "key.rotate", key.id, credentials.add_key, key)
        return key.id

    # --- accounts

    async def list(self) -> list[Account]:
        """All accounts, by name."""
        return await self._index.read(accounts.everybody)

    async def page(self, kind: Kind, after: str, limit: int) -> Page[Account]:
        """Accounts of a kind, by name."""
        found = await self._index.read(accounts.page, kind, after, limit + 1)
        return page_of(found, limit, lambda account: account.name)

    async def get(self, name: str) -> Account:
        """One account. Raises AccountUnknown."""
        return await self._index.read(accounts.get, name)

    async def add_user(self, actor: Actor, name: str, password: str, is_admin: bool = False) -> Account:
        """Add a person. Raises NameRefused, PasswordRefused, AccountExists."""
        name = patterns.check_account(name)
        hashed = await self._hashing.run(passwords.hash_password, password)
        return await changes.make(
            self._index, actor, "user.add", name, accounts.add, name, "user", hashed, is_admin
        )

    async def add_robot(self, actor: Actor, name: str) -> Account:
        """Add a robot, which has tokens and no password. Raises NameRefused, AccountExists."""
        name = patterns.check_account(name)
        return await changes.make(self._index, actor, "robot.add", name, accounts.add, name, "robot", None)

    async def set_password(self, actor: Actor, name: str, password: str) -> None:
        """Change a person's password; what was signed for it and its refresh tokens stop to hold."""
        hashed = await self._hashing.run(passwords.hash_password, password)

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            if account.kind != "user" or account.origin != "local":
                raise InTheWay(f"{name!r} has no password of this registry's")
            accounts.change(tx, account.id, revoke=True, password_hash=hashed)
            credentials.remove_all(tx, account.id, "refresh")

        await changes.make(self._index, actor, "user.password", name, change)

    async def set_enabled(self, actor: Actor, name: str, enabled: bool) -> None:
        """Let an account in, or lock it out at once. Raises InTheWay for the last administrator."""
        await self.change(actor, name, {"enabled": enabled})

    async def set_admin(self, actor: Actor, name: str, is_admin: bool) -> None:
        """Make a person an administrator, or no longer one. Raises InTheWay for the last one."""
        await self.change(actor, name, {"is_admin": is_admin})

    async def change(self, actor: Actor, name: str, values: Mapping[str, bool]) -> None:
        """Set `enabled` and `is_admin` of an account, those that are given, all at once or none.

        What was signed for the account stops to hold. Raises AccountUnknown, InTheWay.
        """
        first, *others = (_CHANGES[one] for one in values.items())

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            if not all(values.values()):
                _require_other_admin(tx, account)
            if values.get("is_admin") and account.kind != "user":
                raise InTheWay("a robot cannot be an administrator")
            accounts.change(tx, account.id, revoke=True, **values)
            if "enabled" in values:  # what an administrator decides, no identity provider takes back
                identities.change(tx, account.id, is_shut_out=False, seen_ms=now_ms())
            for action in others:
                audit.write(tx, actor.name, actor.address, action, name)

        await changes.make(self._index, actor, first, name, change)

    async def remove(self, actor: Actor, name: str) -> None:
        """Delete an account with everything of it. Raises InTheWay for the last administrator."""

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            _require_other_admin(tx, account)
            accounts.remove(tx, account)

        await changes.make(self._index, actor, "account.remove", name, change)

    # --- htpasswd, audit

    async def take_htpasswd(self, actor: Actor, entries: dict[str, str], origin: str) -> tuple[int, int]:
        """Take over names and bcrypt hashes; returns how many were added and how many changed.

        With the origin `htpasswd` the file stays the truth: who is no longer in it is locked out.
        """
        checked = {patterns.check_account(name): stored for name, stored in entries.items()}
        return await self._index.write(_take_htpasswd, actor, checked, origin)

    async def audit(self, since_ms: int, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        """Entries of the audit log, oldest first."""
        return await self._index.read(audit.page, after, since_ms, limit)

    async def record(self, actor: Actor, action: str, target: str, result: str, **detail: Any) -> None:
        """Add an entry that goes with no change: a denied write."""
        await self._index.note(audit.write, actor.name, actor.address, action, target, result, **detail)


def _require_other_admin(tx: Transaction, account: Account) -> None:
    if account.is_admin and not accounts.other_admins(tx, account.id):
        raise InTheWay(f"{account.name!r} is the last administrator; make another one first")


def _set_up(tx: Transaction, password_hash: str) -> bool:
    if not any(stored.retired_ms is None for stored in credentials.keys(tx)):
        credentials.add_key(tx, keys.new_key())
    # The people of an htpasswd file, which is read before, are no administrators.
    if accounts.find(tx, FIRST_ADMINISTRATOR) or any(one.origin != "htpasswd" for one in accounts.everybody(tx)):
        return False
    accounts.add(tx, FIRST_ADMINISTRATOR, "user", password_hash, is_admin=True)
    audit.write(tx, "hythe", "local", "user.add", FIRST_ADMINISTRATOR, first_start=True)
    return True


def _take_htpasswd(tx: Transaction, actor: Actor, entries: dict[str, str], origin: str) -> tuple[int, int]:
    added = changed = 0
    for name, stored in entries.items():
        account = accounts.find(tx, name)
        if account is None:
            accounts.add(tx, name, "user", stored, origin=origin)
            added += 1
        elif account.kind == "user" and account.origin == origin and account.password_hash != stored:
            # One without a password was locked out by the file; with one, by an administrator, and stays so.
            enabled = account.enabled or account.password_hash is None
            accounts.change(tx, account.id, revoke=True, password_hash=stored, enabled=enabled)
            changed += 1
    if origin == "htpasswd":
        for account in accounts.everybody(tx):
            if account.origin == origin and account.enabled and account.name not in entries:
                accounts.change(tx, account.id, revoke=True, enabled=False, password_hash=None)
                changed += 1
    if added or changed:
        audit.write(tx, actor.name, actor.address, "htpasswd.take", origin, added=added, changed=changed)
    return added, changed
