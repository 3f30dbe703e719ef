"""Grants, each by itself; standings.py says what they come to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from registry.server.auth.caller import ACTIONS, Action
from registry.server.index import changes
from registry.server.index.accounts import AccountUnknown
from registry.server.index.names import now_ms
from registry.server.index.schema import account, permission, team

SubjectKind = Literal["account", "team", "everyone", "anonymous"]


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


def put(tx: sa.Connection, kind: SubjectKind, subject_id: int, pattern: str, actions: Iterable[Action]) -> None:
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


def remove(tx: sa.Connection, kind: SubjectKind, subject_id: int, pattern: str) -> None:
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


def everything(tx: sa.Connection) -> list[StoredGrant]:
    """All grants, by pattern."""
    in_order = (permission.c.pattern, permission.c.subject_kind, permission.c.subject_id)
    return [_stored(row) for row in tx.execute(_STORED.order_by(*in_order))]


def page(tx: sa.Connection, after: int, limit: int, inside: Collection[str] | None = None) -> list[StoredGrant]:
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
