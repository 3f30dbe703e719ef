"""Accounts, teams and grants, and from them the rights of one account."""

from __future__ import annotations

from collections.abc import Collection, Iterable
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


def by_id(tx: sa.Connection, account_id: int) -> Account | None:
    """An account by its id, whether it is enabled or not."""
    return _account(tx.execute(_BY_ID, {"id": account_id}).first())


def everybody(tx: sa.Connection) -> list[Account]:
    """All accounts, by name."""
    return [Account(**row._mapping) for row in tx.execute(sa.select(account).order_by(account.c.name))]


def page(tx: sa.Connection, kind: Kind, after: str, limit: int) -> list[Account]:
    """Up to *limit* accounts of a kind, by name, after the name *after*."""
    rows = tx.execute(
        sa.select(account)
        .where(account.c.kind == kind, account.c.name > after)
        .order_by(account.c.name)
        .limit(limit)
    )
    return [Account(**row._mapping) for row in rows]


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


def better_hash(tx: sa.Connection, account_id: int, old: str, new: str) -> None:
    """Keep another hash of the same password; does nothing when the password was changed meanwhile."""
    condition = sa.and_(account.c.id == account_id, account.c.password_hash == old)
    tx.execute(account.update().where(condition).values(password_hash=new))
    changes.mark(tx)


def remove(tx: sa.Connection, gone: Account) -> None:
    """Delete an account with its memberships, grants, credentials, sessions and open uploads."""
    for table, condition in (
        (membership, membership.c.account_id == gone.id),
        (permission, sa.and_(permission.c.subject_kind == "account", permission.c.subject_id == gone.id)),
        (schema.credential, schema.credential.c.account_id == gone.id),
        (schema.session, schema.session.c.account_id == gone.id),
        (schema.identity, schema.identity.c.account_id == gone.id),
        (schema.upload, schema.upload.c.owner == gone.name),
        (account, account.c.id == gone.id),
    ):
        tx.execute(table.delete().where(condition))
    changes.mark(tx)


def other_admins(tx: sa.Connection, than: int) -> int:
    """How many enabled administrators there are besides one account; they stay that until this transaction ends.

    All are locked, always in the same order: two who take each other's right away at once take turns.
    """
    administrators = sa.select(account.c.id).where(account.c.is_admin, account.c.enabled).order_by(account.c.id)
    return sum(found != than for found in tx.execute(administrators.with_for_update()).scalars())


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


@dataclass(frozen=True, slots=True)
class TeamSize:
    """A team, and how many people and robots are in it."""

    name: str
    created_ms: int
    members: int


_members = sa.select(sa.func.count()).where(membership.c.team_id == team.c.id).scalar_subquery()
_SIZES = sa.select(team.c.name, team.c.created_ms, _members.label("members")).order_by(team.c.name)


def teams_page(tx: sa.Connection, after: str, limit: int, among: Collection[str] | None = None) -> list[TeamSize]:
    """Up to *limit* teams, by name, after the name *after*; with *among*, those of these names alone."""
    query = _SIZES.where(team.c.name > after).limit(limit)
    query = query if among is None else query.where(team.c.name.in_(among))
    return [TeamSize(**row._mapping) for row in tx.execute(query)]


def team_size(tx: sa.Connection, name: str) -> TeamSize:
    """One team. Raises AccountUnknown."""
    row = tx.execute(_SIZES.where(team.c.id == team_id(tx, name))).one()
    return TeamSize(**row._mapping)


@dataclass(frozen=True, slots=True)
class Member:
    """An account in a team; `origin` says who put it there."""

    name: str
    kind: Kind
    role: str
    origin: str


def members_page(tx: sa.Connection, name: str, after: str, limit: int) -> list[Member]:
    """Up to *limit* members of a team, by name, after the name *after*. Raises AccountUnknown."""
    rows = tx.execute(
        sa.select(account.c.name, account.c.kind, membership.c.role, membership.c.origin)
        .join(membership, membership.c.account_id == account.c.id)
        .where(membership.c.team_id == team_id(tx, name), account.c.name > after)
        .order_by(account.c.name)
        .limit(limit)
    )
    return [Member(**row._mapping) for row in rows]


def has_team(tx: sa.Connection, name: str) -> bool:
    """Whether there is a team of this name."""
    return tx.execute(sa.select(team.c.id).where(team.c.name == name)).scalar() is not None


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


def places(tx: sa.Connection, account_id: int) -> list[tuple[str, str, str]]:
    """The teams that an account is in: (team, role, origin) of each, by name."""
    rows = tx.execute(
        sa.select(team.c.name, membership.c.role, membership.c.origin)
        .join(team, team.c.id == membership.c.team_id)
        .where(membership.c.account_id == account_id)
        .order_by(team.c.name)
    )
    return [(row.name, row.role, row.origin) for row in rows]


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


_STORED = (
    sa.select(permission, account.c.name.label("account_name"), team.c.name.label("team_name"))
    .outerjoin(account, sa.and_(permission.c.subject_kind == "account", account.c.id == permission.c.subject_id))
    .outerjoin(team, sa.and_(permission.c.subject_kind == "team", team.c.id == permission.c.subject_id))
)


def grants(tx: sa.Connection) -> list[StoredGrant]:
    """All grants, by pattern."""
    in_order = (permission.c.pattern, permission.c.subject_kind, permission.c.subject_id)
    return [_stored(row) for row in tx.execute(_STORED.order_by(*in_order))]


def grants_page(
    tx: sa.Connection, after: int, limit: int, inside: Collection[str] | None = None
) -> list[StoredGrant]:
    """Up to *limit* grants, by id, after the id *after*; with *inside*, in these teams' namespaces alone."""
    query = _STORED.where(permission.c.id > after).order_by(permission.c.id).limit(limit)
    if inside is not None:
        starts = [permission.c.pattern.startswith(f"{name}/", autoescape=True) for name in inside]
        query = query.where(sa.or_(sa.false(), *starts))
    return [_stored(row) for row in tx.execute(query)]


def _stored(row: Any) -> StoredGrant:
    return StoredGrant(row.id, _subject(row), row.pattern, tuple(row.actions.split(",") if row.actions else ()))


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
