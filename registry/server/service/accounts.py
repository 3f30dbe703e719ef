"""Administration: accounts, teams, tokens and grants, each change with its line in the audit log.

Every function of `changes` below runs in one transaction with that line. Who may call them is decided by the
caller: the command line is its operator's, the HTTP API asks `Actor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from registry.oci.errors import RegistryError
from registry.oci.reference import Repository
from registry.server.auth import keys, passwords, patterns, secrets
from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.rights import ROLE_ACTIONS, Grant, Limit
from registry.server.index import accounts, audit, credentials, identities
from registry.server.index.accounts import (
    Account,
    AccountUnknown,
    Kind,
    Member,
    StoredGrant,
    SubjectKind,
    Team,
    TeamSize,
)
from registry.server.index.audit import Entry
from registry.server.index.credentials import Credential, CredentialKind
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms

P = ParamSpec("P")
T = TypeVar("T")

FIRST_ADMINISTRATOR = "admin"
# What the audit log calls each change of an account.
_CHANGES = {
    ("enabled", True): "account.enable",
    ("enabled", False): "account.disable",
    ("is_admin", True): "user.admin",
    ("is_admin", False): "user.no-admin",
}
TOKEN_LIFETIME_MAX_SECONDS = 10 * 366 * 86_400
TOKENS_PER_ACCOUNT_MAX = 1000


class Refused(RegistryError):
    """A change that cannot be made; the sentence says why."""

    code = "UNSUPPORTED"


class InTheWay(Refused):
    """A change that would be right at another time: something has to be changed before it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, and from where, for the audit log.

    `confirm` is asked inside the transaction of the change, and raises when the actor may no longer make it.
    """

    name: str
    address: str
    confirm: Callable[[Transaction], None] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and where the next one begins; None after the last."""

    items: Sequence[T]
    next_after: str | None


def _page(found: Sequence[T], limit: int, place: Callable[[T], str]) -> Page[T]:
    """The page of what was found when one more than *limit* was asked for."""
    items = found[:limit]
    return Page(items, place(items[-1]) if len(found) > limit else None)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a grant is for: `user:NAME`, `team:NAME`, `everyone` (who signed in) or `anonymous`."""

    kind: SubjectKind
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Read one; a bare name is an account's. Raises Refused."""
        if text == "everyone":
            return cls("everyone")
        if text == "anonymous":
            return cls("anonymous")
        kind, colon, name = text.rpartition(":")
        if (colon and kind not in ("user", "robot", "team")) or not name.isprintable():
            raise Refused(f"{text[:100]!r} is no subject: user:NAME, team:NAME, everyone and anonymous are")
        return cls("team" if kind == "team" else "account", name)

    def __str__(self) -> str:
        return {"account": f"user:{self.name}", "team": f"team:{self.name}"}.get(self.kind, self.kind)

    def id(self, tx: Transaction) -> int:
        """Its id in the index. Raises AccountUnknown."""
        if self.kind == "account":
            return accounts.get(tx, self.name).id
        return accounts.team_id(tx, self.name) if self.kind == "team" else 0


def actions_of(words: Iterable[str]) -> frozenset[Action]:
    """Actions from a person's words. Raises Refused."""
    wanted = [word.strip() for text in words for word in text.split(",") if word.strip()]
    unknown = [word for word in wanted if word not in ACTIONS]
    if unknown or not wanted:
        raise Refused(f"{', '.join(unknown) or 'nothing'} is no action; {', '.join(ACTIONS)} are")
    return frozenset(action for action in ACTIONS if action in wanted)


def limit_of(text: str) -> Limit:
    """A token's limit from `pull,push:team/*`. Raises Refused or NameRefused."""
    actions, colon, pattern = text.partition(":")
    if not colon:
        raise Refused(f"{text[:100]!r} is no limit: 'pull:team/*' and 'pull,push:team/web' are")
    return Limit(patterns.check_pattern(pattern), actions_of([actions]))


