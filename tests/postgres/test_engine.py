"""What is PostgreSQL's alone: connections, retries, lost answers, and how the epoch is asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, ParameterInvalid, Unavailable
from registry.oci.reference import Repository, Tag
from registry.server.index import changes, manifests, names, postgres_crew, postgres_epoch, schema, tags
from registry.server.index.engine import Transaction
from registry.server.index.postgres import PostgresIndex
from registry.server.index.postgres_connect import postgres_engine
from tests.postgres.test_contract import dangling, document, put
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy

WEB = Repository.parse("team/web")
Work = Callable[[Transaction], Any]


@pytest.fixture
def name(postgres: Postgres) -> str:
    """The name of a database of the test's own."""
    return postgres.database()


@pytest.fixture
def index(postgres: Postgres, name: str) -> Iterator[PostgresIndex]:
    opened = PostgresIndex(postgres.url(name), 4)
    yield opened
    opened.close()


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    running = Proxy(postgres.port)
    yield running
    running.close()


@pytest.fixture
def through(postgres: Postgres, name: str, proxy: Proxy) -> Iterator[PostgresIndex]:
    """The same database over a proxy."""
    opened = PostgresIndex(postgres.url(name, proxy.port), 4)
    yield opened
    proxy.thaw()
    opened.close()


def count_repositories(tx: Transaction) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(schema.repository)).scalar_one())


def says(tx: Transaction, setting: str) -> str:
    return str(tx.exec_driver_sql(f"SHOW {setting}").scalar())


