"""The decisions of an import, which are pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.digest import Digest
from registry.server.service.moving.plan import Arrival, Verdict, in_order, judge

A, B, C = (Digest.of(each) for each in (b"a", b"b", b"c"))


@pytest.mark.parametrize(
    ("there", "here", "before", "verdict"),
    [
        (A, None, None, Verdict.CREATE),
        (A, A, None, Verdict.SAME),
        (A, A, A, Verdict.SAME),
        (B, A, A, Verdict.MOVE),
        (A, B, A, Verdict.KEEP),
        (A, None, A, Verdict.KEEP),
        (B, A, None, Verdict.CONFLICT),
        (C, B, A, Verdict.CONFLICT),
        (B, None, A, Verdict.CONFLICT),
        (None, A, A, Verdict.GONE),
        (None, B, A, Verdict.KEEP),
        (None, None, A, Verdict.KEEP),
    ],
)
def test_a_tag_moves_only_when_one_side_moved_it(
    there: Digest | None, here: Digest | None, before: Digest | None, verdict: Verdict
) -> None:
    assert judge(there, here, before) is verdict
    if verdict is Verdict.CONFLICT:
        assert judge(there, here, before, overwrite=True) is (Verdict.MOVE if here else Verdict.CREATE)


@given(st.data())
def test_what_a_manifest_lists_comes_before_it_or_is_here_already(data: st.DataObject) -> None:
    digests = [Digest.of(bytes([number])) for number in range(12)]
    known = set(data.draw(st.lists(st.sampled_from(digests))))
    arrivals = {}
    for number, digest in enumerate(digests):
        if digest not in known and data.draw(st.booleans()):
            children = data.draw(st.lists(st.sampled_from(digests[:number]))) if number else []
            arrivals[digest] = Arrival(digest, digest, 1, children=tuple(children))
    ordered = in_order(arrivals, known)
    there = set(known)
    for each in ordered.accepted:
        assert set(each.children) <= there
        there.add(each.digest)
    accepted = {each.digest for each in ordered.accepted}
    assert accepted | set(ordered.refused) == set(arrivals)
    assert accepted.isdisjoint(ordered.refused)
    for digest, lacking in ordered.refused.items():
        assert lacking
        assert set(lacking) == set(arrivals[digest].children) - there
    sparse = in_order(arrivals, known, sparse=True)
    assert [each.digest for each in sparse.accepted if each.digest not in arrivals] == []
    assert not sparse.refused
