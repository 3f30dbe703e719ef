"""Blobs in the index: a link is the right to read, and nothing else is."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import blobs, changes, names

TEAM, OTHER = Repository("team/web"), Repository("team/other")
X, Y = Digest.of(b"x"), Digest.of(b"y", "sha512")


def test_a_blob_is_read_through_its_repository_alone(tx: sa.Connection) -> None:
    blobs.link(tx, TEAM, X, 17)
    assert blobs.size(tx, TEAM, X) == 17
    assert blobs.size(tx, OTHER, X) is None
    assert blobs.size(tx, TEAM, Y) is None
    assert blobs.size(tx, Repository("team"), X) is None


@pytest.mark.parametrize("size_bytes", [0, 1, 2**31, 2**63 - 1])
def test_a_blob_may_have_any_size(tx: sa.Connection, size_bytes: int) -> None:
    blobs.link(tx, TEAM, X, size_bytes)
    assert blobs.size(tx, TEAM, X) == size_bytes


def test_linking_may_be_repeated_and_changes_nothing(tx: sa.Connection) -> None:
    for _ in range(3):
        blobs.link(tx, TEAM, X, 17)
    assert blobs.size(tx, TEAM, X) == 17
    assert blobs.holders(tx, X) == [TEAM]
    assert changes.count(tx) == 0


def test_unlinking_takes_it_from_one_repository_and_says_whether_it_was_there(tx: sa.Connection) -> None:
    for name in (TEAM, OTHER):
        blobs.link(tx, name, X, 17)
    assert blobs.unlink(tx, TEAM, X)
    assert not blobs.unlink(tx, TEAM, X)
    assert blobs.size(tx, TEAM, X) is None
    assert blobs.size(tx, OTHER, X) == 17
    assert not blobs.unlink(tx, OTHER, Y)
    assert not blobs.unlink(tx, Repository("nobody"), X)
    assert changes.count(tx) == 1


def test_holders_are_the_repositories_that_have_it_up_to_a_limit(tx: sa.Connection) -> None:
    assert blobs.holders(tx, X) == []
    all_names = {Repository(f"r{number}") for number in range(5)}
    for name in all_names:
        blobs.link(tx, name, X, 1)
    blobs.link(tx, TEAM, Y, 1)
    assert set(blobs.holders(tx, X)) == all_names
    assert len(set(blobs.holders(tx, X, limit=3)) & all_names) == 3


def test_what_is_absent_comes_in_the_order_in_which_it_was_asked_for(tx: sa.Connection) -> None:
    digests = [Digest.of(bytes([number])) for number in range(10)]
    repository_id = names.find_or_add(tx, TEAM)
    for digest in digests[::3]:
        blobs.link(tx, TEAM, digest, 1)
    blobs.link(tx, OTHER, digests[1], 1)
    asked = [*reversed(digests), digests[1]]
    assert blobs.absent(tx, repository_id, asked) == [digest for digest in asked if digest not in digests[::3]]
    assert blobs.absent(tx, repository_id, []) == []
    assert blobs.absent(tx, repository_id, digests[::3]) == []


def test_thousands_may_be_asked_for_at_once(tx: sa.Connection) -> None:
    digests = [Digest.of(number.to_bytes(4, "big")) for number in range(10_000)]
    repository_id = names.find_or_add(tx, TEAM)
    blobs.link(tx, TEAM, digests[5_000], 1)
    assert blobs.absent(tx, repository_id, digests) == digests[:5_000] + digests[5_001:]