class Accounts:
    """Reads and changes of accounts, teams, tokens and grants."""

    def __init__(self, index: Index, public: Sequence[Grant] = ()) -> None:
        self._index = index
        self._public = tuple(public)
        self._hashing = passwords.Bounded()

    async def _change(
        self,
        actor: Actor,
        action: str,
        target: str,
        function: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def change(tx: Transaction) -> T:
            if actor.confirm is not None:
                actor.confirm(tx)
            result = function(tx, *args, **kwargs)
            audit.write(tx, actor.name, actor.address, action, target)
            return result

        return await self._index.write(change)

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
        await self._change(actor, "key.rotate", key.id, credentials.add_key, key)
        return key.id

    # --- accounts

    async def list(self) -> list[Account]:
        """All accounts, by name."""
        return await self._index.read(accounts.everybody)

    async def page(self, kind: Kind, after: str, limit: int) -> Page[Account]:
        """Accounts of a kind, by name."""
        found = await self._index.read(accounts.page, kind, after, limit + 1)
        return _page(found, limit, lambda account: account.name)

    async def get(self, name: str) -> Account:
        """One account. Raises AccountUnknown."""
        return await self._index.read(accounts.get, name)

    async def add_user(self, actor: Actor, name: str, password: str, is_admin: bool = False) -> Account:
        """Add a person. Raises NameRefused, PasswordRefused, AccountExists."""
        name = patterns.check_account(name)
        hashed = await self._hashing.run(passwords.hash_password, password)
        return await self._change(actor, "user.add", name, accounts.add, name, "user", hashed, is_admin)

    async def add_robot(self, actor: Actor, name: str) -> Account:
        """Add a robot, which has tokens and no password. Raises NameRefused, AccountExists."""
        name = patterns.check_account(name)
        return await self._change(actor, "robot.add", name, accounts.add, name, "robot", None)

    async def set_password(self, actor: Actor, name: str, password: str) -> None:
        """Change a person's password; what was signed for it and its refresh tokens stop to hold."""
        hashed = await self._hashing.run(passwords.hash_password, password)

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            if account.kind != "user" or account.origin != "local":
                raise InTheWay(f"{name!r} has no password of this registry's")
            accounts.change(tx, account.id, revoke=True, password_hash=hashed)
            credentials.remove_all(tx, account.id, "refresh")

        await self._change(actor, "user.password", name, change)

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

        await self._change(actor, first, name, change)

    async def remove(self, actor: Actor, name: str) -> None:
        """Delete an account with everything of it. Raises InTheWay for the last administrator."""

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            _require_other_admin(tx, account)
            accounts.remove(tx, account)

        await self._change(actor, "account.remove", name, change)

    # --- tokens

    async def tokens(self, name: str) -> Sequence[Credential]:
        """An account's tokens, without their secrets."""

        def read(tx: Transaction) -> Sequence[Credential]:
            return credentials.of_account(tx, accounts.get(tx, name).id)

        return await self._index.read(read)

    async def credentials_page(self, name: str, kind: CredentialKind, after: str, limit: int) -> Page[Credential]:
        """An account's tokens or refresh tokens, oldest first. Raises AccountUnknown, Refused."""
        created_ms, _, last = after.partition("-")
        if after and not (created_ms.isascii() and created_ms.isdigit() and len(created_ms) < 18):
            raise Refused("that is no place in this list; take it from the Link of the page before")
        place = (int(created_ms or 0), last)

        def read(tx: Transaction) -> Sequence[Credential]:
            return credentials.page(tx, accounts.get(tx, name).id, kind, place, limit + 1)

        return _page(await self._index.read(read), limit, lambda one: f"{one.created_ms}-{one.id}")

    async def token(self, name: str, token_id: str) -> Credential:
        """A token of an account. Raises AccountUnknown."""

        def read(tx: Transaction) -> Credential:
            return _credential_of(tx, name, token_id, "token")

        return await self._index.read(read)

    async def add_token(
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

        await self._change(actor, "token.add", f"{name}/{secret.id}", change)
        return secret

    async def remove_token(self, actor: Actor, name: str, token_id: str) -> None:
        """Delete a token of an account; it stops to hold at once. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            credentials.remove(tx, _credential_of(tx, name, token_id, "token").id)

        await self._change(actor, "token.remove", f"{name}/{token_id[:40]}", change)

    async def remove_session(self, actor: Actor, name: str, session_id: str) -> None:
        """Delete a refresh token of an account; what came of it stops to hold at once. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            credentials.remove(tx, _credential_of(tx, name, session_id, "refresh").id)

        await self._change(actor, "session.remove", f"{name}/{session_id[:40]}", change)

    async def remove_sessions(self, actor: Actor, name: str) -> None:
        """Delete all refresh tokens of an account, and end whatever was signed for it. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            account = accounts.get(tx, name)
            accounts.change(tx, account.id, revoke=True)
            credentials.remove_all(tx, account.id, "refresh")

        await self._change(actor, "session.remove", f"{name}/*", change)

    # --- teams

    async def teams(self) -> Sequence[Team]:
        """All teams with their people."""
        return await self._index.read(accounts.teams)

    async def teams_page(self, after: str, limit: int, among: Collection[str] | None = None) -> Page[TeamSize]:
        """Teams, by name; with *among*, those of these names alone."""
        found = await self._index.read(accounts.teams_page, after, limit + 1, among)
        return _page(found, limit, lambda team: team.name)

    async def team(self, name: str) -> TeamSize:
        """One team. Raises AccountUnknown."""
        return await self._index.read(accounts.team_size, name)

    async def members(self, team: str, after: str, limit: int) -> Page[Member]:
        """A team's people and robots, by name. Raises AccountUnknown."""
        found = await self._index.read(accounts.members_page, team, after, limit + 1)
        return _page(found, limit, lambda member: member.name)

    async def add_team(self, actor: Actor, name: str) -> None:
        """Add a team, to which the namespace of its name belongs. Raises NameRefused, AccountExists."""
        await self._change(actor, "team.add", name, accounts.add_team, patterns.check_team(name))

    async def remove_team(self, actor: Actor, name: str) -> None:
        """Delete a team; its repositories stay. Raises AccountUnknown."""
        await self._change(actor, "team.remove", name, accounts.remove_team, name)

    async def join(self, actor: Actor, team: str, member: str, role: str) -> None:
        """Put an account into a team, or give it another role there. Raises AccountUnknown, Refused."""
        if role not in ROLE_ACTIONS:
            raise Refused(f"{role!r} is no role; {' and '.join(ROLE_ACTIONS)} are")

        def change(tx: Transaction) -> None:
            accounts.join(tx, team, accounts.get(tx, member), role)

        await self._change(actor, "team.join", f"{team}/{member}", change)

    async def leave(self, actor: Actor, team: str, member: str) -> None:
        """Take an account out of a team. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            accounts.leave(tx, team, accounts.get(tx, member))

        await self._change(actor, "team.leave", f"{team}/{member}", change)

    async def places(self, name: str) -> Sequence[tuple[str, str, str]]:
        """The teams that an account is in: (team, role, origin) of each. Raises AccountUnknown."""

        def read(tx: Transaction) -> Sequence[tuple[str, str, str]]:
            return accounts.places(tx, accounts.get(tx, name).id)

        return await self._index.read(read)

    # --- grants

    async def grants(self) -> Sequence[StoredGrant]:
        """All grants, by pattern."""
        return await self._index.read(accounts.grants)

    async def grants_page(
        self, after: int, limit: int, inside: Collection[str] | None = None
    ) -> Page[StoredGrant]:
        """Grants, in the order in which they were made; with *inside*, in these teams' namespaces alone."""
        found = await self._index.read(accounts.grants_page, after, limit + 1, inside)
        return _page(found, limit, lambda grant: str(grant.id))

    async def grant(self, actor: Actor, subject: Subject, pattern: str, actions: frozenset[Action]) -> None:
        """Grant actions on a pattern, in place of what was granted there. Raises NameRefused, AccountUnknown."""
        pattern = patterns.check_pattern(pattern)
        if subject.kind == "anonymous" and actions != {"pull"}:
            raise Refused("whoever has not signed in can be granted 'pull' alone")

        def change(tx: Transaction) -> None:
            accounts.grant(tx, subject.kind, subject.id(tx), pattern, actions)

        words = ",".join(sorted(actions))
        await self._change(actor, "grant.add", f"{subject} {words} {pattern}", change)

    async def revoke(self, actor: Actor, subject: Subject, pattern: str) -> None:
        """Take back what was granted on exactly this pattern. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            accounts.revoke(tx, subject.kind, subject.id(tx), pattern)

        await self._change(actor, "grant.remove", f"{subject} {pattern}", change)

    async def decide(self, name: str, action: Action, repository: Repository) -> Grant | None:
        """The grant that lets an account (or `anonymous`) do *action*; None when none does."""

        def read(tx: Transaction) -> Grant | None:
            if name == "anonymous":
                rights = accounts.anonymous_rights(tx)
            else:
                account = accounts.get(tx, name)
                if not account.enabled:
                    return None
                rights = accounts.rights_of(tx, account)
            return rights.with_grants(self._public).decide(action, repository)

        return await self._index.read(read)

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


def _credential_of(tx: Transaction, name: str, credential_id: str, kind: CredentialKind) -> Credential:
    """A credential, if it is this account's and of this kind. Raises AccountUnknown."""
    account = accounts.get(tx, name)
    found = credentials.get(tx, credential_id)
    if found is None or found.account_id != account.id or found.kind != kind:
        word = "token" if kind == "token" else "session"
        raise AccountUnknown(f"{name!r} has no {word} {credential_id[:40]!r}")
    return found


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


def lifetime_of(text: str) -> float:
    """Seconds from `90d`, `12h`, `30m`, `45s`. Raises Refused."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isascii() or not number.isdigit():
        raise Refused(f"{text[:40]!r} is no time; 90d, 12h, 30m and 45s are")
    return float(number) * units[unit]


def since_ms_of(text: str) -> int:
    """The moment that lies so long ago, for lists."""
    return int(max(0.0, time.time() - lifetime_of(text)) * 1000)
