"""Collection while serving: looks at the candidates that are due, and carries out what the plan says of them.

Each decision is a transaction of its own, which takes the lock of what it is about and asks everything again
before it does anything. docs/garbage-collection.md has the argument, state by state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field

from registry import failpoints
from registry.content import threads
from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.oci.errors import RegistryError, Unavailable
from registry.server.index import audit, blobs, candidates, claims, garbage, jobs, manifests, sweeps
from registry.server.index.candidates import BYTES, Candidate
from registry.server.index.engine import Index, Transaction
from registry.server.index.garbage import Facts
from registry.server.service import collect_plan
from registry.server.service.collect_plan import Action, Decision, Rules
from registry.server.service.lease import Lease
from registry.server.service.links import slack_ms
from registry.server.service.pace import Pace

log = logging.getLogger("hythe.collect")

JOB = "gc"
ACTOR = ("collector", "local")
_PAGE = 50  # a page's facts are read at once, between the requests of this process
_REPORT_SECONDS = 2.0
_FAILURES_MAX = 20
_LATE_SECONDS = 30.0  # well within what `settle_seconds` has to spare


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator chose, see config.example.yaml."""

    grace_seconds: float = 86_400.0
    deletions_per_second: float = 50.0
    delete_untagged: bool = False


@dataclass(slots=True)
class Tally:
    """What a collection did."""

    examined: int = 0
    unlinked: int = 0
    removed: int = 0
    deleted: int = 0
    freed_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def count(self, decision: Decision) -> None:
        """Add a decision that was carried out."""
        if decision.action is Action.UNLINK:
            self.unlinked += 1
        elif decision.action is Action.REMOVE:
            self.removed += 1
        elif decision.action is Action.DELETE:
            self.deleted += 1
            self.freed_bytes += decision.size_bytes


async def rules(index: Index, choices: Choices) -> Rules:
    """The rules as of now, by the database's clock."""
    grace_ms = int(choices.grace_seconds * 1000)
    return Rules(await index.read(candidates.limit_ms, grace_ms + slack_ms(grace_ms)), choices.delete_untagged)


class _NotNow(Exception):
    """What the decision was made of is so no longer; nothing is done."""


class _Later(Exception):
    """A deletion that was begun before, and not finished, may still come true; until then nothing can be done."""


class Collector:
    """Collects the garbage of one registry."""

    def __init__(self, index: Index, store: BlobStore, choices: Choices) -> None:
        self._index = index
        self._store = store
        self._choices = choices
        self._pace = Pace(choices.deletions_per_second)

    async def is_due(self) -> bool:
        """Whether a collection would find something to look at."""
        return await self._index.read(candidates.any_due, (await rules(self._index, self._choices)).limit_ms)

    async def plan(self) -> AsyncIterator[Decision]:
        """What a collection would do now."""
        now, going = await rules(self._index, self._choices), Counter[Digest]()
        async for page in self._pages(now):
            for decision in collect_plan.plan(page, now, going):
                if decision.action is not Action.KEEP:
                    yield decision

    async def _pages(self, rules: Rules) -> AsyncIterator[list[Facts]]:
        after: Candidate | None = None
        while page := await self._index.read(
            garbage.due, rules.limit_ms, after, _PAGE, self._choices.delete_untagged
        ):
            yield page
            after = page[-1].candidate
            await asyncio.sleep(0)

    # --- carrying out

    async def collect(self, lease: Lease) -> Tally:
        """Collect everything that is due now. Raises Paused, Unavailable."""
        tally, now = Tally(), await rules(self._index, self._choices)
        await self._index.write(jobs.begin, JOB, lease.holder)
        reported = time.monotonic()
        async for page in self._pages(now):
            if not await self._collect_page(page, now, lease, tally):
                break
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                await self._index.note(jobs.progress, JOB, asdict(tally))
        await self._index.note(jobs.progress, JOB, asdict(tally), finished=True)
        return tally

    async def _collect_page(self, page: Sequence[Facts], rules: Rules, lease: Lease, tally: Tally) -> bool:
        """Carry out what is to be done about a page; False when the collection shall end."""
        if not await lease.is_kept():
            return False
        settled = {(each.candidate.repository_id, each.candidate.digest): each.candidate for each in page}
        try:
            for decision in collect_plan.plan(page, rules):
                if decision.action is Action.KEEP:
                    continue
                if not await lease.is_kept() or len(tally.failures) >= _FAILURES_MAX:
                    return False
                done = await self._carry_out(decision, rules, tally)
                if not done:  # what led to it is looked at again another time
                    failed = decision.repository_id, decision.digest
                    settled = {
                        key: each
                        for key, each in settled.items()
                        if key != failed and (key[0] == BYTES or key[0] != decision.repository_id)
                    }
                elif isinstance(done, Candidate):
                    settled[BYTES, done.digest] = done
        finally:
            # What was taken away is gone for good only now: until then its candidates stay.
            await self._store.free()
        tally.examined += len(page)
        failpoints.reach("gc.freed")
        await self._index.note(candidates.forget, list(settled.values()))
        failpoints.reach("gc.settled")
        return True

    async def _carry_out(self, decision: Decision, rules: Rules, tally: Tally) -> Candidate | bool:
        """Do it, if it still is to be done. False when it failed, and the candidate has to stay."""
        await self._pace.wait()
        try:
            with self._pace.busy():
                done = await self._do(decision, rules)
        except _NotNow:
            return True
        except _Later:
            return False
        except (OSError, RegistryError) as error:
            if isinstance(error, jobs.Paused):
                raise
            tally.failures.append(f"{decision.digest}: {error}")
            log.warning("collect.failed", extra={"fields": {"digest": decision.digest, "error": str(error)}})
            return False
        tally.count(decision)
        log.info("collect.done", extra={"fields": _fields(decision)})
        return done

    async def _do(self, decision: Decision, rules: Rules) -> Candidate | bool:
        if decision.action is Action.DELETE:
            delete = self._delete_near if self._store.is_near else self._delete_far
            seen = await delete(decision, rules)
            failpoints.reach("gc.deleted")
            return seen
        await self._index.write(_unlink if decision.action is Action.UNLINK else _remove, decision, rules)
        failpoints.reach("gc.unlinked" if decision.action is Action.UNLINK else "gc.removed")
        return True

    async def _delete_near(self, decision: Decision, rules: Rules) -> Candidate:
        return await self._index.destroy(_delete, self._store, decision, rules)

    async def _delete_far(self, decision: Decision, rules: Rules) -> Candidate:
        """Condemn the bytes, delete them while no transaction waits, and acquit them when that is certain.

        When this process stops meanwhile, what is begun is brought to its end: bytes that stay condemned can be
        pushed by nobody until a lost request can come true no more, which is a quarter of an hour.
        """
        deleting = asyncio.ensure_future(self._condemn_and_delete(decision, rules))
        try:
            return await threads.to_its_end(deleting)
        except asyncio.CancelledError:
            if error := deleting.exception():
                log.info("collect.stopped", extra={"fields": {"digest": decision.digest, "error": str(error)}})
            raise

    async def _condemn_and_delete(self, decision: Decision, rules: Rules) -> Candidate:
        began = time.monotonic()
        seen, until_ms = await self._index.write(_condemn, decision, rules, self._store.settle_seconds)
        failpoints.reach("gc.condemned")
        if time.monotonic() - began > _LATE_SECONDS:
            raise Unavailable("the index took too long to answer; nothing was deleted")
        await asyncio.to_thread(self._store.take_away, decision.digest)
        failpoints.reach("gc.taken-away")
        await self._index.note(_acquit, decision, until_ms)
        return seen


