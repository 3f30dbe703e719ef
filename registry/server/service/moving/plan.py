"""What is to be done, as plain data, and the decisions: nothing here reads or writes anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag


@dataclass(frozen=True, slots=True)
class Piece:
    """A blob to bring: its digest here, the one that it is stored under there, and its length."""

    digest: Digest
    stored_as: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A manifest to take over: with which blobs, and after which manifests."""

    digest: Digest
    stored_as: Digest
    size_bytes: int
    pieces: tuple[Piece, ...] = ()
    children: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not taken over, and why."""

    repository: str
    what: str
    why: str


class Verdict(StrEnum):
    """What happens to a tag. *there* is the other registry, *here* this one."""

    SAME = "same"
    CREATE = "create"
    MOVE = "move"
    KEEP = "keep"  # it moved, or went, here since it was taken over, and did not move there
    CONFLICT = "conflict"  # it moved on both sides
    GONE = "gone"  # it was deleted there, and nobody moved it here since


@dataclass(frozen=True, slots=True)
class TagChange:
    """A tag, where it points there, here, and where it pointed there when it was taken over last."""

    name: Tag
    verdict: Verdict
    there: Digest | None
    here: Digest | None
    before: Digest | None


@dataclass(frozen=True, slots=True)
class RepositoryPlan:
    """What is to be done in one repository: manifests in this order, then tags."""

    repository: Repository
    arrivals: Sequence[Arrival] = ()
    tags: Sequence[TagChange] = ()
    problems: Sequence[Problem] = ()
    known: int = 0
    loose: int = 0
    uploads: int = 0


@dataclass(frozen=True, slots=True)
class Ordered:
    """Manifests so that what they list comes first, and those that list what nobody has."""

    accepted: list[Arrival] = field(default_factory=list)
    refused: dict[Digest, list[Digest]] = field(default_factory=dict)


def judge(there: Digest | None, here: Digest | None, before: Digest | None, overwrite: bool = False) -> Verdict:
    """What to do with a tag. With *overwrite* the other registry wins where both sides moved it."""
    if there is None:
        return Verdict.GONE if here is not None and here == before else Verdict.KEEP
    if here == there:
        return Verdict.SAME
    if here is None and before is None:
        return Verdict.CREATE
    if here == before:
        return Verdict.MOVE
    if there == before:
        return Verdict.KEEP
    if overwrite:
        return Verdict.CREATE if here is None else Verdict.MOVE
    return Verdict.CONFLICT


def in_order(arrivals: Mapping[Digest, Arrival], known: Collection[Digest], sparse: bool = False) -> Ordered:
    """Children before parents. *known* is what is here already; *sparse* indexes may list what nobody has."""
    found = Ordered()
    there = set(known)
    waiting = dict(arrivals)
    while waiting:
        ready = [
            each for each in waiting.values() if all(_is_ready(c, there, waiting, sparse) for c in each.children)
        ]
        if not ready:
            break
        found.accepted.extend(ready)
        there.update(each.digest for each in ready)
        for each in ready:
            del waiting[each.digest]
    for digest, each in waiting.items():
        found.refused[digest] = [child for child in each.children if child not in there]
    return found


def _is_ready(child: Digest, there: set[Digest], waiting: Mapping[Digest, Arrival], sparse: bool) -> bool:
    return child in there or (sparse and child not in waiting)
