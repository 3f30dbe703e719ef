"""The threads in which PostgreSQL's transactions run, each over a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import pq

from registry import failpoints
from registry.oci.errors import Unavailable
from registry.server.index.engine import Transaction
from registry.server.index.postgres_connect import Door, Raw, tell
from registry.server.index.postgres_faults import Again, because_of, is_demoted, verdict

T = TypeVar("T")

_TRANSACTION_SECONDS: Final = 30.0  # waiting for a connection included; then the client is told 503
_IDLE_SECONDS: Final = 300.0


@dataclass(slots=True, eq=False)
class Job:
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


class Crew:
    """Up to *size* threads; the one that was idle for the shortest time gets the next job."""

    def __init__(self, door: Door, size: int) -> None:
        self._door = door
        self._size = size
        self._lock = threading.Lock()
        self._idle: list[Hand] = []
        self._hands: list[Hand] = []
        self._waiting: deque[Job] = deque()
        self._closed = False

    def run(
        self, begin: bytes | None, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[T]:
        """Have a transaction run, now or when a thread is free; it is begun by *begin*, if by anything."""
        loop = asyncio.get_running_loop()
        job = Job(begin, function, args, kwargs, loop, loop.create_future())
        self._take(job)
        job.timer = loop.call_later(_TRANSACTION_SECONDS, self._give_up, job)
        return job.future

    def _take(self, job: Job) -> None:
        with self._lock:
            if self._closed:
                raise Unavailable("the registry is stopping")
            if self._idle:
                self._idle.pop().jobs.put(job)
            elif len(self._hands) < self._size:
                hand = Hand(self, self._door)
                self._hands.append(hand)
                hand.jobs.put(job)
                hand.start()
            else:
                self._waiting.append(job)

    def next_for(self, hand: Hand) -> Job | None:
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

    def _give_up(self, job: Job) -> None:
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


class Hand(threading.Thread):
    """A thread, and the connection over which it runs one job after the other."""

    def __init__(self, crew: Crew, door: Door) -> None:
        super().__init__(name="index", daemon=True)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._crew = crew
        self._door = door
        self._tx: Transaction | None = None
        self._lock = threading.Lock()  # on the two below: nobody else's connection may be cut
        self._job: Job | None = None
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

    def cut(self, job: Job) -> None:
        """End the connection's conversation if it is about *job*: who waits for its answer wakes up."""
        with self._lock:
            if self._job is job and self._raw is not None and not self._raw.closed:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._raw.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    def _do(self, job: Job) -> None:
        with self._lock:
            self._job = job
        try:
            job.result = self._try_until_done(job)
        except BaseException as error:
            job.error = error
        with self._lock:
            self._job = None

    def _try_until_done(self, job: Job) -> Any:
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(job)
            except Again as again:
                if tries >= again.tries or job.future.done():
                    raise because_of(again.error, again.__cause__)  # noqa: B904 - its cause is set
                if again.pauses:
                    time.sleep(random.uniform(0.5, 1.5) * 0.002 * 2**tries)  # noqa: S311 - parts the contenders

    def _try(self, job: Job) -> Any:
        """Run a job once. Raises Again when it may be run again."""
        tx, raw = self._connection()
        committing = False
        try:
            if job.begin is None:
                return job.function(tx, *job.args, **job.kwargs)
            tell(raw.pgconn, job.begin)
            result = job.function(tx, *job.args, **job.kwargs)
            if raw.pgconn.transaction_status != pq.TransactionStatus.INTRANS:
                raise sa.exc.InvalidRequestError("the transaction went on after an error, and is undone")
            failpoints.reach("index.before-commit")
            committing = True
            tell(raw.pgconn, b"COMMIT")
            failpoints.reach("index.committed")
            return result
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            lost = self._recover(raw, error)
            raise because_of(verdict(error, lost, committing, job.begin is None), error)  # noqa: B904
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
        if not raw.closed and not is_demoted(error):
            with contextlib.suppress(psycopg.Error):
                if raw.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                    tell(raw.pgconn, b"ROLLBACK")
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
