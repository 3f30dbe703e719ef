"""The tables: who makes them, when, and what a server says that finds others."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from registry.oci.errors import ConfigurationError
from registry.server.index.migrate import migrate_postgres, require_schema
from registry.server.index.postgres_connect import postgres_engine
from registry.server.index.schema import metadata
from tests.conftest import MakeServer
from tests.support.postgres import Postgres


def hythe(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, with a database's address in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "registry", *words],
        env={**os.environ, "HYTHE_INDEX_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def empty(postgres: Postgres) -> str:
    """The address of a database without tables."""
    return postgres.url(postgres.empty_database())


def test_the_steps_make_exactly_the_tables_of_the_schema(empty: str) -> None:
    migrate_postgres(empty)
    engine = postgres_engine(empty)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        made = sa.inspect(connection)
        for table in metadata.sorted_tables:
            collations = {
                column["name"]: getattr(column["type"], "collation", None)
                for column in made.get_columns(table.name)
            }
            for column in table.columns:
                wanted = getattr(column.type.dialect_impl(connection.dialect), "collation", None)
                assert collations[column.name] == wanted, f"{table.name}.{column.name}"


def test_the_command_makes_the_tables_and_may_be_repeated(empty: str) -> None:
    first, second = hythe(empty, "admin", "migrate"), hythe(empty, "admin", "migrate")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "had no tables" in first.stdout
    assert "already" in second.stdout
    require_schema(empty)


def test_those_who_migrate_at_once_take_turns(empty: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda _: migrate_postgres(empty), range(6)))
    assert [before for before, _ in outcomes].count(None) == 1
    assert len({after for _, after in outcomes}) == 1


def test_a_server_refuses_a_database_without_tables_and_says_what_to_run(
    empty: str, make_server: MakeServer
) -> None:
    server = make_server(start=False, index={"url": empty})
    with pytest.raises(AssertionError, match="the server ended with 1"):
        server.start()
    assert "run: hythe admin migrate" in server.log()
    assert "Traceback" not in server.log()


def test_a_server_refuses_a_schema_of_a_later_release(postgres: Postgres, make_server: MakeServer) -> None:
    name = postgres.database()
    postgres.execute(name, "UPDATE alembic_version SET version_num = '9999'")
    server = make_server(start=False, index={"url": postgres.url(name)})
    with pytest.raises(AssertionError, match="the server ended with 1"):
        server.start()
    assert "'9999', which this release does not know" in server.log()
    migrated = hythe(postgres.url(name), "admin", "migrate")
    assert migrated.returncode == 1
    assert "does not know" in migrated.stderr


def test_a_server_that_finds_no_database_says_so_without_the_password(
    postgres: Postgres, make_server: MakeServer
) -> None:
    url = f"postgresql://hythe:s3cret@127.0.0.1:{postgres.port}/absent"
    server = make_server(start=False, index={"url": url})
    with pytest.raises(AssertionError, match="the server ended with 1"):
        server.start()
    assert 'database "absent" does not exist' in server.log()
    assert "s3cret" not in server.log()


def test_a_database_in_another_encoding_is_refused(postgres: Postgres) -> None:
    postgres.execute(
        "postgres",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C'",
    )
    with pytest.raises(ConfigurationError, match="UTF8"):
        migrate_postgres(postgres.url("latin"))


def test_a_step_that_fails_leaves_nothing_behind(postgres: Postgres) -> None:
    name = postgres.empty_database()
    postgres.execute(name, "CREATE TABLE lease (name text)")
    with pytest.raises(sa.exc.ProgrammingError):
        migrate_postgres(postgres.url(name))
    tables = postgres.execute(name, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert tables == [("lease",)]
    postgres.execute(name, "DROP TABLE lease")
    migrate_postgres(postgres.url(name))


def test_the_embedded_index_is_migrated_by_the_same_command(tmp_path: Path) -> None:
    done = hythe(f"sqlite:///{tmp_path}/index.sqlite3", "admin", "migrate")
    assert done.returncode == 0, done.stderr
    assert "had no tables" in done.stdout
