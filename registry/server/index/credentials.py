"""Tokens of accounts as hashes, signing keys, failed logins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.server.auth.caller import ACTIONS
from registry.server.auth.keys import SigningKey
from registry.server.auth.rights import Limit
from registry.server.index import changes, dialects
from registry.server.index.names import now_ms
from registry.server.index.schema import attempt, credential, signing_key

CredentialKind = Literal["token", "refresh"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A token as it is kept: never the secret, only its hash. `parent` is the token that made it, if one did."""

    id: str
    account_id: int
    kind: CredentialKind
    hash: str
    label: str
    limits: tuple[Limit, ...]
    parent: str | None
    created_ms: int
    expires_ms: int | None
    used_ms: int | None

    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_ms is not None and self.expires_ms <= now_ms()


_GET = sa.select(credential).where(credential.c.id == bindparam("id"))


def _limits(text: str | None) -> tuple[Limit, ...]:
    values = json.loads(text) if text else []
    return tuple(
        Limit(value["pattern"], frozenset(action for action in ACTIONS if action in value["actions"]))
        for value in values
    )


def _credential(row: Any) -> Credential:
    values = dict(row._mapping)
    return Credential(**{**values, "limits": _limits(values["limits"])})


def get(tx: sa.Connection, credential_id: str) -> Credential | None:
    """A credential by its id."""
    row = tx.execute(_GET, {"id": credential_id}).first()
    return None if row is None else _credential(row)


def of_account(tx: sa.Connection, account_id: int, kind: CredentialKind = "token") -> list[Credential]:
    """An account's tokens, oldest first."""
    found = tx.execute(
        sa.select(credential)
        .where(credential.c.account_id == account_id, credential.c.kind == kind)
        .order_by(credential.c.created_ms, credential.c.id)
    )
    return [_credential(row) for row in found]


def page(
    tx: sa.Connection, account_id: int, kind: CredentialKind, after: tuple[int, str], limit: int
) -> list[Credential]:
    """Up to *limit* of an account's tokens, oldest first, after a time of creation and an id."""
    created_ms, last = after
    found = tx.execute(
        sa.select(credential)
        .where(
            credential.c.account_id == account_id,
            credential.c.kind == kind,
            sa.or_(
                credential.c.created_ms > created_ms,
                sa.and_(credential.c.created_ms == created_ms, credential.c.id > last),
            ),
        )
        .order_by(credential.c.created_ms, credential.c.id)
        .limit(limit)
    )
    return [_credential(row) for row in found]


def count(tx: sa.Connection, account_id: int, kind: CredentialKind) -> int:
    """How many tokens of a kind an account has."""
    condition = sa.and_(credential.c.account_id == account_id, credential.c.kind == kind)
    return int(tx.execute(sa.select(sa.func.count()).select_from(credential).where(condition)).scalar_one())


def add(
    tx: sa.Connection,
    credential_id: str,
    account_id: int,
    kind: CredentialKind,
    hashed: str,
    label: str,
    limits: Sequence[Limit] = (),
    expires_ms: int | None = None,
    parent: str | None = None,
) -> None:
    """Keep a new credential."""
    written = [{"pattern": limit.pattern, "actions": sorted(limit.actions)} for limit in limits]
    tx.execute(
        credential.insert(),
        {
            "id": credential_id,
            "account_id": account_id,
            "kind": kind,
            "hash": hashed,
            "label": label,
            "limits": json.dumps(written) if written else None,
            "parent": parent,
            "created_ms": now_ms(),
            "expires_ms": expires_ms,
            "used_ms": None,
        },
    )


def remove(tx: sa.Connection, credential_id: str) -> bool:
    """Delete a credential with those that it made, and those that they made; False when there is none."""
    gone = tx.execute(credential.delete().where(credential.c.id == credential_id)).rowcount
    makers = [credential_id]
    while makers:
        made = credential.c.parent == makers.pop()
        # A refresh token makes none, and there may be many of them.
        makers += tx.execute(sa.select(credential.c.id).where(made, credential.c.kind == "token")).scalars()
        tx.execute(credential.delete().where(made))
    changes.mark(tx)
    return bool(gone)


