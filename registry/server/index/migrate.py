"""Bring a database to the schema that this release knows. The steps are in migrations/versions."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from registry.oci.errors import ConfigurationError
from registry.server.index.engine import database_faults_are_answers, sqlite_engine


def migrations_directory() -> Path:
    """Where the steps are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate_sqlite(path: Path) -> None:
    """Create or upgrade the file *path*; processes that start together take turns.

    Raises ConfigurationError when a later release has written it.
    """
    turn = os.open(path.with_name(path.name + ".turn"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    engine = sqlite_engine(path)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with database_faults_are_answers(), engine.connect() as connection:
            upgrade(connection)
    finally:
        engine.dispose()
        os.close(turn)


def upgrade(connection: sa.Connection) -> None:
    """Run the steps that are missing, all in one transaction where the database can."""
    config = _config(connection)
    head = ScriptDirectory.from_config(config).get_current_head()
    present = MigrationContext.configure(connection).get_current_revision()
    if present == head:
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        connection.exec_driver_sql("ROLLBACK")
        raise ConfigurationError(
            f"the index has schema {present!r}, which this release does not know ({error}); "
            "start the release that wrote it, or a later one"
        ) from None
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
