"""Connections to PostgreSQL: how they are made, what they are told first, and when nobody tries."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import errors, pq
from psycopg.adapt import PyFormat

from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, Unavailable
from registry.oci.reference import Repository, Tag
from registry.server.index.engine import Transaction

log = logging.getLogger("hythe.index")

Raw = psycopg.Connection[Any]

CONNECT_SECONDS: Final = 5
_STATEMENT_SECONDS: Final = 15
_REFUSED_PAUSE_SECONDS: Final = 0.25

# What every connection is told first. An idle one only reads, so that `read` cannot write by mistake, and what
# a vanished or sleeping process holds is let go of soon. `write` promises stable storage, whatever the database's
# own default is; a stricter one (remote_apply) stays.
SESSION: Final = f"""
SET default_transaction_read_only = on;
SET statement_timeout = '{_STATEMENT_SECONDS}s';
SET idle_in_transaction_session_timeout = '{_STATEMENT_SECONDS}s';
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
SET jit = off;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
""".encode()

# How libpq connects, unless the URL says otherwise.
CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_SECONDS,
    "fallback_application_name": "hythe",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def postgres_engine(url: str) -> sa.Engine:
    """An engine whose connections begin and end transactions only when told to, and read until then.

    Raises ConfigurationError when *url* is none.
    """
    try:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        defaults = {name: value for name, value in CONNECT.items() if name not in parsed.query}
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
        tell(connection.pgconn, SESSION)
        # Without these, psycopg looks for a way to write our kinds of str at each parameter anew: 60 µs.
        as_str = connection.adapters.get_dumper(str, PyFormat.AUTO)
        for kind in (Digest, Repository, Tag):
            connection.adapters.register_dumper(kind, as_str)

    return engine


def tell(connection: pq.abc.PGconn, words: bytes) -> None:
    """Run statements without parameters, at a fifth of what the layers above would cost."""
    result = connection.exec_(words)
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise errors.error_from_result(result)


class Door:
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
