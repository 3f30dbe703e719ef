"""Accounts, teams and grants, and from them the rights of one account."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.errors import RegistryError
from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.rights import Grant, Membership, Rights, collect
from registry.server.index import changes, schema
from registry.server.index.names import now_ms

Kind = Literal["user", "robot"]
SubjectKind = Literal["account", "team", "everyone", "anonymous"]

account, team, membership, permission = schema.account, schema.team, schema.membership, schema.permission


class AccountUnknown(RegistryError):
    """No account, team or grant of that name."""

    code = "NAME_UNKNOWN"


class AccountExists(RegistryError):
    """The name is taken."""

    code = "NAME_INVALID"


@dataclass(frozen=True, slots=True)
class Account:
    """A person or a robot."""

    id: int
    name: str
    kind: Kind
    origin: str
    password_hash: str | None
    is_admin: bool
    enabled: bool
    generation: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """An account with all its rights, as one read of the index sees them."""

    account: Account
    rights: Rights


_BY_NAME = sa.select(account).where(account.c.name == bindparam("name"))
_BY_ID = sa.select(account).where(account.c.id == bindparam("id"))
_MEMBERSHIPS = (
    sa.select(team.c.name, membership.c.role, team.c.id)
    .join(team, team.c.id == membership.c.team_id)
    .where(membership.c.account_id == bindparam("id"))
    .order_by(team.c.name)
)
_GRANTS = (
    sa.select(permission)
    .where(
        permission.c.subject_kind == bindparam("kind"),
        permission.c.subject_id.in_(bindparam("ids", expanding=True)),
    )
    .order_by(permission.c.pattern, permission.c.subject_id)
)


def _account(row: Any) -> Account | None:
    return None if row is None else Account(**row._mapping)


def find(tx: sa.Connection, name: str) -> Account | None:
    """An account by its name, which is in lower case."""
    return _account(tx.execute(_BY_NAME, {"name": name.lower()}).first())


def get(tx: sa.Connection, name: str) -> Account:
    """An account by its name. Raises AccountUnknown."""
    found = find(tx, name)
    if found is None:
        raise AccountUnknown(f"there is no account {name!r}")
    return found


def everybody(tx: sa.Connection) -> list[Account]:
    """All accounts, by name."""
    return [Account(**row._mapping) for row in tx.execute(sa.select(account).order_by(account.c.name))]


def count(tx: sa.Connection) -> int:
    """How many accounts there are."""
    return int(tx.execute(sa.select(sa.func.count()).select_from(account)).scalar_one())


def add(
    tx: sa.Connection,
    name: str,
    kind: Kind,
    password_hash: str | None,
    is_admin: bool = False,
    origin: str = "local",
) -> Account:
    """Add an account. Raises AccountExists."""
    if find(tx, name) is not None:
        raise AccountExists(f"there is an account {name!r} already")
    tx.execute(
        account.insert(),
        {
            "name": name,
            "kind": kind,
            "origin": origin,
            "password_hash": password_hash,
            "is_admin": is_admin,
            "enabled": True,
            "generation": 1,
            "created_ms": now_ms(),
        },
    )
    changes.mark(tx)
    return get(tx, name)


def change(tx: sa.Connection, /, account_id: int, revoke: bool, **values: Any) -> None:
    """Change columns of an account; with *revoke* everything that was signed for it stops to hold."""
    if revoke:
        values["generation"] = account.c.generation + 1
    tx.execute(account.update().where(account.c.id == account_id).values(**values))
    changes.mark(tx)


def remove(tx: sa.Connection, gone: Account) -> None:
    """Delete an account with its memberships, grants, credentials and open uploads."""
    for table, condition in (
        (membership, membership.c.account_id == gone.id),
        (permission, sa.and_(permission.c.subject_kind == "account", permission.c.subject_id == gone.id)),
        (schema.credential, schema.credential.c.account_id == gone.id),
        (schema.upload, schema.upload.c.owner == gone.name),
        (account, account.c.id == gone.id),
    ):
        tx.execute(table.delete().where(condition))
    changes.mark(tx)


def other_admins(tx: sa.Connection, than: int) -> int:
    """How many enabled administrators there are besides one account."""
    condition = sa.and_(account.c.is_admin, account.c.enabled, account.c.id != than)
    return int(tx.execute(sa.select(sa.func.count()).select_from(account).where(condition)).scalar_one())


# --- teams


@dataclass(frozen=True, slots=True)
class Team:
    """A team and its people: (name, role, origin) of each."""

    name: str
    members: tuple[tuple[str, str, str], ...]


def team_id(tx: sa.Connection, name: str) -> int:
    """A team's id. Raises AccountUnknown."""
    found = tx.execute(sa.select(team.c.id).where(team.c.name == name)).scalar()
    if found is None:
        raise AccountUnknown(f"there is no team {name!r}")
    return int(found)


def teams(tx: sa.Connection) -> list[Team]:
    """All teams with their people, by name."""
    rows = tx.execute(
        sa.select(team.c.name, account.c.name.label("member"), membership.c.role, membership.c.origin)
        .outerjoin(membership, membership.c.team_id == team.c.id)
        .outerjoin(account, account.c.id == membership.c.account_id)
        .order_by(team.c.name, account.c.name)
    ).all()
    found: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        members = found.setdefault(row.name, [])
        if row.member is not None:
            members.append((row.member, row.role, row.origin))
    return [Team(name, tuple(members)) for name, members in found.items()]


def add_team(tx: sa.Connection, name: str) -> None:
    """Add a team. Raises AccountExists."""
    if tx.execute(sa.select(team.c.id).where(team.c.name == name)).scalar() is not None:
        raise AccountExists(f"there is a team {name!r} already")
    tx.execute(team.insert(), {"name": name, "created_ms": now_ms()})