def remove_all(tx: sa.Connection, account_id: int, kind: CredentialKind | None = None) -> None:
    """Delete an account's credentials, all or those of a kind."""
    condition = credential.c.account_id == account_id
    tx.execute(credential.delete().where(condition if kind is None else condition & (credential.c.kind == kind)))
    changes.mark(tx)


def use(tx: sa.Connection, credential_id: str) -> None:
    """Note that a credential was used now."""
    tx.execute(credential.update().where(credential.c.id == credential_id).values(used_ms=now_ms()))


def remove_expired(tx: sa.Connection) -> None:
    """Delete credentials whose time was over a day ago, and failed logins that nobody remembers."""
    day_ago = now_ms() - 86_400_000
    tx.execute(credential.delete().where(credential.c.expires_ms < day_ago))
    tx.execute(attempt.delete().where(attempt.c.touched_ms < day_ago))


# --- signing keys


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key with its times."""

    key: SigningKey
    created_ms: int
    retired_ms: int | None


def keys(tx: sa.Connection) -> list[StoredKey]:
    """All signing keys, the newest first."""
    rows = tx.execute(sa.select(signing_key).order_by(signing_key.c.created_ms.desc(), signing_key.c.id))
    return [StoredKey(SigningKey(row.id, row.private_pem), row.created_ms, row.retired_ms) for row in rows]


def add_key(tx: sa.Connection, key: SigningKey) -> None:
    """Sign with *key* from now on; those before it are retired and go on to verify for a while."""
    moment = now_ms()
    tx.execute(signing_key.update().where(signing_key.c.retired_ms.is_(None)).values(retired_ms=moment))
    tx.execute(
        signing_key.insert(),
        {"id": key.id, "private_pem": key.private_pem, "created_ms": moment, "retired_ms": None},
    )
    changes.mark(tx)


def remove_key(tx: sa.Connection, key_id: str) -> bool:
    """Delete a key at once: what it signed stops to hold. False when there is none."""
    gone = tx.execute(signing_key.delete().where(signing_key.c.id == key_id)).rowcount
    changes.mark(tx)
    return bool(gone)


# --- failed logins


@dataclass(frozen=True, slots=True)
class Attempts:
    """What is counted under one key: failures, until when it is blocked, and when it last changed."""

    failures: int
    until_ms: int
    touched_ms: int


def attempts(tx: sa.Connection, wanted: Sequence[str]) -> dict[str, Attempts]:
    """What is counted under each of these keys, of those under which something is."""
    rows = tx.execute(sa.select(attempt).where(attempt.c.key.in_(wanted)))
    return {row.key: Attempts(row.failures, row.until_ms, row.touched_ms) for row in rows}


def failed(tx: sa.Connection, key: str, free: int, block_max_seconds: float, forget_seconds: float) -> None:
    """Count a failure: after *free* of them each one blocks the key for twice as long, up to a bound."""
    # The row is there and held before it is read, so that failures at the same moment are all counted.
    tx.execute(dialects.insert_or_leave(tx, attempt), {"key": key, "failures": 0, "until_ms": 0, "touched_ms": 0})
    row = tx.execute(sa.select(attempt).where(attempt.c.key == key).with_for_update()).one()
    moment = now_ms()
    failures = (row.failures if row.touched_ms > moment - int(forget_seconds * 1000) else 0) + 1
    seconds = min(block_max_seconds, 2.0 ** min(failures - free, 30)) if failures > free else 0.0
    values = {"failures": failures, "until_ms": moment + int(seconds * 1000), "touched_ms": moment}
    tx.execute(attempt.update().where(attempt.c.key == key).values(**values))


def succeeded(tx: sa.Connection, key: str, welcome: str) -> None:
    """Forget the failures of a key, and note under another one that there was a good login."""
    tx.execute(attempt.delete().where(attempt.c.key == key))
    noted = {"failures": 0, "until_ms": 0, "touched_ms": now_ms()}
    tx.execute(dialects.insert_or_leave(tx, attempt), {"key": welcome, **noted})
    tx.execute(attempt.update().where(attempt.c.key == welcome).values(**noted))