def _unlink(tx: Transaction, decision: Decision, rules: Rules) -> None:
    """Take a blob from a repository. What builds upon the link waits, or was there first and is seen."""
    jobs.require_running(tx, JOB)
    if not blobs.hold_link(tx, decision.repository_id, decision.digest):
        raise _NotNow
    facts = garbage.of(tx, decision.repository_id, decision.digest, with_families=False)
    if facts is None or facts.candidate.since_ms > rules.limit_ms or not collect_plan.is_garbage(facts):
        raise _NotNow
    blobs.drop_link(tx, decision.repository_id, decision.digest)
    candidates.make_due(tx, BYTES, decision.digest)


def _remove(tx: Transaction, decision: Decision, rules: Rules) -> None:
    """Remove a manifest that nothing keeps. What it names, and its bytes, become candidates by that."""
    jobs.require_running(tx, JOB)
    assert decision.repository is not None
    if manifests.hold(tx, decision.repository, decision.digest, also_deleted=True) is None:
        raise _NotNow
    family = garbage.family(tx, decision.repository_id, decision.digest)
    if not collect_plan.is_removable(decision.digest, family, rules):
        raise _NotNow
    manifests.remove(tx, decision.repository, decision.digest)
    candidates.make_due(tx, BYTES, decision.digest)
    target = f"{decision.repository}@{decision.digest}"
    audit.write(tx, *ACTOR, "manifest.collect", target, reason=decision.reason)


def _delete(tx: Transaction, store: BlobStore, decision: Decision, rules: Rules) -> Candidate:
    """Delete bytes that nothing has: alone with their digest, so that nothing can come to have them meanwhile."""
    seen = _hold(tx, decision, rules)
    failpoints.reach("gc.deleting")
    store.take_away(decision.digest)
    failpoints.reach("gc.taken-away")
    blobs.forget_bytes(tx, decision.digest)
    return seen


def _hold(tx: Transaction, decision: Decision, rules: Rules) -> Candidate:
    """Hold bytes that are to be deleted; raises _NotNow when something has them."""
    jobs.require_running(tx, JOB)
    blobs.hold_bytes(tx, decision.digest)
    facts = garbage.of(tx, BYTES, decision.digest, with_families=False)
    if facts is None or facts.candidate.since_ms > rules.limit_ms or facts.holders:
        raise _NotNow
    return facts.candidate


def _condemn(tx: Transaction, decision: Decision, rules: Rules, seconds: float) -> tuple[Candidate, int]:
    """Keep everybody from naming bytes that nothing has, until they are acquitted or *seconds* have passed."""
    seen = _hold(tx, decision, rules)
    if claims.is_claimed(tx, decision.digest):
        raise _NotNow
    until_ms = sweeps.condemn(tx, decision.digest, seconds)
    if until_ms is None:
        raise _Later
    return seen, until_ms


def _acquit(tx: Transaction, decision: Decision, until_ms: int) -> None:
    """Say that the bytes are gone, unless somebody else sees to that by now."""
    blobs.hold_bytes(tx, decision.digest)
    if not sweeps.acquit(tx, decision.digest, until_ms):
        raise _NotNow
    blobs.forget_bytes(tx, decision.digest)


def _fields(decision: Decision) -> dict[str, object]:
    return {
        "action": str(decision.action),
        "repo": decision.repository or "",
        "digest": decision.digest,
        "bytes": decision.size_bytes,
        "reason": decision.reason,
    }
