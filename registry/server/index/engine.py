"""How transactions run: reads at once, writes in one thread that commits for all who wait.

A transaction is a function over a connection, `names.find(tx, repository)`, and runs whole in one place:
there is one thread hop for a write and none for a read, however many statements it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa

from registry import failpoints
from registry.oci.errors import RegistryError, StorageFull, Unavailable
from registry.server.index import changes

P = ParamSpec("P")
T = TypeVar("T")
Transaction = sa.Connection

_BATCH_MAX = 128
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC"}


class Index(Protocol):
    """Where transactions run, whatever the database."""

    async def read(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run *function* over a connection that only reads."""
        ...

    async def write(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run *function* in a transaction; when this returns, what it wrote is on stable storage.

        What it raises undoes its writes and is raised here. It may run more than once: no side effects. Others
        may write between its statements: what it decides by, it locks (`with_for_update`, before it decides).
        """
        ...

    async def note(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, but a power cut may take it back: for what a client would only repeat."""
        ...

    async def destroy(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `note`, for what cannot be taken back: *function* may delete bytes that no row names.

        It sees nothing but what is on stable storage, or was only noted. So what it found gone stays gone,
        whatever becomes of this transaction or of others that are under way.
        """
        ...

    async def epoch(self) -> int:
        """A number that has moved when an answer from before this call may be wrong now.

        What any process had committed before this call is seen by it.
        """
        ...

    def close(self) -> None:
        """Finish the writes under way and let go of the database."""
        ...


@contextlib.contextmanager
def database_faults_are_answers() -> Iterator[None]:
    """Turn what the database says into StorageFull or Unavailable; mistakes of ours stay as they are."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        answer = _answer(error.orig if isinstance(error, sa.exc.DBAPIError) else error)
        if answer is None:
            raise
        raise answer from error


def _answer(error: BaseException | None) -> RegistryError | None:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name in _FULL:
        return StorageFull()
    return Unavailable() if isinstance(error, sqlite3.OperationalError) else None


@dataclass(slots=True)
class _Job:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    durable: bool
    first: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.done():  # the one who waited went away
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def sqlite_engine(path: Path) -> sa.Engine:
    """An engine for the file *path* whose connections begin and end transactions only when told to."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),  # a path in a URL would be cut at its "?"
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": 30, "check_same_thread": False},
        poolclass=sa.pool.NullPool,
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=4000",
            "cache_size=-65536",
            "mmap_size=268435456",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class EmbeddedIndex:
    """An Index in one SQLite file, shared by any number of processes of one machine.

    Reads run where they are asked for: a point query takes microseconds and WAL readers never wait.
    Writes of this process queue up for one thread, which runs all that wait in one transaction, each in a
    savepoint of its own, so that one flush serves them all. Processes take turns by a file lock, which wakes
    the next one at once, where SQLite's own waiting would sleep and poll.
    """

    def __init__(self, path: Path) -> None:
        self._engine = sqlite_engine(path)
        self._reader = self._engine.connect()
        raw = self._reader.connection.dbapi_connection
        assert raw is not None
        self._pragma = raw.cursor()
        self._data_version = -1
        self._epoch = 0
        self._flushes = True
        self._turn = os.open(path.with_name(path.name + ".turn"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write_until_closed, name="index-writer", daemon=True)
        self._writer.start()

    async def read(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with database_faults_are_answers():
            return function(self._reader, *args, **kwargs)

    async def write(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._queue(function, args, kwargs, durable=True)

    async def note(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._queue(function, args, kwargs, durable=False)

    async def destroy(
        self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._queue(function, args, kwargs, durable=False, first=True)

    def _queue(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        durable: bool,
        first: bool = False,
    ) -> asyncio.Future[T]:
        if self._closed:
            raise Unavailable("the registry is stopping")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(function, args, kwargs, durable, first, loop, future))
        return future

    async def epoch(self) -> int:
        # The pragma moves with every commit of any other connection; only then is the counter read.
        (version,) = self._pragma.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._data_version = version
            self._epoch = changes.count(self._reader)
        return self._epoch

    def _write_until_closed(self) -> None:
        connection: Transaction | None = None
        while (job := self._jobs.get()) is not None:
            batch = [job]
            closing = self._take_waiting(batch)
            try:
                if connection is None:
                    connection = self._engine.connect()
                with database_faults_are_answers():
                    self._run_batch(connection, batch)
            except BaseException as error:  # a fault of the commit is everybody's
                for failed in batch:
                    failed.error = error
                self._drop(connection)
                connection = None
            self._deliver(batch)
            if closing:
                break
        self._drop(connection)

    def _take_waiting(self, batch: list[_Job]) -> bool:
        """Add what waits to *batch*; True when the index is being closed."""
        while len(batch) < _BATCH_MAX:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return False
            if job is None:
                return True
            batch.append(job)
        return False

    def _run_batch(self, tx: Transaction, batch: list[_Job]) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            self._flush_at_commit(tx, any(job.durable for job in batch))
            tx.exec_driver_sql("BEGIN IMMEDIATE")
            # A job that destroys must not see what the others of its batch did: the commit may fail yet.
            for job in sorted(batch, key=lambda job: not job.first):
                _run_job(tx, job)
            failpoints.reach("index.before-commit")
            tx.exec_driver_sql("COMMIT")
            failpoints.reach("index.committed")
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _flush_at_commit(self, tx: Transaction, durable: bool) -> None:
        if self._flushes is not durable:
            tx.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._flushes = durable

    def _drop(self, connection: Transaction | None) -> None:
        """Close a connection whose transaction may be half done; SQLite then takes the half back."""
        self._flushes = True  # as every new connection does
        if connection is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError, sqlite3.Error):
                connection.invalidate()
                connection.close()

    @staticmethod
    def _deliver(batch: list[_Job]) -> None:
        def deliver_all(jobs: list[_Job]) -> None:
            for job in jobs:
                job.deliver()

        for loop in {job.loop for job in batch}:
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(deliver_all, [job for job in batch if job.loop is loop])

    def close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        self._writer.join(30)
        self._reader.close()
        self._engine.dispose()
        os.close(self._turn)


def _run_job(tx: Transaction, job: _Job) -> None:
    """Run one job in a savepoint; its own error is its own, the database's is the batch's."""
    tx.exec_driver_sql("SAVEPOINT job")
    try:
        job.result = job.function(tx, *job.args, **job.kwargs)
    except sa.exc.OperationalError:
        raise
    except Exception as error:
        job.error = error
        tx.exec_driver_sql("ROLLBACK TO job")
    tx.exec_driver_sql("RELEASE job")
