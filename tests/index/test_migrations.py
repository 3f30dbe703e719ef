"""Migrations: the steps make exactly the tables of schema.py, whoever runs them, and however often."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry.oci.errors import ConfigurationError
from registry.server.index import migrate, schema
from registry.server.index.engine import sqlite_engine
from registry.server.index.migrate import migrate_sqlite
from tests.index import elsewhere

STEPS = Path(__file__).parents[2] / "migrations"


def ask(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def tables(path: Path) -> list[str]:
    return [name for (name,) in ask(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]


def form(path: Path) -> dict[str, Any]:
    """Everything that SQLite knows of the tables that schema.py has, in the words of its pragmas."""
    found: dict[str, Any] = {}
    for table in schema.metadata.tables:
        [(_, _, _, columns, without_rowid, strict)] = ask(path, f"PRAGMA table_list({table})")
        [(created,)] = ask(path, f"SELECT sql FROM sqlite_master WHERE name = '{table}'")
        indexes = {
            (name if origin == "c" else origin): (
                unique,
                partial,
                [row[1:] for row in ask(path, f"PRAGMA index_xinfo({name})")],
            )
            for _, name, unique, origin, partial in ask(path, f"PRAGMA index_list({table})")
        }
        found[table] = {
            "columns": sorted(row[1:] for row in ask(path, f"PRAGMA table_xinfo({table})")),
            "number of columns": columns,
            "without rowid": without_rowid,
            "strict": strict,
            "autoincrement": "AUTOINCREMENT" in created.upper(),
            "constraints": sorted(re.findall(r"CONSTRAINT (\w+) UNIQUE", created)),
            "indexes": indexes,
            "foreign keys": ask(path, f"PRAGMA foreign_key_list({table})"),
        }
    return found


class TestSteps:
    def test_they_make_the_tables_that_alembic_finds_in_the_schema(self, path: Path) -> None:
        engine = sqlite_engine(path)
        with engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, schema.metadata) == []
        engine.dispose()

    def test_they_make_what_sqlite_would_make_of_the_schema(self, path: Path, tmp_path: Path) -> None:
        """Alembic compares neither collations nor WITHOUT ROWID nor AUTOINCREMENT."""
        direct = tmp_path / "direct.sqlite3"
        engine = sqlite_engine(direct)
        schema.metadata.create_all(engine)
        engine.dispose()
        assert form(path) == form(direct)
        assert set(tables(path)) - set(tables(direct)) == {"alembic_version"}

    def test_the_counter_of_changes_is_there(self, path: Path) -> None:
        assert ask(path, "SELECT * FROM change") == [(1, 0)]

    def test_running_them_again_changes_nothing(self, path: Path) -> None:
        before = ask(path, "SELECT * FROM sqlite_master")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO repository VALUES (7, 'team/web', 0)")
        for _ in range(3):
            migrate_sqlite(path)
        assert ask(path, "SELECT * FROM sqlite_master") == before
        assert ask(path, "SELECT * FROM repository") == [(7, "team/web", 0)]

    def test_a_path_may_have_any_characters(self, tmp_path: Path) -> None:
        path = tmp_path / "50% of, “all” ?#&= ä" / "index.sqlite3"
        path.parent.mkdir()
        migrate_sqlite(path)
        assert "repository" in tables(path)


class TestStrangeDatabases:
    def test_one_of_a_later_release_is_refused_in_a_sentence_and_left_alone(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999_future'")
            connection.execute("CREATE TABLE of_the_future (x)")
        before = list(sqlite3.connect(path).iterdump())
        with pytest.raises(ConfigurationError) as raised:
            migrate_sqlite(path)
        assert "'9999_future'" in str(raised.value)
        assert "later" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert list(sqlite3.connect(path).iterdump()) == before

    def test_a_step_that_fails_takes_all_before_it_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, steps = tmp_path / "index.sqlite3", tmp_path / "migrations"
        shutil.copytree(STEPS, steps, ignore=shutil.ignore_patterns("__pycache__"))
        head = max(step.stem[:4] for step in (steps / "versions").glob("[0-9]*.py"))
        (steps / "versions" / "9999_broken.py").write_text(
            f"from alembic import op\nrevision, down_revision = '9999', {head!r}\n"
            "def upgrade():\n    op.execute('CREATE TABLE half (x)')\n    op.execute('nonsense')\n"
        )
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "migrations_directory", lambda: steps)
            with pytest.raises(Exception, match=r"nonsense|cannot answer"):
                migrate_sqlite(path)
        assert tables(path) == []
        migrate_sqlite(path)
        assert "repository" in tables(path)

    def test_an_index_of_each_earlier_step_is_brought_to_the_last(
        self, tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = sorted((STEPS / "versions").glob("[0-9]*.py"))
        for count in range(1, len(steps)):
            some = tmp_path / f"first{count}"
            shutil.copytree(STEPS, some, ignore=shutil.ignore_patterns("__pycache__"))
            for later in steps[count:]:
                (some / "versions" / later.name).unlink()
            path = tmp_path / f"{count}.sqlite3"
            with monkeypatch.context() as patch:
                patch.setattr(migrate, "migrations_directory", lambda some=some: some)
                migrate_sqlite(path)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("INSERT INTO repository (id, name, created_ms) VALUES (7, 'team/web', 0)")
            migrate_sqlite(path)
            assert form(path) == form(migrated)
            assert ask(path, "SELECT id, name FROM repository") == [(7, "team/web")]


@pytest.fixture
def processes() -> Iterator[Any]:
    """The way to start processes that share nothing with this one."""
    context = multiprocessing.get_context("spawn")
    yield context
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def test_the_steps_are_known_by_the_names_of_their_files(migrated: Path) -> None:
    steps = ScriptDirectory(str(STEPS))
    assert steps.get_heads() == [max(migrate._steps())]
    assert {step.revision for step in steps.walk_revisions()} == migrate._steps()
    with migrate.administering_sqlite(migrated) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        assert migrate.revisions(connection) == (found, found)


def test_a_start_on_an_index_of_this_release_loads_no_alembic(migrated: Path) -> None:
    words = "import sys; from pathlib import Path; from registry.server.index.migrate import migrate_sqlite; "
    words += f"print(migrate_sqlite(Path({str(migrated)!r})), 'alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(") False\n")


def test_processes_that_start_together_take_turns(tmp_path: Path, processes: Any, migrated: Path) -> None:
    path = tmp_path / "index.sqlite3"
    together = processes.Barrier(4)
    started = [processes.Process(target=elsewhere.migrate, args=(path, together)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0, 0, 0]
    assert form(path) == form(migrated)
    assert ask(path, "SELECT * FROM change") == [(1, 0)]


def test_every_table_has_a_primary_key_and_every_index_a_name() -> None:
    for table in schema.metadata.tables.values():
        assert list(table.primary_key.columns), table.name
        assert all(index.name for index in table.indexes), table.name
        assert all(isinstance(index, sa.Index) for index in table.indexes)