class TestTransactions:
    def test_a_read_cannot_write(self, index: PostgresIndex) -> None:
        async def run() -> None:
            with pytest.raises(sa.exc.DBAPIError, match="read-only"):
                await index.read(names.find_or_add, WEB)
            await index.write(names.find_or_add, WEB)

        asyncio.run(run())

    def test_a_write_is_flushed_and_a_note_is_not_whatever_the_database_does_by_default(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        postgres.execute(name, f"ALTER DATABASE {name} SET synchronous_commit = off")

        async def run() -> None:
            assert await index.note(says, "synchronous_commit") == "off"
            assert await index.write(says, "synchronous_commit") == "on"

        asyncio.run(run())

    def test_a_stricter_promise_of_the_database_stays(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        postgres.execute(name, f"ALTER DATABASE {name} SET synchronous_commit = remote_apply")
        assert asyncio.run(index.write(says, "synchronous_commit")) == "remote_apply"

    def test_one_that_goes_on_after_an_error_is_undone(self, index: PostgresIndex) -> None:
        def swallow(tx: Transaction) -> str:
            names.find_or_add(tx, WEB)
            try:
                tx.exec_driver_sql("SELECT 1/0")
            except sa.exc.DBAPIError:
                return "fine"
            return "?"

        async def run() -> None:
            with pytest.raises(sa.exc.InvalidRequestError, match="undone"):
                await index.write(swallow)
            assert await index.read(names.find, WEB) is None

        asyncio.run(run())

    def test_two_that_lock_each_other_out_both_succeed(self, index: PostgresIndex) -> None:
        runs: list[str] = []

        async def run() -> None:
            both = asyncio.Barrier(2)
            loop = asyncio.get_running_loop()

            def lock(tx: Transaction, first: str, second: str) -> None:
                runs.append(first)
                tx.exec_driver_sql(f"UPDATE repository SET created_ms = 1 WHERE name = '{first}'")
                if len(runs) <= 2:
                    asyncio.run_coroutine_threadsafe(both.wait(), loop).result(10)  # type: ignore[arg-type]
                tx.exec_driver_sql(f"UPDATE repository SET created_ms = 2 WHERE name = '{second}'")

            for wanted in ("a/a", "b/b"):
                await index.write(names.find_or_add, Repository.parse(wanted))
            await asyncio.gather(index.write(lock, "a/a", "b/b"), index.write(lock, "b/b", "a/a"))

        asyncio.run(run())
        assert len(runs) == 3

    def test_a_duplicate_that_stays_one_is_told_after_a_few_tries(self, index: PostgresIndex) -> None:
        runs = []

        def add(tx: Transaction) -> None:
            runs.append(1)
            tx.execute(schema.repository.insert(), {"name": "a/a", "created_ms": 1})

        async def run() -> None:
            await index.write(add)
            with pytest.raises(sa.exc.IntegrityError):
                await index.write(add)
            await index.write(names.find_or_add, WEB)

        asyncio.run(run())
        assert 2 < len(runs) < 6

    def test_a_statement_that_takes_too_long_is_ended(self, index: PostgresIndex) -> None:
        def sleep(tx: Transaction) -> None:
            tx.exec_driver_sql("SET LOCAL statement_timeout = '100ms'")
            tx.exec_driver_sql("SELECT pg_sleep(20)")

        async def run() -> None:
            with pytest.raises(Unavailable):
                await index.write(sleep)
            assert await index.read(says, "statement_timeout") == "15s"

        asyncio.run(run())

    def test_what_a_text_cannot_hold_is_the_clients_fault(self, index: PostgresIndex) -> None:
        with pytest.raises(ParameterInvalid):
            asyncio.run(index.read(names.page, "", 10, "a\0b"))

    @pytest.mark.parametrize("url", ["postgresql://host:port/x", "postgresql://h/x?connect_timeout=1&port=x:y"])
    def test_an_address_that_is_none_is_told_without_a_password(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match=r"index\.url"):
            postgres_engine(url).connect()


class TestLocks:
    """Each test stops one transaction before its commit, and begins another one beside it."""

    async def _beside(
        self, postgres: Postgres, name: str, index: PostgresIndex, first: Work, second: Work
    ) -> tuple[Any, Any]:
        """Run *first* up to its commit, then *second* as far as it comes, then let both go on."""
        came_far, may_commit = threading.Event(), threading.Event()

        def stop_before_commit(tx: Transaction) -> Any:
            result = first(tx)
            came_far.set()
            may_commit.wait(10)
            return result

        one = asyncio.ensure_future(index.write(stop_before_commit))
        await asyncio.to_thread(came_far.wait, 10)
        other = asyncio.ensure_future(index.write(second))
        waits = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"
        async with asyncio.timeout(10):
            while not other.done() and not postgres.execute("postgres", waits):
                await asyncio.sleep(0.01)
        may_commit.set()
        return await one, await other

    def test_a_removal_sees_the_tags_of_a_push_that_was_there_first(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        made = document()

        async def run() -> None:
            await put(index, made)
            _, removed = await self._beside(
                postgres,
                name,
                index,
                lambda tx: manifests.put(tx, WEB, *made, [Tag("late")]),
                lambda tx: manifests.remove(tx, WEB, made[0].digest),
            )
            assert removed
            assert await dangling(index) == []
            assert await index.read(tags.page, WEB, "", 10) == []

        asyncio.run(run())

    def test_a_push_puts_back_what_a_removal_that_was_there_first_took(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        made = document()

        async def run() -> None:
            await put(index, made)
            await self._beside(
                postgres,
                name,
                index,
                lambda tx: manifests.remove(tx, WEB, made[0].digest),
                lambda tx: manifests.put(tx, WEB, *made, [Tag("late")]),
            )
            assert await index.read(manifests.get, WEB, Tag("late")) == made[0]

        asyncio.run(run())

    def test_a_tag_that_is_moved_back_has_moved_twice(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        old, new = document("old"), document("new")

        async def run() -> None:
            await put(index, old, "latest")
            before = await index.epoch()
            moved = await self._beside(
                postgres,
                name,
                index,
                lambda tx: manifests.put(tx, WEB, *new, [Tag("latest")]),
                lambda tx: manifests.put(tx, WEB, *old, [Tag("latest")]),
            )
            assert moved == (["latest"], ["latest"])
            assert await index.epoch() == before + 2

        asyncio.run(run())

    def test_pushes_and_removals_in_any_order_never_lock_each_other_out(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        async def run() -> None:
            made = [document(str(number)) for number in range(4)]
            wanted = ["a", "b", "c", "d"]
            for _ in range(40):
                await asyncio.gather(
                    put(index, made[0], *wanted),
                    put(index, made[1], *reversed(wanted)),
                    index.write(manifests.remove, WEB, made[0][0].digest),
                    index.write(manifests.remove, WEB, made[1][0].digest),
                )

        asyncio.run(run())
        found = postgres.execute("postgres", f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'")
        assert found == [(0,)]

    def test_nobody_waits_for_another_ones_mark(self, postgres: Postgres, name: str, index: PostgresIndex) -> None:
        with psycopg.connect(postgres.url(name)) as other:
            other.execute("UPDATE change SET count = count + 1")

            async def run() -> None:
                async with asyncio.timeout(5):
                    before = await index.epoch()
                    await asyncio.gather(*(index.write(changes.mark) for _ in range(20)))
                    assert await index.epoch() == before + 20
                    other.commit()
                    assert await index.epoch() == before + 21

            asyncio.run(run())


class TestConnections:
    def test_there_are_never_more_than_the_pool_is_large_and_none_after_the_end(
        self, postgres: Postgres, name: str
    ) -> None:
        index = PostgresIndex(postgres.url(name), 3)

        async def run() -> int:
            await index.epoch()
            jobs = [index.read(lambda tx: tx.exec_driver_sql("SELECT pg_sleep(0.02)").scalar()) for _ in range(30)]
            await asyncio.gather(*jobs)
            return postgres.connections(name)

        assert asyncio.run(run()) == 4
        index.close()
        _wait_until(lambda: postgres.connections(name) == 0)

    def test_one_request_at_a_time_needs_one_connection(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        async def run() -> None:
            for _ in range(20):
                await index.read(count_repositories)

        asyncio.run(run())
        assert postgres.connections(name) == 1

    def test_connections_that_were_idle_for_long_are_given_back(
        self, postgres: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_crew, "_IDLE_SECONDS", 0.05)
        index = PostgresIndex(postgres.url(name), 4)

        async def run() -> None:
            await asyncio.gather(*(index.read(count_repositories) for _ in range(30)))
            _wait_until(lambda: postgres.connections(name) == 0)
            assert await index.read(count_repositories) == 0

        asyncio.run(run())
        index.close()

    def test_a_restart_between_two_requests_is_not_noticed(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        async def run() -> None:
            await asyncio.gather(*(index.read(count_repositories) for _ in range(20)))
            before = await index.epoch()
            for _ in range(3):
                postgres.cut_off(name)
                assert await index.read(names.find, WEB) is None
                postgres.cut_off(name)
                await index.write(changes.mark)
                postgres.cut_off(name)
                assert await index.epoch() > before
            await asyncio.gather(*(index.write(names.find_or_add, WEB) for _ in range(20)))

        asyncio.run(run())

    def test_a_connection_that_breaks_before_the_commit_is_not_noticed(
        self, through: PostgresIndex, proxy: Proxy
    ) -> None:
        cuts = [b"INSERT INTO repository", b"FROM repository"]

        def once(piece: bytes) -> bool:
            if cuts and cuts[0] in piece:
                cuts.pop(0)
                return True
            return False

        async def run() -> None:
            proxy.cuts_before = once
            await through.write(names.find_or_add, WEB)
            assert not cuts
            assert await through.read(count_repositories) == 1

        asyncio.run(run())

    @pytest.mark.parametrize("arrives", [True, False])
    def test_a_commit_whose_answer_is_lost_is_told_as_503_and_not_repeated(
        self, postgres: Postgres, name: str, through: PostgresIndex, proxy: Proxy, arrives: bool
    ) -> None:
        def add(tx: Transaction) -> None:
            tx.execute(schema.attempt.insert(), {"key": "k", "failures": 1, "until_ms": 0, "touched_ms": 0})

        async def run() -> None:
            await through.read(count_repositories)
            if arrives:
                proxy.cuts_after = lambda piece: b"COMMIT\0" in piece
            else:
                proxy.cuts_before = lambda piece: b"COMMIT\0" in piece
            with pytest.raises(Unavailable):
                await through.write(add)
            proxy.cuts_after = proxy.cuts_before = lambda piece: False
            assert await through.read(count_repositories) == 0

        asyncio.run(run())
        _wait_until(lambda: len(postgres.execute(name, "SELECT * FROM attempt")) == int(arrives))

    def test_one_that_hangs_is_cut_off_and_the_others_go_on(
        self,
        postgres: Postgres,
        name: str,
        through: PostgresIndex,
        proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(postgres_crew, "_TRANSACTION_SECONDS", 0.5)
        monkeypatch.setattr(postgres_epoch, "_EPOCH_SECONDS", 0.5)
        monkeypatch.setattr(postgres_epoch, "CONNECT_SECONDS", 0.5)

        async def run() -> None:
            await asyncio.gather(*(through.read(count_repositories) for _ in range(20)), through.epoch())
            proxy.freeze()
            began = time.monotonic()
            asked = [through.read(count_repositories) for _ in range(10)]
            outcomes = await asyncio.gather(*asked, through.epoch(), through.epoch(), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * 12
            assert time.monotonic() - began < 5
            proxy.cut()
            proxy.thaw()
            async with asyncio.timeout(20):
                while await _is_unavailable(through):
                    await asyncio.sleep(0.05)
            await asyncio.gather(*(through.read(count_repositories) for _ in range(20)), through.epoch())

        asyncio.run(run())
        assert postgres.connections(name) <= 5

    def test_while_nobody_answers_everybody_is_told_so_at_once(self, through: PostgresIndex, proxy: Proxy) -> None:
        async def run() -> None:
            await through.read(count_repositories)
            proxy.refuse()
            for _ in range(3):
                began = time.monotonic()
                asked = [*(through.read(count_repositories) for _ in range(100)), through.epoch()]
                outcomes = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
                assert time.monotonic() - began < 2
            proxy.accept()
            async with asyncio.timeout(5):
                while await _is_unavailable(through):
                    await asyncio.sleep(0.02)
            await through.epoch()

        asyncio.run(run())


class TestEpoch:
    def test_one_query_serves_all_who_wait(self, through: PostgresIndex, proxy: Proxy) -> None:
        seen: list[bytes] = []

        async def run() -> None:
            await through.epoch()
            proxy.sees = seen.append
            await asyncio.gather(*(through.epoch() for _ in range(500)))

        asyncio.run(run())
        assert len(seen) <= 2

    def test_who_comes_while_a_query_is_under_way_is_not_told_its_answer(
        self, postgres: Postgres, name: str, through: PostgresIndex, proxy: Proxy
    ) -> None:
        """The query may have looked before the change that the late one has to be told of."""
        seen: list[bytes] = []

        async def run() -> None:
            before = await through.epoch()
            proxy.sees = seen.append
            proxy.freeze(requests=False, answers=True)
            early = asyncio.ensure_future(through.epoch())
            async with asyncio.timeout(10):
                while not seen:
                    await asyncio.sleep(0.01)
                # Its answer is on the way when nothing of this database is at work any more.
                while postgres.execute(
                    "postgres",
                    f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND state <> 'idle'",
                ):
                    await asyncio.sleep(0.01)
            postgres.execute(name, "UPDATE change SET count = count + 1")
            late = asyncio.ensure_future(through.epoch())
            await asyncio.sleep(0)
            proxy.thaw()
            assert await early == before
            assert await late == before + 1

        asyncio.run(run())

    def test_it_moves_when_a_database_has_lost_changes(
        self, postgres: Postgres, name: str, index: PostgresIndex
    ) -> None:
        async def run() -> None:
            await index.write(changes.mark)
            await index.write(changes.mark)
            before = await index.epoch()
            postgres.execute(name, "UPDATE change SET count = 0")
            fallen = await index.epoch()
            assert fallen > before
            postgres.execute(name, "UPDATE change SET count = 2 WHERE id = 1")
            assert await index.epoch() > fallen
            postgres.cut_off(name)
            assert await index.epoch() > before

        asyncio.run(run())

    def test_a_caller_who_goes_away_disturbs_nobody(self, index: PostgresIndex) -> None:
        async def run() -> None:
            asked = [asyncio.ensure_future(index.epoch()) for _ in range(20)]
            await asyncio.sleep(0)
            for task in asked[::2]:
                task.cancel()
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(outcome, int) for outcome in outcomes) == 10

        asyncio.run(run())


class TestQueries:
    """The plans of the queries that every request makes: an index each, in the order of bytes."""

    @pytest.mark.parametrize(
        ("statement", "values"),
        [
            (names._FIND, {"name": WEB}),
            (tags._HOLD, {"row_repository_id": 1, "row_name": Tag("latest")}),
            (manifests._BY_TAG, {"repository": WEB, "tag": Tag("latest")}),
            (manifests._BY_DIGEST, {"repository": WEB, "digest": Digest.of(b"")}),
        ],
    )
    def test_they_scan_no_table(self, index: PostgresIndex, statement: sa.Select[Any], values: Any) -> None:
        def explain(tx: Transaction) -> str:
            tx.exec_driver_sql("SET LOCAL enable_seqscan = off")
            text = str(statement.compile(dialect=tx.dialect))
            rows = tx.connection.driver_connection.execute(f"EXPLAIN {text}", values)  # type: ignore[union-attr]
            return "\n".join(row[0] for row in rows)

        assert "Seq Scan" not in asyncio.run(index.write(explain))


def _wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def _is_unavailable(index: PostgresIndex) -> bool:
    try:
        await index.read(count_repositories)
    except Unavailable:
        return True
    return False
