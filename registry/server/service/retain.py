"""Retention: takes the tags away that no rule keeps, each with its line in the audit log.

It takes tags, nothing else: what they pointed to is then a manifest without a tag, as after a deletion by hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass

from registry import failpoints
from registry.oci.reference import Repository
from registry.server.index import audit, jobs, names, pulled, tags
from registry.server.index.engine import Index, Transaction
from registry.server.index.history import Change
from registry.server.index.pulled import TagFacts
from registry.server.service import retention_plan
from registry.server.service.immutable import TagPattern
from registry.server.service.lease import Lease
from registry.server.service.pace import Pace
from registry.server.service.retention_plan import Moment, Rule, TagDecision

log = logging.getLogger("hythe.retention")

JOB = "retention"
ACTOR = ("retention", "local")
_PAGE = 200


@dataclass(slots=True)
class Tally:
    """What a run did."""

    repositories: int = 0
    kept: int = 0
    removed: int = 0


class Retention:
    """The rules of one registry, and what they do."""

    def __init__(
        self,
        index: Index,
        rules: Sequence[Rule],
        immutable: Sequence[TagPattern],
        per_second: float,
        has_history: bool = False,
    ) -> None:
        self._index = index
        self.rules = tuple(rules)
        self._immutable = tuple(immutable)
        self._pace = Pace(per_second)
        self._change = Change(ACTOR[0], "retention") if has_history else None

    async def plan(self) -> AsyncIterator[tuple[Repository, list[TagDecision]]]:
        """What becomes of the tags of each repository of which a rule speaks."""
        moment = Moment(names.now_ms(), await self._index.read(pulled.known_since_ms))
        async for repository in self._repositories():
            found = [tag async for tag in self._tags(repository)]
            yield repository, retention_plan.plan(repository, found, self.rules, self._immutable, moment)

    async def _repositories(self) -> AsyncIterator[Repository]:
        after = ""
        while page := await self._index.read(names.page, after, _PAGE):
            for name in page:
                if any(rule.covers(name) for rule in self.rules):
                    yield Repository(name)
            after = page[-1]
            await asyncio.sleep(0)

    async def _tags(self, repository: Repository) -> AsyncIterator[TagFacts]:
        after = ""
        while page := await self._index.read(pulled.tags, repository, after, _PAGE):
            for tag in page:
                yield tag
            after = page[-1].name
            await asyncio.sleep(0)

    async def apply(self, lease: Lease) -> Tally:
        """Take away what no rule keeps. Raises Paused, Unavailable."""
        tally = Tally()
        await self._index.write(jobs.begin, JOB, lease.holder)
        async for repository, decisions in self.plan():
            tally.repositories += 1
            for decision in decisions:
                if decision.stays:
                    tally.kept += 1
                    continue
                await self._pace.wait()
                if not await lease.is_kept():
                    return tally
                with self._pace.busy():
                    tally.removed += await self._index.write(_remove, repository, decision, self._change)
                failpoints.reach("gc.untagged")
            await self._index.note(jobs.progress, JOB, asdict(tally))
        await self._index.note(jobs.progress, JOB, asdict(tally), finished=True)
        return tally


def _remove(tx: Transaction, repository: Repository, decision: TagDecision, change: Change | None) -> bool:
    """Remove a tag with its line in the audit log, unless somebody moved it meanwhile."""
    jobs.require_running(tx, JOB)
    tag = decision.tag
    if tags.hold(tx, repository, tag.name) != (tag.digest, tag.moved_ms):
        return False
    tags.remove(tx, repository, tag.name, change)
    target = f"{repository}:{tag.name}"
    audit.write(tx, *ACTOR, "tag.delete", target, digest=tag.digest, reason=decision.reason)
    return True
