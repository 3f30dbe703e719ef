"""Accounts with all their rights, from memberships and grants."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.rights import Grant, Membership, Rights, collect
from registry.server.index import accounts
from registry.server.index.accounts import Account
from registry.server.index.grants import SubjectKind
from registry.server.index.schema import membership, permission, team

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


@dataclass(frozen=True, slots=True)
class Standing:
    """An account with all its rights, as one read of the index sees them."""

    account: Account
    rights: Rights


def of(tx: sa.Connection, account_id: int) -> Standing | None:
    """An account and its rights, in four queries; None when it is gone or disabled."""
    found = accounts.by_id(tx, account_id)
    if found is None or not found.enabled:
        return None
    return Standing(found, rights(tx, found))


def rights(tx: sa.Connection, account: Account) -> Rights:
    """All that an account may do."""
    rows = tx.execute(_MEMBERSHIPS, {"id": account.id}).all()
    return collect(
        account.is_admin,
        [Membership(row.name, row.role) for row in rows],
        _granted(tx, "account", {account.id: f"user:{account.name}"}, "granted to the account"),
        _granted(tx, "team", {row.id: f"team:{row.name}" for row in rows}, "granted to a team of it"),
        [
            *_granted(tx, "everyone", {0: "everyone"}, "granted to everyone who signed in"),
            *_granted(tx, "anonymous", {0: "anonymous"}, "granted to everybody"),
        ],
    )


def anonymous(tx: sa.Connection) -> Rights:
    """What may be done without signing in."""
    return collect(False, [], [], [], _granted(tx, "anonymous", {0: "anonymous"}, "granted to everybody"))


def _granted(tx: sa.Connection, kind: SubjectKind, ids: dict[int, str], origin: str) -> list[Grant]:
    rows = tx.execute(_GRANTS, {"kind": kind, "ids": list(ids)}) if ids else ()
    return [Grant(ids[row.subject_id], row.pattern, _actions(row.actions), origin) for row in rows]


def _actions(words: str) -> frozenset[Action]:
    given = words.split(",")
    return frozenset(action for action in ACTIONS if action in given)
