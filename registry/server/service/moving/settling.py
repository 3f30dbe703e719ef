"""Tags of another registry, decided once more in the transaction that moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import audit, imported, manifests, names, tags
from registry.server.index.engine import Transaction
from registry.server.service import immutable
from registry.server.service.administration.changes import Actor
from registry.server.service.moving.plan import TagChange, Verdict, judge
from registry.server.service.policy import Policy

_AGREED = (Verdict.SAME, Verdict.CREATE, Verdict.MOVE)


def settle(
    tx: Transaction,
    repository: Repository,
    source: str,
    changes: Sequence[TagChange],
    actor: Actor,
    policy: Policy,
    prune: bool,
    overwrite: bool,
) -> list[tuple[TagChange, str]]:
    """Do what *changes* say, as it stands now; returns what was done, each with what went wrong, or nothing."""
    if all(change.verdict is Verdict.SAME and change.before == change.there for change in changes):
        return [(change, "") for change in changes]
    # Manifests before tags: the order of locks (index/blobs.py).
    wanted = sorted({change.there for change in changes if change.there is not None})
    kept = {digest for digest in wanted if manifests.keep(tx, repository, digest)}
    done = []
    for change in sorted(changes, key=lambda change: change.name):
        repository_id = names.find_or_add(tx, repository)
        held = tags.hold(tx, repository, change.name)
        here = None if held is None else held[0]
        before = imported.get(tx, source, repository_id, change.name)
        verdict = judge(change.there, here, before, overwrite)
        now = replace(change, verdict=verdict, here=here, before=before)
        problem = _do(tx, repository, repository_id, now, actor, policy, prune, kept)
        if not problem and verdict in _AGREED:
            imported.remember(tx, source, repository_id, now.name, _digest(now))
        elif not problem and change.there is None and (prune or verdict is Verdict.KEEP):
            imported.forget(tx, source, repository_id, now.name)
        done.append((now, problem))
    return done


def _do(
    tx: Transaction,
    repository: Repository,
    repository_id: int,
    change: TagChange,
    actor: Actor,
    policy: Policy,
    prune: bool,
    kept: set[Digest],
) -> str:
    """Make one change, with its line in the audit log; returns why not."""
    target, who = f"{repository}:{change.name}", (actor.name, actor.address)
    rule = immutable.find(policy.immutable_tags, repository, change.name)
    if change.verdict in (Verdict.CREATE, Verdict.MOVE):
        if _digest(change) not in kept:
            return f"points at {change.there}, which was not taken over"
        if rule is not None and change.verdict is Verdict.MOVE:
            return f"it moved there, and is immutable here (policy.immutable_tags: {rule})"
        tags.move(tx, repository_id, change.name, _digest(change), policy.change(actor.name, "moved"))
        audit.write(tx, *who, "tag.import", target, digest=change.there, before=change.here)
    elif change.verdict is Verdict.GONE and prune:
        if rule is not None:
            return f"it was deleted there, and is immutable here (policy.immutable_tags: {rule})"
        tags.remove(tx, repository, change.name, policy.change(actor.name, "deleted"))
        audit.write(tx, *who, "tag.delete", target, digest=change.here, reason="deleted where it came from")
    return ""


def _digest(change: TagChange) -> Digest:
    assert change.there is not None
    return change.there