def remove_team(tx: sa.Connection, name: str) -> None:
    """Delete a team with its memberships and grants; its repositories stay. Raises AccountUnknown."""
    gone = team_id(tx, name)
    tx.execute(membership.delete().where(membership.c.team_id == gone))
    tx.execute(permission.delete().where(permission.c.subject_kind == "team", permission.c.subject_id == gone))
    tx.execute(team.delete().where(team.c.id == gone))
    changes.mark(tx)


def join(tx: sa.Connection, name: str, member: Account, role: str, origin: str = "local") -> None:
    """Put an account into a team, or change its role there. Raises AccountUnknown."""
    place = {"team_id": team_id(tx, name), "account_id": member.id}
    _leave(tx, place["team_id"], member.id)
    tx.execute(membership.insert(), {**place, "role": role, "origin": origin})
    changes.mark(tx)


def leave(tx: sa.Connection, name: str, member: Account) -> None:
    """Take an account out of a team. Raises AccountUnknown when it is not in it."""
    if not _leave(tx, team_id(tx, name), member.id):
        raise AccountUnknown(f"{member.name!r} is not in team {name!r}")
    changes.mark(tx)


def _leave(tx: sa.Connection, team_number: int, account_id: int) -> bool:
    condition = sa.and_(membership.c.team_id == team_number, membership.c.account_id == account_id)
    return bool(tx.execute(membership.delete().where(condition)).rowcount)


# --- grants


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant as it is listed: `subject` is `user:NAME`, `team:NAME`, `everyone` or `anonymous`."""

    id: int
    subject: str
    pattern: str
    actions: tuple[str, ...]


def _words(actions: Iterable[str]) -> str:
    wanted = set(actions)
    return ",".join(action for action in ACTIONS if action in wanted)


def grant(tx: sa.Connection, kind: SubjectKind, subject_id: int, pattern: str, actions: Iterable[Action]) -> None:
    """Grant *actions* on *pattern*, in place of what the subject was granted on the same pattern."""
    condition = sa.and_(
        permission.c.subject_kind == kind,
        permission.c.subject_id == subject_id,
        permission.c.pattern == pattern,
    )
    tx.execute(permission.delete().where(condition))
    tx.execute(
        permission.insert(),
        {
            "subject_kind": kind,
            "subject_id": subject_id,
            "pattern": pattern,
            "actions": _words(actions),
            "created_ms": now_ms(),
        },
    )
    changes.mark(tx)


def revoke(tx: sa.Connection, kind: SubjectKind, subject_id: int, pattern: str) -> None:
    """Take a grant back. Raises AccountUnknown when there is none on exactly this pattern."""
    condition = sa.and_(
        permission.c.subject_kind == kind,
        permission.c.subject_id == subject_id,
        permission.c.pattern == pattern,
    )
    if not tx.execute(permission.delete().where(condition)).rowcount:
        raise AccountUnknown(f"nothing is granted to it on {pattern!r}")
    changes.mark(tx)


def grants(tx: sa.Connection) -> list[StoredGrant]:
    """All grants, by pattern."""
    rows = tx.execute(
        sa.select(permission, account.c.name.label("account_name"), team.c.name.label("team_name"))
        .outerjoin(
            account, sa.and_(permission.c.subject_kind == "account", account.c.id == permission.c.subject_id)
        )
        .outerjoin(team, sa.and_(permission.c.subject_kind == "team", team.c.id == permission.c.subject_id))
        .order_by(permission.c.pattern, permission.c.subject_kind, permission.c.subject_id)
    )
    return [
        StoredGrant(row.id, _subject(row), row.pattern, tuple(row.actions.split(",") if row.actions else ()))
        for row in rows
    ]


def _subject(row: Any) -> str:
    if row.subject_kind == "account":
        return f"user:{row.account_name}"
    return f"team:{row.team_name}" if row.subject_kind == "team" else str(row.subject_kind)


def _granted(tx: sa.Connection, kind: SubjectKind, ids: dict[int, str], origin: str) -> list[Grant]:
    rows = tx.execute(_GRANTS, {"kind": kind, "ids": list(ids)}) if ids else ()
    return [Grant(ids[row.subject_id], row.pattern, _actions(row.actions), origin) for row in rows]


def _actions(words: str) -> frozenset[Action]:
    given = words.split(",")
    return frozenset(action for action in ACTIONS if action in given)


def standing(tx: sa.Connection, account_id: int) -> Standing | None:
    """An account and its rights, in four queries; None when it is gone or disabled."""
    found = _account(tx.execute(_BY_ID, {"id": account_id}).first())
    if found is None or not found.enabled:
        return None
    return Standing(found, rights_of(tx, found))


def rights_of(tx: sa.Connection, of: Account) -> Rights:
    """All that an account may do."""
    rows = tx.execute(_MEMBERSHIPS, {"id": of.id}).all()
    return collect(
        of.is_admin,
        [Membership(row.name, row.role) for row in rows],
        _granted(tx, "account", {of.id: f"user:{of.name}"}, "granted to the account"),
        _granted(tx, "team", {row.id: f"team:{row.name}" for row in rows}, "granted to a team of it"),
        [
            *_granted(tx, "everyone", {0: "everyone"}, "granted to everyone who signed in"),
            *_granted(tx, "anonymous", {0: "anonymous"}, "granted to everybody"),
        ],
    )


def anonymous_rights(tx: sa.Connection) -> Rights:
    """What may be done without signing in."""
    return collect(False, [], [], [], _granted(tx, "anonymous", {0: "anonymous"}, "granted to everybody"))
