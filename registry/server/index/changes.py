"""The counter that tells caches of every process that an answer of before may be wrong now.

What only adds (a new tag, a new manifest) makes no cached answer wrong, as absence is never cached.

The counter is the sum of the table's rows. SQLite has one writer at a time, and needs one row. On PostgreSQL a
single row would make all overwrites and deletions wait for each other's flush, so each transaction raises a
row that nobody else holds, and adds one when all are held: there are soon as many as there ever were such
transactions at once. The rows are ordinary ones, so each commit that holds a mark makes the sum larger by it,
at the very moment when the rest of the commit can be seen, and never before: whoever reads old data was told
the old number before. What does not hold that: a sequence moves before its transaction's commit, so old data
would be cached under the new number; the largest of inserted ids stands still when a smaller one commits later;
NOTIFY comes some time after the commit, and takes one lock for the whole database at each.
"""

from __future__ import annotations

import sqlalchemy as sa

from registry.server.index import dialects
from registry.server.index.schema import change

COUNT = sa.select(sa.cast(sa.func.sum(change.c.count), sa.BigInteger))
_MARK = change.update().where(change.c.id == 1).values(count=change.c.count + 1)
_free = change.alias("free")
_MARK_FREE = (
    change.update()
    .where(change.c.id == sa.select(_free.c.id).limit(1).with_for_update(skip_locked=True).scalar_subquery())
    .values(count=change.c.count + 1)
)
_MARK_NEW = change.insert().inline().values(count=1)


def count(tx: sa.Connection) -> int:
    """How many changes there were."""
    return int(tx.execute(COUNT).scalar_one())


def mark(tx: sa.Connection) -> None:
    """Say, in this transaction, that something moved or went."""
    if tx.dialect.name != dialects.POSTGRESQL:
        tx.execute(_MARK)
    elif not tx.execute(_MARK_FREE).rowcount:
        tx.execute(_MARK_NEW)
