"""Repositories and the catalogue: found, added once, and paged in byte order."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository
from registry.server.index import blobs, manifests, names
from registry.server.index.manifests import Stored

# "-" is 2D, "." 2E, "/" 2F, "0" 30, "_" 5F, "a" 61: byte order, which no language's collation has.
IN_ORDER = ["a", "a-b", "a-b/c", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "a__b", "a_b", "aa", "b"]


def fill(tx: sa.Connection, *found: str) -> None:
    """Repositories that hold something."""
    for name in found:
        stored = Stored(Digest.of(name.encode()), media.OCI_INDEX, b"{}")
        manifests.put(tx, Repository(name), stored, Manifest(media.OCI_INDEX), [])


def test_a_repository_is_added_once_and_found_under_its_id(tx: sa.Connection) -> None:
    name = Repository("team/web")
    assert names.find(tx, name) is None
    added = names.find_or_add(tx, name)
    assert names.find_or_add(tx, name) == added == names.find(tx, name)
    assert names.find_or_add(tx, Repository("team/other")) != added


def test_names_that_differ_in_one_character_are_two(tx: sa.Connection) -> None:
    ids = {names.find_or_add(tx, Repository(name)) for name in IN_ORDER}
    assert len(ids) == len(IN_ORDER)


def test_the_catalogue_is_in_byte_order(tx: sa.Connection) -> None:
    fill(tx, *reversed(IN_ORDER))
    assert names.page(tx, "", 100) == IN_ORDER
    assert sorted(IN_ORDER, key=str.encode) == IN_ORDER


@pytest.mark.parametrize("size", [1, 2, 5, 11, 12, 13])
def test_pages_of_any_size_have_every_name_once(tx: sa.Connection, size: int) -> None:
    fill(tx, *IN_ORDER)
    found: list[str] = []
    while page := names.page(tx, found[-1] if found else "", size):
        assert len(page) <= size
        found += page
    assert found == IN_ORDER


@pytest.mark.parametrize(
    ("after", "first"), [("a-", "a-b"), ("a,", "a-b"), ("a/", "a/b"), ("a/b/", "a/b/c"), ("A", "a"), ("a~", "b")]
)
def test_a_page_may_begin_after_what_is_no_name(tx: sa.Connection, after: str, first: str) -> None:
    fill(tx, *IN_ORDER)
    assert names.page(tx, after, 1) == [first]


def test_after_the_last_there_is_nothing(tx: sa.Connection) -> None:
    fill(tx, *IN_ORDER)
    assert names.page(tx, "b", 10) == []
    assert names.page(tx, "", 0) == []


def test_a_repository_without_a_manifest_is_not_in_the_catalogue(tx: sa.Connection) -> None:
    fill(tx, "full")
    names.find_or_add(tx, Repository("empty"))
    blobs.link(tx, Repository("with-a-blob"), Digest.of(b"x"), 1)
    assert names.page(tx, "", 10) == ["full"]
    manifests.remove(tx, Repository("full"), Digest.of(b"full"))
    assert names.page(tx, "", 10) == []
    assert names.find(tx, Repository("full")) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b", ["a-b", "a-b/c", "a.b", "a/b", "a/b-c", "a/b/c", "a__b", "a_b", "b"]),
        ("a_b", ["a_b"]),
        ("_", ["a__b", "a_b"]),
        ("%", []),
        ("a%b", []),
        ("a.b", ["a.b"]),
        ("/", ["a-b/c", "a/b", "a/b-c", "a/b/c"]),
        ("\\", []),
        ("'", []),
        ("a/b/c", ["a/b/c"]),
        ("*", []),
        ("?", []),
        ("ä", []),
    ],
)
def test_a_search_takes_every_character_as_itself(tx: sa.Connection, text: str, found: list[str]) -> None:
    fill(tx, *IN_ORDER)
    assert names.page(tx, "", 100, text) == found


def test_a_search_is_paged_as_the_catalogue_is(tx: sa.Connection) -> None:
    fill(tx, *IN_ORDER)
    assert names.page(tx, "a-b", 2, "b") == ["a-b/c", "a.b"]
