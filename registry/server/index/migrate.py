"""Bring a database to the schema that this release knows. The steps are in migrations/versions.

Alembic is slow to import, so only a database that needs a step loads it; a file's name begins with its step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from registry.oci.errors import ConfigurationError
from registry.server.index.engine import database_faults_are_answers, sqlite_engine

if TYPE_CHECKING:
    from alembic.config import Config


def migrations_directory() -> Path:
    """Where the steps are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _config(connection: sa.Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate_sqlite(path: Path) -> tuple[str | None, str]:
    """Create or upgrade the file *path*; processes that start together take turns.

    Returns the schema before and after. Raises ConfigurationError when a later release has written it, and when
    it is no database.
    """
    turn = os.open(path.with_name(path.name + ".turn"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with administering_sqlite(path) as connection:
            return upgrade(connection)
    finally:
        os.close(turn)


@contextlib.contextmanager
def administering_sqlite(path: Path) -> Iterator[sa.Connection]:
    """A connection to the file *path* for somebody at a command line, to whom faults are told in words."""
    engine = sqlite_engine(path)
    try:
        with database_faults_are_answers(), engine.connect() as connection:
            yield connection
    except sa.exc.DatabaseError as error:
        if getattr(error.orig, "sqlite_errorname", "") in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise ConfigurationError(f"{path} is damaged, or no index at all: {error.orig}") from None
        raise
    finally:
        engine.dispose()


def migrate_postgres(url: str) -> tuple[str | None, str]:
    """Create or upgrade the tables of a database; those who ask at once take turns. Safe to repeat.

    Returns the schema before and after. Raises ConfigurationError when a later release has written it, when
    the database cannot be reached, and when its tables are in use for so long that nothing could be changed.
    """
    with administering(url) as connection:
        return upgrade(connection)


def require_schema(url: str) -> None:
    """Raise ConfigurationError, with what to do about it, unless a database has this release's schema."""
    with administering(url) as connection:
        present, head = revisions(connection)
    if present == head:
        return
    if present is not None and not is_known(present):
        raise ConfigurationError(_from_the_future(present))
    found = "is empty" if present is None else f"has schema {present}"
    raise ConfigurationError(f"the database {found}, this release needs schema {head}; run: hythe admin migrate")


@contextlib.contextmanager
def administering(url: str) -> Iterator[sa.Connection]:
    """A connection for somebody at a command line, to whom faults are told in words."""
    from registry.server.index.postgres_connect import postgres_engine  # slow to import, both
    from registry.server.index.postgres_faults import answer_to

    engine = postgres_engine(url)
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql("SHOW server_encoding").scalar() != "UTF8":
                raise ConfigurationError("index.url: the database's encoding must be UTF8")
            yield connection
    except sa.exc.DBAPIError as error:
        if answer_to(error) is None:
            raise
        where = engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
        raise ConfigurationError(f"index.url: {where}: {str(error.orig).strip()}") from error
    finally:
        engine.dispose()


def revisions(connection: sa.Connection) -> tuple[str | None, str]:
    """The schema that a database has, and the one of this release."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None, max(_steps())
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar(), max(_steps())


def is_known(revision: str) -> bool:
    """Whether this release knows a schema."""
    return revision in _steps()


def _steps() -> set[str]:
    return {path.name.partition("_")[0] for path in (migrations_directory() / "versions").glob("[0-9]*_*.py")}


def _from_the_future(revision: str) -> str:
    return (
        f"the index has schema {revision!r}, which this release does not know; "
        "start the release that wrote it, or a later one"
    )


# Any number that no other program on the same database uses for its own advisory lock.
_MIGRATION_LOCK = 0x6879746865

BEGIN = {
    "sqlite": ("BEGIN IMMEDIATE",),
    # Waiting for a table in use keeps all others from it, so that is given up soon; an index may take long.
    "postgresql": (
        "BEGIN READ WRITE",
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})",
        "SET LOCAL lock_timeout = '10s'",
    ),
}


def upgrade(connection: sa.Connection, to: str = "head") -> tuple[str | None, str]:
    """Run the steps that are missing, all in one transaction; returns the schema before and after.

    With *to*, only up to there, in a database that has none yet.
    """
    present, head = revisions(connection)
    if present == head or (to != "head" and present is not None):
        return present, head
    from alembic import command
    from alembic.util.exc import CommandError

    for statement in BEGIN[connection.dialect.name]:
        connection.exec_driver_sql(statement)
    try:
        present, head = revisions(connection)  # another process may have run them while this one waited
        command.upgrade(_config(connection), to)
    except CommandError as error:
        connection.exec_driver_sql("ROLLBACK")
        if present is not None and not is_known(present):
            raise ConfigurationError(_from_the_future(present)) from error
        raise
    except BaseException:
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
    return present, head
