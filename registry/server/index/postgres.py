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

import asyncio
import contextlib
import logging
import os
import queue
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import errors, pq
from psycopg.adapt import PyFormat

from registry import failpoints
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, ParameterInvalid, RegistryError, StorageFull, Unavailable
from registry.oci.reference import Repository, Tag
from registry.server.index import changes, moment
from registry.server.index.engine import Transaction

log = logging.getLogger("hythe.index")

P = ParamSpec("P")
T = TypeVar("T")
Raw = psycopg.Connection[Any]

_CONNECT_SECONDS: Final = 5
_STATEMENT_SECONDS: Final = 15
_TRANSACTION_SECONDS: Final = 30.0  # waiting for a connection included; then the client is told 503
_EPOCH_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 300.0
_REFUSED_PAUSE_SECONDS: Final = 0.25

_BEGIN: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"
_BEGIN_NOTE: Final = _BEGIN + b"; SET LOCAL synchronous_commit = off"

# What every connection is told first. An idle one only reads, so that `read` cannot write by mistake, and what
# a vanished or sleeping process holds is let go of soon. `write` promises stable storage, whatever the database's
# own default is; a stricter one (remote_apply) stays.
_SESSION: Final = f"""
SET default_transaction_read_only = on;
SET statement_timeout = '{_STATEMENT_SECONDS}s';
SET idle_in_transaction_session_timeout = '{_STATEMENT_SECONDS}s';
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
SET jit = off;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
""".encode()

# How libpq connects, unless the URL says otherwise.
_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": _CONNECT_SECONDS,
    "fallback_application_name": "hythe",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

_TRIES_AFTER_CONFLICT: Final = 8
_TRIES_AFTER_DUPLICATE: Final = 3
_TRIES_AFTER_LOSS: Final = 3


def postgres_engine(url: str) -> sa.Engine:
    """An engine whose connections begin and end transactions only when told to, and read until then.

    Raises ConfigurationError when *url* is none.
    """
    try:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        defaults = {name: value for name, value in _CONNECT.items() if name not in parsed.query}
        engine = sa.create_engine(
            parsed,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.pool.NullPool,
            use_native_hstore=False,
            connect_args=defaults,
        )
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError("index.url: 'postgresql://USER@HOST/DATABASE' is expected") from None

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Raw, _: object) -> None:
        _tell(connection.pgconn, _SESSION)
        # Without these, psycopg looks for a way to write our kinds of str at each parameter anew: 60 µs.
        as_str = connection.adapters.get_dumper(str, PyFormat.AUTO)
        for kind in (Digest, Repository, Tag):
            connection.adapters.register_dumper(kind, as_str)

    return engine


