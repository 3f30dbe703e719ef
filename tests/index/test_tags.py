"""Tags: each points to one manifest, and lists are in byte order."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import changes, names, tags
from registry.server.index.schema import tag

TEAM, OTHER = Repository("team/web"), Repository("team/other")
X, Y = Digest.of(b"x"), Digest.of(b"y", "sha512")
LATEST = Tag("latest")

IN_ORDER = ["1", "1-b", "1.0", "10", "2", "A", "Z", "_", "a", "a-b", "a.b", "aB", "a_b", "aa", "b"]


def target(tx: sa.Connection, name: Repository, wanted: Tag) -> str | None:
    """Where a tag points; the manifests need not be there."""
    found = sa.select(tag.c.digest).where(tag.c.repository_id == names.find(tx, name), tag.c.name == wanted)
    return tx.execute(found).scalar()


def move(tx: sa.Connection, name: Repository, moved: str, digest: Digest) -> bool:
    return tags.move(tx, names.find_or_add(tx, name), Tag(moved), digest)


def test_a_tag_points_where_it_was_moved_last_and_says_whether_it_pointed_elsewhere(tx: sa.Connection) -> None:
    assert target(tx, TEAM, LATEST) is None
    assert not move(tx, TEAM, "latest", X)
    assert target(tx, TEAM, LATEST) == X
    assert not move(tx, TEAM, "latest", X)
    assert move(tx, TEAM, "latest", Y)
    assert target(tx, TEAM, LATEST) == Y


def test_only_a_move_from_one_manifest_to_another_is_a_change(tx: sa.Connection) -> None:
    move(tx, TEAM, "latest", X)
    move(tx, TEAM, "latest", X)
    move(tx, OTHER, "latest", Y)
    assert changes.count(tx) == 0
    move(tx, TEAM, "latest", Y)
    assert changes.count(tx) == 1


def test_the_same_tag_in_two_repositories_is_two(tx: sa.Connection) -> None:
    move(tx, TEAM, "latest", X)
    move(tx, OTHER, "latest", Y)
    assert tags.remove(tx, OTHER, LATEST)
    assert target(tx, TEAM, LATEST) == X
    assert target(tx, OTHER, LATEST) is None


def test_capitals_are_other_letters(tx: sa.Connection) -> None:
    move(tx, TEAM, "latest", X)
    move(tx, TEAM, "Latest", Y)
    assert target(tx, TEAM, LATEST) == X
    assert target(tx, TEAM, Tag("LATEST")) is None


def test_removing_says_whether_there_was_one(tx: sa.Connection) -> None:
    assert not tags.remove(tx, TEAM, LATEST)
    move(tx, TEAM, "latest", X)
    move(tx, TEAM, "other", X)
    assert tags.remove(tx, TEAM, LATEST)
    assert not tags.remove(tx, TEAM, LATEST)
    assert tags.page(tx, TEAM, "", 10) == ["other"]
    assert changes.count(tx) == 1


def test_a_list_is_in_byte_order(tx: sa.Connection) -> None:
    for each in reversed(IN_ORDER):
        move(tx, TEAM, each, X)
    move(tx, OTHER, "another", X)
    assert tags.page(tx, TEAM, "", 100) == IN_ORDER
    assert sorted(IN_ORDER, key=str.encode) == IN_ORDER


@pytest.mark.parametrize("size", [1, 2, 7, 15, 16])
def test_pages_of_any_size_have_every_tag_once(tx: sa.Connection, size: int) -> None:
    for each in IN_ORDER:
        move(tx, TEAM, each, X)
    found: list[str] = []
    while page := tags.page(tx, TEAM, found[-1] if found else "", size):
        assert len(page) <= size
        found += page
    assert found == IN_ORDER


@pytest.mark.parametrize(("after", "page"), [("a-", ["a-b"]), ("a~", []), ("1/", ["10"]), ("~", []), ("", ["1"])])
def test_a_page_may_begin_after_what_is_no_tag(tx: sa.Connection, after: str, page: list[str]) -> None:
    for each in ("1", "10", "a-b", "aa"):
        move(tx, TEAM, each, X)
    assert tags.page(tx, TEAM, after, 1) == page


def test_a_repository_without_tags_has_an_empty_list_and_an_unknown_one_has_none(tx: sa.Connection) -> None:
    assert tags.page(tx, TEAM, "", 10) is None
    names.find_or_add(tx, TEAM)
    assert tags.page(tx, TEAM, "", 10) == []
