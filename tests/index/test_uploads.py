"""Uploads in the index: rows that move only from where the request found them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from registry.content.store import Progress
from registry.oci.digest import Digest, Hasher
from registry.oci.reference import Repository
from registry.server.index import uploads
from registry.server.index.names import now_ms
from registry.server.index.schema import upload
from registry.server.index.uploads import Session

TEAM = Repository("team/web")
X = Digest.of(b"x")
MANY = 100


def session(name: str = "id", owner: str = "somebody", **fields: object) -> Session:
    made = Session(name, TEAM, owner, "sha256")
    return replace(made, **fields)  # type: ignore[arg-type]


def added(tx: sa.Connection, name: str = "id", owner: str = "somebody", **fields: object) -> Session:
    made = session(name, owner, **fields)
    assert uploads.add(tx, made, MANY)
    return made


def touched_ms(tx: sa.Connection, name: str) -> int:
    return int(tx.execute(sa.select(upload.c.touched_ms).where(upload.c.id == name)).scalar_one())


def touch(tx: sa.Connection, name: str, moment_ms: int) -> None:
    tx.execute(upload.update().where(upload.c.id == name).values(touched_ms=moment_ms))


class TestGoingOn:
    def test_an_upload_comes_back_as_it_was_recorded(self, tx: sa.Connection) -> None:
        hasher = Hasher("sha512")
        hasher.update(b"x" * 200)
        stored = Progress(2**40, hasher.state(), bytes(range(256)))
        made = added(tx, algorithm="sha512", stored=stored, tail=b"\x00\xff" * 1000)
        assert uploads.get(tx, "id") == made
        assert made.size_bytes == 2**40 + 2000
        assert uploads.get(tx, "other") is None

    def test_it_moves_from_where_it_was_found(self, tx: sa.Connection) -> None:
        first = added(tx)
        assert uploads.advance(tx, first, first.stored, b"tail")
        second = replace(first, tail=b"tail")
        assert uploads.get(tx, "id") == second
        assert uploads.advance(tx, second, Progress(4, b"state", b"parts"), b"")
        third = replace(second, stored=Progress(4, b"state", b"parts"), tail=b"")
        assert uploads.get(tx, "id") == third
        assert uploads.advance(tx, third, Progress(10, b"state 2"), b"tail")

    @pytest.mark.parametrize("moved", [(Progress(), b"12"), (Progress(5), b""), (Progress(2), b"123")])
    def test_it_does_not_move_from_anywhere_else(self, tx: sa.Connection, moved: tuple[Progress, bytes]) -> None:
        was = added(tx)
        stored, tail = moved
        assert uploads.advance(tx, was, stored, tail)
        now = uploads.get(tx, "id")
        assert not uploads.advance(tx, was, Progress(100), b"late")
        assert uploads.get(tx, "id") == now

    def test_of_two_that_found_it_at_the_same_place_one_moves_it(self, tx: sa.Connection) -> None:
        was = added(tx, tail=b"common")
        assert uploads.advance(tx, was, was.stored, b"common and the first")
        assert not uploads.advance(tx, was, was.stored, b"common and the second")
        now = uploads.get(tx, "id")
        assert now is not None
        assert now.tail == b"common and the first"

    def test_neither_a_finished_nor_a_forgotten_one_moves(self, tx: sa.Connection) -> None:
        was = added(tx)
        uploads.finish(tx, "id", X)
        assert not uploads.advance(tx, was, was.stored, b"late")
        uploads.remove(tx, "id")
        assert not uploads.advance(tx, was, was.stored, b"late")
        assert uploads.get(tx, "id") is None

    def test_moving_one_moves_no_other(self, tx: sa.Connection) -> None:
        one, other = added(tx, "one"), added(tx, "other")
        assert uploads.advance(tx, one, one.stored, b"tail")
        assert uploads.get(tx, "other") == other

    def test_every_step_touches_it(self, tx: sa.Connection) -> None:
        was = added(tx)
        began = now_ms()
        for step in (
            lambda: uploads.advance(tx, was, was.stored, b"tail"),
            lambda: uploads.close(tx, "id", X),
            lambda: uploads.finish(tx, "id", X),
        ):
            touch(tx, "id", 0)
            step()
            assert touched_ms(tx, "id") >= began


class TestFinishing:
    def test_a_finished_one_keeps_its_digest_and_no_bytes(self, tx: sa.Connection) -> None:
        added(tx, stored=Progress(5, b"state", b"parts"), tail=b"tail")
        for _ in range(2):
            uploads.finish(tx, "id", X)
            found = uploads.get(tx, "id")
            assert found is not None
            assert found.finished == X
            assert (found.tail, found.stored.hash_state, found.stored.parts) == (b"", b"", b"")

    def test_finishing_or_forgetting_what_is_not_there_is_no_error(self, tx: sa.Connection) -> None:
        other = added(tx, "other")
        uploads.finish(tx, "id", X)
        uploads.remove(tx, "id")
        assert uploads.get(tx, "id") is None
        assert uploads.get(tx, "other") == other


class TestNumber:
    def test_nobody_has_more_open_than_are_allowed(self, tx: sa.Connection) -> None:
        for number in range(3):
            assert uploads.add(tx, session(f"id{number}"), 3)
        assert not uploads.add(tx, session("one too many"), 3)
        assert uploads.get(tx, "one too many") is None
        assert uploads.add(tx, session("another's", "another"), 3)

    @pytest.mark.parametrize("end", ["finished", "forgotten"])
    def test_one_that_is_over_makes_room(self, tx: sa.Connection, end: str) -> None:
        added(tx, "first")
        assert not uploads.add(tx, session("second"), 1)
        if end == "finished":
            uploads.finish(tx, "first", X)
        else:
            uploads.remove(tx, "first")
        assert uploads.add(tx, session("second"), 1)


class TestStale:
    def test_those_untouched_since_a_moment_are_found_each_kind_by_its_own(self, tx: sa.Connection) -> None:
        for name, touched, finished in (
            ("open, old", 100, False),
            ("open, new", 200, False),
            ("finished, older", 20, True),
            ("finished, old", 100, True),
        ):
            added(tx, name)
            if finished:
                uploads.finish(tx, name, X)
            touch(tx, name, touched)
        assert {found.id for found in uploads.stale(tx, 150, 50, 10)} == {"open, old", "finished, older"}
        assert {found.id for found in uploads.stale(tx, 100, 20, 10)} == set()
        assert len(uploads.stale(tx, 1000, 1000, 10)) == 4
        assert len(uploads.stale(tx, 1000, 1000, 3)) == 3

    def test_they_come_whole_so_that_their_bytes_can_be_freed(self, tx: sa.Connection) -> None:
        made = added(tx, stored=Progress(5, b"state", b"parts"), tail=b"tail")
        touch(tx, "id", 0)
        assert uploads.stale(tx, 1, 1, 10) == [made]
