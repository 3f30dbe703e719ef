"""A PostgreSQL server for tests: Debian's, in a directory of its own, on a free port of the loopback address.

It flushes as it does in earnest, and its databases sort by English rules unless a column says otherwise, so
that a forgotten collation is found out. It dies with the process that started it.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from registry.server.index.migrate import migrate_postgres
from tests.support.peers import unavailable
from tests.support.server import free_port

_USER = "hythe"
_TEMPLATE = "migrated"
_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "log_lock_waits": "on",
}


def programs() -> Path:
    """Where Debian keeps the server's programs. Without them the test is skipped, or fails where `CI` is set."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        unavailable("PostgreSQL is not installed (Debian has it in postgresql)")
    return found[-1].parent


def _account() -> pwd.struct_passwd:
    """Who runs the server: it refuses to run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    if not accounts.keys() & {"postgres", "nobody"}:
        unavailable("there is no user to run PostgreSQL as")
    return accounts.get("postgres") or accounts["nobody"]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


class Postgres:
    """One server; `start` it, and it has the databases that it is asked for."""

    def __init__(self) -> None:
        self._programs = programs()
        self._account = _account()
        self.directory = Path(tempfile.mkdtemp(prefix="hythe-postgres-"))
        os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        sorting = ["--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8"]
        self._run(["initdb", "-D", str(self.data), f"--username={_USER}", "--auth=trust", "--no-sync", *sorting])

    @property
    def data(self) -> Path:
        """The cluster's files."""
        return self.directory / "data"

    def _as_account(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            [str(self._programs / command[0]), *command[1:]],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            **self._as_account(),
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"

    # --- its life

    def start(self) -> Postgres:
        """Start it and return when it takes connections."""
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port), *options],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                **self._as_account(),
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"PostgreSQL ended:\n{self.log()}"
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, f"PostgreSQL does not answer:\n{self.log()}"
                time.sleep(0.02)

    def stop(self) -> None:
        """End it in order, cutting its clients off (`pg_ctl stop -m fast`)."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End it as a power cut would: what it had not flushed is gone."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)

    def remove(self) -> None:
        """End it and delete its files."""
        self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """All that it wrote."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- databases

    def url(self, database: str, port: int | None = None) -> str:
        """A database's address, through a proxy's *port* if there is one."""
        return f"postgresql://{_USER}@127.0.0.1:{port or self.port}/{database}"

    def empty_database(self) -> str:
        """The name of a new database without tables."""
        return self._create("template0")

    def database(self) -> str:
        """The name of a new database with the tables of this release."""
        return self._create(self._template)

    @functools.cached_property
    def _template(self) -> str:
        self.execute("postgres", f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
        migrate_postgres(self.url(_TEMPLATE))
        return _TEMPLATE

    def _create(self, template: str) -> str:
        name = f"test{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def execute(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in a database, and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connections(self, database: str) -> int:
        """How many clients have a connection to a database now."""
        statement = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        return int(self.execute("postgres", statement)[0][0])

    def wait_for_no_connections(self, database: str, seconds: float = 30) -> None:
        """Return when the last client of a database is gone, and what it did is counted."""
        deadline = time.monotonic() + seconds
        while self.connections(database):
            assert time.monotonic() < deadline, f"somebody stays connected to {database}"
            time.sleep(0.02)

    def cut_off(self, database: str) -> None:
        """End every connection to a database, as an operator can."""
        self.execute(
            "postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )


@functools.cache
def shared() -> Postgres:
    """The server that all tests share which leave it as they found it; databases are each test's own."""
    running = Postgres()
    atexit.register(running.remove)
    return running.start()
