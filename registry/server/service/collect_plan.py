"""What goes and what stays: facts in, decisions out. Nothing here asks, waits or deletes.

The same functions make the plan that `--dry-run` prints, and confirm each decision under the lock of what it is
about, just before it is carried out. docs/garbage-collection.md has the argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index.candidates import BYTES
from registry.server.index.garbage import FAMILY_MAX, HOLDERS_COUNTED, Facts, Node, keeps


class Action(StrEnum):
    """What is done about a digest."""

    KEEP = "keep"
    UNLINK = "unlink"  # the repository may not read the blob any more
    REMOVE = "remove"  # a manifest, from its repository
    DELETE = "delete"  # the bytes, from the store


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator chose. A candidate is due when it is from `limit_ms` or before."""

    limit_ms: int
    delete_untagged: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a digest in a repository (None: with its bytes), and why."""

    action: Action
    repository_id: int
    repository: Repository | None
    digest: Digest
    size_bytes: int
    reason: str


def plan(facts: Sequence[Facts], rules: Rules, going: Counter[Digest] | None = None) -> list[Decision]:
    """What to do about each of *facts* that is due, in an order in which it can be carried out.

    *going* has what earlier pages of the same plan take from their repositories, and is added to.
    """
    going = Counter() if going is None else going
    decisions: dict[Decision, None] = {}  # a manifest that several candidates lead to is removed once
    for each in facts:
        if each.candidate.since_ms <= rules.limit_ms:
            found = _of_bytes(each) if each.candidate.repository_id == BYTES else _in_repository(each, rules)
            decisions.update(dict.fromkeys(found))
    done = list(decisions)
    going.update(each.digest for each in done if each.action in (Action.UNLINK, Action.REMOVE))
    return done + list(_left_behind(facts, done, going))


def _of_bytes(facts: Facts) -> Iterator[Decision]:
    if facts.holders:
        yield _decision(Action.KEEP, facts, "a repository has it")
    else:
        yield _decision(Action.DELETE, facts, facts.candidate.reason)


def _in_repository(facts: Facts, rules: Rules) -> Iterator[Decision]:
    is_kept = True
    for top in _tops(facts, rules):
        is_kept = False
        yield _removal(facts, top)
    if is_garbage(facts):
        is_kept = False
        yield _decision(Action.UNLINK, facts, facts.candidate.reason)
    if is_kept:
        yield _decision(Action.KEEP, facts, "it is used")


def is_garbage(facts: Facts) -> bool:
    """Whether a repository has a blob that none of its manifests names."""
    return facts.is_linked and not facts.is_referenced


def _tops(facts: Facts, rules: Rules) -> Iterator[Digest]:
    """Manifests to remove, if the candidate is a dead one: itself, or those above it that nothing lists.

    A child goes only after all that list it, dead or not: whoever pushes or tags an index may rely on it that a
    child that is there has all of its own children. So of a dead family the tops go, and then the next in turn.
    One that somebody deleted is there for nobody, and goes by itself.
    """
    own, family = facts.candidate.digest, facts.family
    if own in family and family[own].is_deleted:
        if is_removable(own, family, rules):
            yield own
    elif rules.delete_untagged and is_dead(own, family, rules):
        yield from sorted(digest for digest, node in family.items() if not node.parents)


def is_removable(digest: Digest, family: Mapping[Digest, Node], rules: Rules) -> bool:
    """Whether a manifest may be removed at this moment: nothing keeps it, and nothing lists it that counts."""
    if not is_dead(digest, family, rules):
        return False
    own = family[digest]
    return own.is_deleted or (rules.delete_untagged and not own.parents)


def is_dead(digest: Digest, family: Mapping[Digest, Node], rules: Rules) -> bool:
    """Whether nothing keeps a manifest: neither itself nor one that lists it nor its subject, and so on from
    these, has a tag, is in the history or is within its grace period. (One that was deleted has no family.)
    """
    if digest not in family or len(family) >= FAMILY_MAX:  # too many: not all were looked at
        return False
    return not any(
        keeps(node) or (node.since_ms is not None and node.since_ms > rules.limit_ms) for node in family.values()
    )


def _left_behind(
    facts: Sequence[Facts], decisions: Sequence[Decision], going: Counter[Digest]
) -> Iterator[Decision]:
    """Bytes that nothing has any more once the plan is carried out so far."""
    now = {each.digest for each in decisions if each.action in (Action.UNLINK, Action.REMOVE)}
    for each in facts:
        digest = each.candidate.digest
        if digest in now and going[digest] == each.holders < HOLDERS_COUNTED:
            now.remove(digest)
            yield Decision(Action.DELETE, BYTES, None, digest, each.size_bytes, "no repository has it any more")


def _decision(action: Action, facts: Facts, reason: str) -> Decision:
    own = facts.candidate
    return Decision(action, own.repository_id, facts.repository, own.digest, facts.size_bytes, reason)


def _removal(facts: Facts, top: Digest) -> Decision:
    own = facts.candidate
    reason = own.reason if top == own.digest else "nothing that keeps it has a tag"
    size_bytes = facts.family[top].size_bytes
    return Decision(Action.REMOVE, own.repository_id, facts.repository, top, size_bytes, reason)
