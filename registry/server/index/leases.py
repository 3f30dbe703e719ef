"""Leases: work that one process does for all, until it stops or dies.

A lease has a holder until a moment by the database's clock, whatever the clocks of the machines say. The holder
takes it again before that moment; when it dies, the moment passes and somebody else takes it. A process that
was asleep for longer than its lease may go on for a while beside the next holder, so leased work must be right
when it is done twice; the lease only spares the second time.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.server.index import dialects
from registry.server.index.schema import lease

_NAMED = lease.c.name == bindparam("lease_name")
_HELD = sa.and_(_NAMED, lease.c.holder == bindparam("lease_holder"))
_RENEW = (
    lease.update().where(_HELD).values(expires_ms=dialects.clock_ms() + bindparam("lasts_ms", type_=sa.BigInteger))
)
_RELEASE = lease.delete().where(_HELD)


def acquire(tx: sa.Connection, name: str, holder: str, seconds: float) -> bool:
    """Take a lease, or take it again, for *seconds* from now; False while somebody else holds it."""
    statement = dialects.insert(tx, lease).values(
        name=name, holder=holder, expires_ms=dialects.clock_ms() + _milliseconds(seconds)
    )
    taken = statement.on_conflict_do_update(
        index_elements=[lease.c.name],
        set_={"holder": statement.excluded.holder, "expires_ms": statement.excluded.expires_ms},
        where=sa.or_(lease.c.holder == holder, lease.c.expires_ms <= dialects.clock_ms()),
    )
    return tx.execute(taken.returning(lease.c.name)).first() is not None


def renew(tx: sa.Connection, name: str, holder: str, seconds: float) -> bool:
    """Hold a lease for *seconds* from now; False when it went to somebody else, and the work shall stop."""
    row = {"lease_name": name, "lease_holder": holder, "lasts_ms": _milliseconds(seconds)}
    return bool(tx.execute(_RENEW, row).rowcount)


def release(tx: sa.Connection, name: str, holder: str) -> None:
    """Let the next one take a lease at once; safe to repeat, and when it is somebody else's."""
    tx.execute(_RELEASE, {"lease_name": name, "lease_holder": holder})


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
