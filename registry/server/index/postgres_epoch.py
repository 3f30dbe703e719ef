"""The epoch of an index on PostgreSQL, asked from the event loop over a connection of its own."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import errors, pq

from registry.oci.errors import Unavailable
from registry.server.index import changes
from registry.server.index.postgres_connect import CONNECT, CONNECT_SECONDS, SESSION
from registry.server.index.postgres_faults import answer_to, because_of

_EPOCH_SECONDS: Final = 5.0


class Epochs:
    """Answers to "what is the epoch now?", one query for all who asked before it was sent."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._waiting: list[asyncio.Future[int]] = []
        self._answering: asyncio.Task[None] | None = None
        self._line: Line | None = None
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
                async with asyncio.timeout(_EPOCH_SECONDS + CONNECT_SECONDS * is_new):
                    if self._line is None:
                        self._line = await Line.open(self._engine)
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
            future.set_exception(because_of(answer or error, error))


class Line:
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
    async def open(cls, engine: sa.Engine) -> Line:
        """Connect and prepare."""
        positional, named = engine.dialect.create_connect_args(engine.url)
        named = {**CONNECT, **named, "autocommit": True}
        connection = await psycopg.AsyncConnection.connect(*positional, **named)
        try:
            query = str(changes.COUNT.compile(dialect=engine.dialect))
            # One round trip each, once for a connection's life; the event loop can bear it.
            await connection.execute(SESSION)
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
