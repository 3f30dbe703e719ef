"""The index on PostgreSQL: for any number of servers on one database.

**Transactions.** A transaction is a function that runs whole in one of a few threads, each with a connection of
its own; the one that was busy last is asked first, so that quiet times need few connections. Reads run without
BEGIN, each statement by itself. Writes run READ COMMITTED: every statement sees what others have committed
before it, so a function that decides by what it reads takes the row's lock (`with_for_update`, which SQLite
leaves out) or lets the statement itself decide (ON CONFLICT, a condition of an UPDATE). When the database
undoes a transaction because of another one, it is run again, with a pause that grows and is never the same.

Waiting writes are not gathered into one commit, as they are for SQLite: PostgreSQL's transactions flush together
by themselves when their commits meet, and a shared one would hold every row of its members until its end.

**The epoch** is asked over a connection of its own, on the event loop, without a thread. A request must be told of
everything that was committed before it came. A query that is under way may have looked before that, so those
who come meanwhile wait for the next one; one answer serves all who waited for it. There is at most one query at a
time, however many requests there are, and a request that only reads asks once (moment.py). (The counter itself:
changes.py.)

**Faults.** When a connection is lost before COMMIT was sent, nothing has happened, and the transaction runs again
over a new one, so that a restart of the database between two requests is not noticed. When it is lost after that,
nobody knows, and the client is told 503 and may ask again. While the database cannot be reached one thread at a
time tries, and everybody else is told 503 at once. What hangs is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

from registry.server.index import moment
from registry.server.index.engine import Transaction
from registry.server.index.postgres_connect import Door, postgres_engine
from registry.server.index.postgres_crew import Crew
from registry.server.index.postgres_epoch import Epochs

P = ParamSpec("P")
T = TypeVar("T")

_BEGIN: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"
_BEGIN_NOTE: Final = _BEGIN + b"; SET LOCAL synchronous_commit = off"


class PostgresIndex:
    """An Index in a PostgreSQL database, over at most *pool_size* connections and one for the epoch.

    Nothing is connected before it is needed. Use it from one event loop.
    """

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self._engine = postgres_engine(url)
        self._crew = Crew(Door(self._engine), pool_size)
        self._epochs = Epochs(self._engine)

    async def read(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._crew.run(None, function, args, kwargs)

    async def write(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._crew.run(_BEGIN, function, args, kwargs)

    async def note(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._crew.run(_BEGIN_NOTE, function, args, kwargs)

    async def destroy(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # What others wrote is seen once its commit is on stable storage, and not before.
        return await self._crew.run(_BEGIN_NOTE, function, args, kwargs)

    async def epoch(self) -> int:
        now = moment.current()
        if now is not None and now.is_known:
            return self._epochs.latest  # at least as new as what this request was told before
        epoch = await self._epochs.now()
        if now is not None:
            now.is_known = True
        return epoch

    def close(self) -> None:
        self._epochs.close()
        self._crew.close()
        self._engine.dispose()