def answer_to(error: BaseException) -> RegistryError | None:
    """What a client is told of a fault of the database; None when it is a mistake of ours."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, errors.DiskFull):
        return StorageFull()
    if isinstance(cause, psycopg.DataError) and cause.sqlstate is None:
        return ParameterInvalid("a text has a character that cannot be kept or looked for (NUL)")
    faults = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction, OSError)
    return Unavailable() if isinstance(cause, faults) else None


def _tell(connection: pq.abc.PGconn, words: bytes) -> None:
    """Run statements without parameters, at a fifth of what the layers above would cost."""
    result = connection.exec_(words)
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise errors.error_from_result(result)


class PostgresIndex:
    """An Index in a PostgreSQL database, over at most *pool_size* connections and one for the epoch.

    Nothing is connected before it is needed. Use it from one event loop.
    """

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self._engine = postgres_engine(url)
        self._crew = _Crew(_Door(self._engine), pool_size)
        self._epochs = _Epochs(self._engine)

    async def read(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._run(None, function, args, kwargs)

    async def write(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._run(_BEGIN, function, args, kwargs)

    async def note(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._run(_BEGIN_NOTE, function, args, kwargs)

    async def destroy(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # What others wrote is seen once its commit is on stable storage, and not before.
        return await self._run(_BEGIN_NOTE, function, args, kwargs)

    def _run(
        self, begin: bytes | None, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        job = _Job(begin, function, args, kwargs, loop, loop.create_future())
        self._crew.take(job)
        job.timer = loop.call_later(_TRANSACTION_SECONDS, self._crew.give_up, job)
        return job.future

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


# --- transactions


@dataclass(slots=True, eq=False)
class _Job:
    """A transaction that somebody waits for. `begin` is None for one that only reads."""

    begin: bytes | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    timer: asyncio.TimerHandle | None = None
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        """In the event loop, when it has run."""
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():  # the one who waited went away, or was told to
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _Crew:
    """Up to *size* threads; the one that was idle for the shortest time gets the next job."""

    def __init__(self, door: _Door, size: int) -> None:
        self._door = door
        self._size = size
        self._lock = threading.Lock()
        self._idle: list[_Hand] = []
        self._hands: list[_Hand] = []
        self._waiting: deque[_Job] = deque()
        self._closed = False

    def take(self, job: _Job) -> None:
        """Have a job done, now or when a thread is free."""
        with self._lock:
            if self._closed:
                raise Unavailable("the registry is stopping")
            if self._idle:
                self._idle.pop().jobs.put(job)
            elif len(self._hands) < self._size:
                hand = _Hand(self, self._door)
                self._hands.append(hand)
                hand.jobs.put(job)
                hand.start()
            else:
                self._waiting.append(job)

    def next_for(self, hand: _Hand) -> _Job | None:
        """What has waited longest, of what somebody still waits for; None: rest."""
        with self._lock:
            while self._waiting:
                job = self._waiting.popleft()
                if not job.future.done():
                    return job
            if self._closed:
                hand.jobs.put(None)
            else:
                self._idle.append(hand)
            return None

    def give_up(self, job: _Job) -> None:
        """Tell that a job takes too long, and cut the connection over which it runs."""
        if not job.future.done():
            job.future.set_exception(Unavailable())
        for hand in self._hands:
            hand.cut(job)

    def close(self) -> None:
        """Finish the jobs that were taken, and disconnect."""
        with self._lock:
            self._closed = True
            for hand in self._idle:
                hand.jobs.put(None)
            self._idle.clear()
        deadline = time.monotonic() + _TRANSACTION_SECONDS
        for hand in self._hands:
            hand.join(max(0.0, deadline - time.monotonic()))


class _Hand(threading.Thread):
    """A thread, and the connection over which it runs one job after the other."""

    def __init__(self, crew: _Crew, door: _Door) -> None:
        super().__init__(name="index", daemon=True)
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._crew = crew
        self._door = door
        self._tx: Transaction | None = None
        self._lock = threading.Lock()  # on the two below: nobody else's connection may be cut
        self._job: _Job | None = None
        self._raw: Raw | None = None

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=_IDLE_SECONDS if self._tx is not None else None)
            except queue.Empty:
                self._disconnect()
                continue
            if job is None:
                break
            while job is not None:
                self._do(job)
                done, job = job, self._crew.next_for(self)
                # Told only now: who asks again at once finds this thread idle, and needs no other.
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    done.loop.call_soon_threadsafe(done.deliver)
        self._disconnect()

    def cut(self, job: _Job) -> None:
        """End the connection's conversation if it is about *job*: who waits for its answer wakes up."""
        with self._lock:
            if self._job is job and self._raw is not None and not self._raw.closed:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._raw.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    def _do(self, job: _Job) -> None:
        with self._lock:
            self._job = job
        try:
            job.result = self._try_until_done(job)
        except BaseException as error:
            job.error = error
        with self._lock:
            self._job = None

    def _try_until_done(self, job: _Job) -> Any:
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(job)
            except _Again as again:
                if tries >= again.tries or job.future.done():
                    raise _because_of(again.error, again.__cause__)  # noqa: B904 - its cause is set
                if again.pauses:
                    time.sleep(random.uniform(0.5, 1.5) * 0.002 * 2**tries)  # noqa: S311 - parts the contenders

    def _try(self, job: _Job) -> Any:
        """Run a job once. Raises _Again when it may be run again."""
        tx, raw = self._connection()
        committing = False
        try:
            if job.begin is None:
                return job.function(tx, *job.args, **job.kwargs)
            _tell(raw.pgconn, job.begin)
            result = job.function(tx, *job.args, **job.kwargs)
            if raw.pgconn.transaction_status != pq.TransactionStatus.INTRANS:
                raise sa.exc.InvalidRequestError("the transaction went on after an error, and is undone")
            failpoints.reach("index.before-commit")
            committing = True
            _tell(raw.pgconn, b"COMMIT")
            failpoints.reach("index.committed")
            return result
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            lost = self._recover(raw, error)
            raise _because_of(_verdict(error, lost, committing, job.begin is None), error)  # noqa: B904
        except BaseException as error:
            self._recover(raw, error)
            raise

    def _connection(self) -> tuple[Transaction, Raw]:
        if self._tx is None or self._raw is None:
            tx = self._door.open()
            raw = tx.connection.driver_connection
            assert raw is not None
            self._tx = tx
            with self._lock:
                self._raw = raw
        return self._tx, self._raw

    def _recover(self, raw: Raw, error: BaseException) -> bool:
        """Make the connection ready for the next transaction, or drop it; True when it was lost."""
        if not raw.closed and not _is_demoted(error):
            with contextlib.suppress(psycopg.Error):
                if raw.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                    _tell(raw.pgconn, b"ROLLBACK")
                return False
        self._disconnect()
        return True

    def _disconnect(self) -> None:
        with self._lock:
            raw, self._raw = self._raw, None
        tx, self._tx = self._tx, None
        if tx is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error):
                tx.invalidate()
                tx.close()
        if raw is not None:
            raw.close()


