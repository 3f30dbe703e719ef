"""Accounts of people and robots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.errors import RegistryError
from registry.server.index import changes, schema
from registry.server.index.names import now_ms

Kind = Literal["user", "robot"]

account, membership, permission = schema.account, schema.membership, schema.permission


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


_BY_NAME = sa.select(account).where(account.c.name == bindparam("name"))
_BY_ID = sa.select(account).where(account.c.id == bindparam("id"))


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
