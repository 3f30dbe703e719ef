"""The counter that tells caches of every process that an answer of before may be wrong now.

What only adds (a new tag, a new manifest) makes no cached answer wrong, as absence is never cached.
"""

from __future__ import annotations

import sqlalchemy as sa

from registry.server.index.schema import change

_COUNT = sa.select(change.c.count).where(change.c.id == 1)
_MARK = change.update().where(change.c.id == 1).values(count=change.c.count + 1)


def count(tx: sa.Connection) -> int:
    """How many changes there were."""
    return int(tx.execute(_COUNT).scalar_one())


def mark(tx: sa.Connection) -> None:
    """Say, in this transaction, that something moved or went."""
    tx.execute(_MARK)