class _Again(Exception):
    """A transaction that may be tried up to *tries* times in all; *error* is what is raised after that."""

    def __init__(self, error: BaseException, tries: int, pauses: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.tries = tries
        self.pauses = pauses


def _because_of(answer: BaseException, cause: BaseException | None) -> BaseException:
    """*answer* with its cause, unless it is that itself."""
    if answer is not cause:
        answer.__cause__ = cause
    return answer


def _is_demoted(error: BaseException) -> bool:
    """Whether the server takes no writes, as after a failover; the next connection may find one that does."""
    return isinstance(getattr(error, "orig", error), errors.ReadOnlySqlTransaction)


def _verdict(
    error: sa.exc.DBAPIError | psycopg.Error, lost: bool, committing: bool, reading: bool
) -> BaseException:
    """What is to be raised for a fault of the database."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if _is_demoted(error) and reading:
        return error  # a function that writes was handed to `read`
    if lost:
        return Unavailable() if committing else _Again(Unavailable(), _TRIES_AFTER_LOSS, pauses=False)
    if isinstance(cause, (errors.SerializationFailure, errors.DeadlockDetected)):
        return _Again(Unavailable(), _TRIES_AFTER_CONFLICT)
    if isinstance(cause, errors.UniqueViolation):
        # Somebody added the same a moment ago: the next try finds it there, and says so or goes on.
        return _Again(error, _TRIES_AFTER_DUPLICATE)
    return answer_to(error) or error


class _Door:
    """Opens connections. While the database cannot be reached, one asks at a time and all others are told so."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._asking = threading.Lock()
        self._refused = False
        self._next_try = 0.0

    def open(self) -> Transaction:
        """A new connection. Raises Unavailable."""
        if not self._refused:
            return self._open()
        if time.monotonic() < self._next_try or not self._asking.acquire(blocking=False):
            raise Unavailable()
        try:
            return self._open()
        finally:
            self._asking.release()

    def _open(self) -> Transaction:
        try:
            connection = self._engine.connect()
        except (sa.exc.DBAPIError, psycopg.Error, OSError) as error:
            if not self._refused:
                log.warning("index.unreachable", extra={"fields": {"error": str(error.__cause__ or error)}})
            self._next_try = time.monotonic() + _REFUSED_PAUSE_SECONDS
            self._refused = True
            raise Unavailable() from error
        if self._refused:
            self._refused = False
            log.info("index.reachable")
        return connection


# --- the epoch


class _Epochs:
    """Answers to "what is the epoch now?", one query for all who asked before it was sent."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._waiting: list[asyncio.Future[int]] = []
        self._answering: asyncio.Task[None] | None = None
        self._line: _Line | None = None
        self._incarnation = 0
        self._count = -1
        self.latest = -1

    async def now(self) -> int:
        """The epoch at some moment after this call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._waiting.append(future)
        if self._answering is None:
            self._answering = loop.create_task(self._answer_until_none_waits())
        return await future

    async def _answer_until_none_waits(self) -> None:
        try:
            while self._waiting:
                asking, self._waiting = self._waiting, []
                await self._answer(asking)
        finally:
            self._answering = None

    async def _answer(self, asking: list[asyncio.Future[int]]) -> None:
        try:
            epoch = await self._ask()
        except Exception as error:
            # Those who came meanwhile would only wait for the same.
            waiting, self._waiting = self._waiting, []
            _refuse([*asking, *waiting], error)
        except BaseException as error:
            _refuse(asking, error)
            raise
        else:
            for future in asking:
                if not future.done():
                    future.set_result(epoch)

    async def _ask(self) -> int:
        """Ask over the connection that is there, and when it is found to be lost, over a new one."""
        while True:
            is_new = self._line is None
            try:
                async with asyncio.timeout(_EPOCH_SECONDS + _CONNECT_SECONDS * is_new):
                    if self._line is None:
                        self._line = await _Line.open(self._engine)
                        self._incarnation += 1
                    count = await self._line.ask()
                break
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
                self._hang_up()
                if is_new:
                    raise
            except BaseException:
                self._hang_up()
                raise
        # A database that came back from a failover or a backup may have lost changes and count them again to the
        # same number. Then connections were lost, or the number fell.
        self._incarnation += count < self._count
        self._count = count
        self.latest = (self._incarnation << 56) + count
        return self.latest

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """Disconnect; those who wait are told that the registry cannot answer."""
        if self._answering is not None:
            self._answering.cancel()
        _refuse(self._waiting, Unavailable())
        self._waiting = []
        self._hang_up()


def _refuse(waiting: list[asyncio.Future[int]], error: BaseException) -> None:
    """Tell each one who waits of a fault, by an exception of its own where it is an answer."""
    for future in waiting:
        if not future.done():
            answer = answer_to(error) if isinstance(error, Exception) else Unavailable()
            future.set_exception(_because_of(answer or error, error))


class _Line:
    """A connection that asks one prepared question, over and over, from the event loop."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._pg = connection.pgconn
        # Of our own: libpq closes its one when the connection is lost, and the number is soon another file's.
        self._fd = os.dup(connection.fileno())
        self._answer: asyncio.Future[int] | None = None
        self._lost: psycopg.Error | None = None
        self._loop.add_reader(self._fd, self._hear)

    @classmethod
    async def open(cls, engine: sa.Engine) -> _Line:
        """Connect and prepare."""
        positional, named = engine.dialect.create_connect_args(engine.url)
        named = {**_CONNECT, **named, "autocommit": True}
        connection = await psycopg.AsyncConnection.connect(*positional, **named)
        try:
            query = str(changes.COUNT.compile(dialect=engine.dialect))
            # One round trip each, once for a connection's life; the event loop can bear it.
            await connection.execute(_SESSION)
            await connection.execute(b"PREPARE epoch AS " + query.encode())
            return cls(connection)
        except BaseException:
            connection.pgconn.finish()
            raise

    async def ask(self) -> int:
        """The number of changes now."""
        if self._lost is not None:
            raise self._lost
        self._answer = self._loop.create_future()
        self._pg.send_query_prepared(b"epoch", None)
        if self._pg.flush():
            raise psycopg.OperationalError("the connection takes no more")
        try:
            return await self._answer
        finally:
            self._answer = None

    def _hear(self) -> None:
        """Something came."""
        try:
            self._pg.consume_input()
            if self._answer is None or self._pg.is_busy():
                return
            count = None
            while (result := self._pg.get_result()) is not None:
                if result.status != pq.ExecStatus.TUPLES_OK:
                    raise errors.error_from_result(result)
                count = int(result.get_value(0, 0) or 0)
            assert count is not None
            if not self._answer.done():
                self._answer.set_result(count)
        except psycopg.Error as error:
            self._stop_listening()
            self._lost = error
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(error)

    def _stop_listening(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Disconnect; safe to repeat."""
        self._stop_listening()
        self._pg.finish()
