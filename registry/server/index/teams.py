"""Teams, and who is in them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from registry.server.index import changes
from registry.server.index.accounts import Account, AccountExists, AccountUnknown, Kind
from registry.server.index.names import now_ms
from registry.server.index.schema import account, membership, permission, team


@dataclass(frozen=True, slots=True)
class Team:
    """A team and its people: (name, role, origin) of each."""

    name: str
    members: tuple[tuple[str, str, str], ...]


def id_of(tx: sa.Connection, name: str) -> int:
    """A team's id. Raises AccountUnknown."""
    found = tx.execute(sa.select(team.c.id).where(team.c.name == name)).scalar()
    if found is None:
        raise AccountUnknown(f"there is no team {name!r}")
    return int(found)


def everything(tx: sa.Connection) -> list[Team]:
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


def page(tx: sa.Connection, after: str, limit: int, among: Collection[str] | None = None) -> list[TeamSize]:
    """Up to *limit* teams, by name, after the name *after*; with *among*, those of these names alone."""
    query = _SIZES.where(team.c.name > after).limit(limit)
    query = query if among is None else query.where(team.c.name.in_(among))
    return [TeamSize(**row._mapping) for row in tx.execute(query)]


def get(tx: sa.Connection, name: str) -> TeamSize:
    """One team. Raises AccountUnknown."""
    row = tx.execute(_SIZES.where(team.c.id == id_of(tx, name))).one()
    return TeamSize(**row._mapping)


@dataclass(frozen=True, slots=True)
class Member:
    """An account in a team; `origin` says who put it there."""

    name: str
    kind: Kind
    role: str
    origin: str


def members(tx: sa.Connection, name: str, after: str, limit: int) -> list[Member]:
    """Up to *limit* members of a team, by name, after the name *after*. Raises AccountUnknown."""
    rows = tx.execute(
        sa.select(account.c.name, account.c.kind, membership.c.role, membership.c.origin)
        .join(membership, membership.c.account_id == account.c.id)
        .where(membership.c.team_id == id_of(tx, name), account.c.name > after)
        .order_by(account.c.name)
        .limit(limit)
    )
    return [Member(**row._mapping) for row in rows]


def exists(tx: sa.Connection, name: str) -> bool:
    """Whether there is a team of this name."""
    return tx.execute(sa.select(team.c.id).where(team.c.name == name)).scalar() is not None


def add(tx: sa.Connection, name: str) -> None:
    """Add a team. Raises AccountExists."""
    if tx.execute(sa.select(team.c.id).where(team.c.name == name)).scalar() is not None:
        raise AccountExists(f"there is a team {name!r} already")
    tx.execute(team.insert(), {"name": name, "created_ms": now_ms()})


def remove(tx: sa.Connection, name: str) -> None:
    """Delete a team with its memberships and grants; its repositories stay. Raises AccountUnknown."""
    gone = id_of(tx, name)
    tx.execute(membership.delete().where(membership.c.team_id == gone))
    tx.execute(permission.delete().where(permission.c.subject_kind == "team", permission.c.subject_id == gone))
    tx.execute(team.delete().where(team.c.id == gone))
    changes.mark(tx)


def join(tx: sa.Connection, name: str, member: Account, role: str, origin: str = "local") -> None:
    """Put an account into a team, or change its role there. Raises AccountUnknown."""
    place = {"team_id": id_of(tx, name), "account_id": member.id}
    _leave(tx, place["team_id"], member.id)
    tx.execute(membership.insert(), {**place, "role": role, "origin": origin})
    changes.mark(tx)


def of(tx: sa.Connection, account_id: int) -> list[tuple[str, str, str]]:
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
    if not _leave(tx, id_of(tx, name), member.id):
        raise AccountUnknown(f"{member.name!r} is not in team {name!r}")
    changes.mark(tx)


def _leave(tx: sa.Connection, team_number: int, account_id: int) -> bool:
    condition = sa.and_(membership.c.team_id == team_number, membership.c.account_id == account_id)
    return bool(tx.execute(membership.delete().where(condition)).rowcount)
