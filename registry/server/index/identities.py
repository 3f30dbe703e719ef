"""Who an account belongs to at an identity provider: an issuer and a subject, never a name."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from registry.server.index.names import now_ms
from registry.server.index.schema import account, identity


@dataclass(frozen=True, slots=True)
class Identity:
    """A person at a provider, and the account that is theirs.

    `is_admin`: the provider made them an administrator. `is_shut_out`: the account is locked until the provider
    vouches for them again. `seen_ms` is when it last did.
    """

    issuer: str
    subject: str
    account_id: int
    is_admin: bool
    is_shut_out: bool
    seen_ms: int


def find(tx: sa.Connection, issuer: str, subject: str) -> Identity | None:
    """The person of this subject, whom no other transaction changes until this one ends."""
    condition = sa.and_(identity.c.issuer == issuer, identity.c.subject == subject)
    row = tx.execute(sa.select(identity).where(condition).with_for_update()).first()
    return None if row is None else Identity(**row._mapping)


def of_account(tx: sa.Connection, account_id: int) -> Identity | None:
    """The person whose account it is, if a provider vouches for anybody."""
    row = tx.execute(sa.select(identity).where(identity.c.account_id == account_id)).first()
    return None if row is None else Identity(**row._mapping)


def add(tx: sa.Connection, issuer: str, subject: str, account_id: int) -> None:
    """Keep whose account it is."""
    values = {"is_admin": False, "is_shut_out": False, "seen_ms": now_ms()}
    tx.execute(identity.insert(), {"issuer": issuer, "subject": subject, "account_id": account_id, **values})


def change(tx: sa.Connection, account_id: int, **values: bool | int) -> None:
    """Change what is noted about the person of an account; nothing happens for an account of nobody's."""
    tx.execute(identity.update().where(identity.c.account_id == account_id).values(**values))


def unseen_since(tx: sa.Connection, issuer: str, moment_ms: int, limit: int) -> list[Identity]:
    """People for whom the provider has not vouched since, and whose accounts are not locked; as `find`."""
    rows = tx.execute(
        sa.select(identity)
        .join(account, account.c.id == identity.c.account_id)
        .where(identity.c.issuer == issuer, identity.c.seen_ms < moment_ms, account.c.enabled)
        .order_by(identity.c.seen_ms)
        .limit(limit)
        .with_for_update(of=identity)
    )
    return [Identity(**row._mapping) for row in rows]
