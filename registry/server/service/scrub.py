"""Scrub: everything is read again now and then, slowly, and what is wrong is mended.

A pass goes through all digests in order and remembers how far it came, so that the next process goes on from
there. Between its pages, and when none is due, it looks at what others found suspect and at what was pushed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.oci.digest import Digest
from registry.oci.errors import RegistryError
from registry.server.index import audit, damage, inventory, jobs
from registry.server.index.damage import SUSPECT, Damage
from registry.server.index.engine import Index, Transaction
from registry.server.index.inventory import Record
from registry.server.index.names import now_ms
from registry.server.service.examine import Examiner
from registry.server.service.lease import Lease
from registry.server.service.mend import ACTOR, Mender, Outcome

log = logging.getLogger("hythe.scrub")

JOB = "scrub"
_REPORT_SECONDS = 5.0
_FAILURES_MAX = 20
_PAGE = 200


@dataclass(slots=True)
class Tally:
    """What a pass did so far. `after` is the digest that it has come to."""

    examined: int = 0
    read_bytes: int = 0
    found: int = 0
    healed: int = 0
    waiting: int = 0
    after: str = ""
    failures: list[str] = field(default_factory=list)


class Scrub:
    """Scrubs one registry, every *every_seconds*; None: it begins no pass by itself."""

    def __init__(self, index: Index, examiner: Examiner, mender: Mender, every_seconds: float | None) -> None:
        self._index = index
        self._examiner = examiner
        self._mender = mender
        self._every_seconds = every_seconds
        self._reported = 0.0

    async def is_due(self) -> bool:
        """Whether there is something to do now."""
        return await self._is_pass_due() or await self._index.read(damage.any_to_see)

    async def _is_pass_due(self) -> bool:
        if self._every_seconds is None:
            return False
        job = await self._index.read(jobs.get, JOB)
        return job.finished_ms is None or now_ms() - job.finished_ms >= self._every_seconds * 1000

    async def run(self, lease: Lease) -> Tally:
        """Do what is due. Raises Paused."""
        if await self._is_pass_due():
            return await self.walk(lease)
        tally = Tally()
        await self._attend(tally)
        return tally

    async def walk(self, lease: Lease) -> Tally:
        """A pass, from where the last one broke off, or from the beginning. Raises Paused."""
        before = await self._index.read(jobs.get, JOB)
        tally = _unfinished(before)
        await self._index.write(jobs.begin, JOB, lease.holder)
        await self._report(tally)
        async for page in self._examiner.everything(tally.after):
            await self._attend(tally)
            for record in page:
                if not await self._may_go_on(lease, tally):
                    return tally
                await self._see(record, tally)
                if record.size_bytes is not None:
                    tally.after = record.digest
            await asyncio.sleep(0)
        await self._report(tally, finished=True)
        return tally

    async def _may_go_on(self, lease: Lease, tally: Tally) -> bool:
        if time.monotonic() - self._reported >= _REPORT_SECONDS:
            await self._report(tally)
            await self._index.read(jobs.refuse_paused, JOB)
        return await lease.is_kept() and len(tally.failures) < _FAILURES_MAX

    async def _report(self, tally: Tally, finished: bool = False) -> None:
        self._reported = time.monotonic()
        await self._index.note(jobs.progress, JOB, asdict(tally), finished)

    async def _see(self, record: Record, tally: Tally) -> bool:
        """Look at a digest and mend what is wrong with it; whether its bytes are right now."""
        already = self._examiner.read_bytes
        try:
            finding = await self._examiner.examine(record)
            outcome = None if finding is None else await self._mender.mend(finding)
        except (RegistryError, OSError) as error:
            tally.failures.append(f"{record.digest}: {error}")
            log.warning("scrub.failed", extra={"fields": {"digest": record.digest, "error": str(error)}})
            return False
        tally.examined += 1
        tally.read_bytes += self._examiner.read_bytes - already
        if outcome in (Outcome.HEALED, Outcome.WAITS) and finding is not None:
            tally.found += finding.is_recorded or outcome is Outcome.HEALED
        tally.healed += outcome is Outcome.HEALED
        tally.waiting += outcome is Outcome.WAITS
        return outcome in (None, Outcome.HEALED)

    async def _attend(self, tally: Tally) -> None:
        """See to what is suspect, what was pushed again, and what nobody has any more."""
        after = ""
        while found := await self._index.read(damage.page, after, _PAGE):
            await self._see_to([each for each in found if each.is_recorded], tally)
            for each in found:
                if not each.is_recorded and not await self._index.read(inventory.holders, each.digest):
                    await self._index.note(damage.forget, each.digest)  # nobody has it any more
            after = found[-1].digest

    async def _see_to(self, damaged: Sequence[Damage], tally: Tally) -> None:
        for each in damaged:
            if await self._see(await self._index.read(inventory.record, each.digest), tally):
                await self._index.write(_forget, each.digest, each.reason)


def _unfinished(job: jobs.Job) -> Tally:
    """The standing of a pass that broke off; a new one when it came to its end."""
    known: dict[str, Any] = {key: job.detail[key] for key in asdict(Tally()) if key in job.detail}
    return Tally() if job.finished_ms is not None else Tally(**{**known, "failures": []})


def _forget(tx: Transaction, digest: Digest, reason: str) -> None:
    damage.forget(tx, digest)
    if reason != SUSPECT:
        audit.write(tx, *ACTOR, "blob.heal", digest, by="a push")
