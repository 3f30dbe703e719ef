"""What is done about bytes that are wrong or missing: nobody is served them, and right ones take their place.

Wrong bytes are taken away as a collection takes bytes away (docs/garbage-collection.md): under the digest's lock
from a directory, condemned first in a distant store. So a push of the same digest at the same moment either comes
before, and is another copy that is left alone, or sees that its bytes are gone and publishes them again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

from registry import failpoints
from registry.content import threads
from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, Unavailable
from registry.server.index import audit, blobs, changes, claims, damage, manifests, sweeps
from registry.server.index.engine import Index, Transaction
from registry.server.service import publishing
from registry.server.service.examine import Finding, Problem

log = logging.getLogger("hythe.scrub")

ACTOR = ("scrub", "local")
_LATE_SECONDS = 30.0  # as in collect.py: well within what `settle_seconds` has to spare


class Outcome(StrEnum):
    """What came of it."""

    HEALED = "healed"
    WAITS = "waits for a push"
    CHANGED = "changed meanwhile"


# Gets the right bytes of a digest from elsewhere and records them; False when nobody has them.
Source = Callable[[Finding], Awaitable[bool]]


class _OtherCopy(Exception):
    """Somebody published the digest again since it was read."""


class Mender:
    """Mends one registry. *source* is asked for what the registry itself has no right bytes of."""

    def __init__(self, index: Index, store: BlobStore, source: Source | None = None) -> None:
        self._index = index
        self._store = store
        self._source = source

    async def mend(self, finding: Finding) -> Outcome:
        """Do what can be done. Safe to repeat, and to be killed in. Raises Unavailable, OSError."""
        outcome = await self._mend(finding)
        if outcome is Outcome.WAITS and not finding.is_recorded:  # as was said before
            return outcome
        fields = {"digest": finding.digest, "problem": str(finding.problem), "outcome": str(outcome)}
        level = logging.ERROR if outcome is Outcome.WAITS else logging.WARNING
        log.log(level, "scrub.found", extra={"fields": fields})
        return outcome

    async def _mend(self, finding: Finding) -> Outcome:
        if finding.problem is Problem.INDEX:
            return await self._mend_index(finding)
        try:
            if finding.problem is not Problem.RECORD:
                await self._set_aside(finding)
            if finding.payload is not None:
                await self._store_again(finding.digest, finding.payload)
                return Outcome.HEALED
            if finding.problem is Problem.RECORD:
                await self._record(finding)
                return Outcome.HEALED
        except _OtherCopy:
            return Outcome.CHANGED
        if self._source is not None and await self._source(finding):
            return Outcome.HEALED
        return Outcome.WAITS

    # --- taking away

    async def _set_aside(self, finding: Finding) -> None:
        """Raises _OtherCopy."""
        if finding.copy is None and not finding.is_recorded:
            await self._index.note(damage.suspect, finding.digest)  # if that is not known yet
            return
        if finding.copy is not None:
            await self._store.preserve(finding.digest, finding.copy)
        if self._store.is_near:
            await self._index.destroy(_set_aside, self._store, finding)
        else:
            await self._set_aside_far(finding)
        failpoints.reach("scrub.forgotten")
        # On stable storage now, and what was before it.
        result = "set aside" if finding.copy is not None else "missing"
        await self._index.write(audit.write, *ACTOR, "blob.damage", finding.digest, result, found=finding.problem)

    async def _set_aside_far(self, finding: Finding) -> None:
        # Brought to its end when this is cancelled, else nobody can push it for a while; what fails then, the next
        # look finds.
        await threads.to_its_end(asyncio.ensure_future(self._condemn_and_set_aside(finding)))

    async def _condemn_and_set_aside(self, finding: Finding) -> None:
        began = time.monotonic()
        until_ms = await self._index.write(_condemn, finding.digest, self._store.settle_seconds)
        failpoints.reach("scrub.condemned")
        if time.monotonic() - began > _LATE_SECONDS:
            raise Unavailable("the index took too long to answer; nothing was set aside")
        done = await asyncio.to_thread(self._store.set_aside, finding.digest, finding.copy)
        failpoints.reach("scrub.aside")
        # Before anybody may publish it again: servers that remember the old link must not find its objects.
        await self._store.free()
        await self._index.write(_acquit, finding, until_ms, done)
        if not done:
            raise _OtherCopy

    # --- putting back

    async def _store_again(self, digest: Digest, payload: bytes) -> None:
        async def put() -> None:
            await self._store.put(digest, [payload])

        await publishing.publish(self._index, self._store, digest, put, healed, digest, len(payload))

    async def _record(self, finding: Finding) -> None:
        """The bytes are there and right: say so. Raises _OtherCopy when they went meanwhile."""

        async def look() -> None:
            if await self._store.copy_of(finding.digest) != finding.copy:
                raise _OtherCopy

        await publishing.publish(
            self._index, self._store, finding.digest, look, healed, finding.digest, finding.size_bytes
        )

    async def _mend_index(self, finding: Finding) -> Outcome:
        try:
            data = await self._store.read(finding.digest)
        except ContentMissing:
            return Outcome.CHANGED
        if Digest.of(data, finding.digest.algorithm) != finding.digest:
            return Outcome.CHANGED
        await self._index.write(_repair, finding.digest, data)
        return Outcome.HEALED


def _set_aside(tx: Transaction, store: BlobStore, finding: Finding) -> None:
    """Alone with the digest: take the bytes that were read away, and the record of them."""
    blobs.hold_bytes(tx, finding.digest)
    if not store.set_aside(finding.digest, finding.copy):
        raise _OtherCopy
    failpoints.reach("scrub.aside")
    _forget(tx, finding)


def _forget(tx: Transaction, finding: Finding) -> None:
    """From now on every repository says that it has no such blob, so that clients push it again."""
    blobs.forget_bytes(tx, finding.digest)
    damage.add(tx, finding.digest, finding.size_bytes, finding.problem)
    changes.mark(tx)


def _condemn(tx: Transaction, digest: Digest, seconds: float) -> int:
    blobs.hold_bytes(tx, digest)
    if claims.is_claimed(tx, digest, young=True):  # an old one is that of a request which was killed
        raise Unavailable("an upload of these bytes is being finished; try again later")
    until_ms = sweeps.condemn(tx, digest, seconds)
    if until_ms is None:
        raise Unavailable("these bytes are being deleted, or that was begun and not finished; try again later")
    return until_ms


def _acquit(tx: Transaction, finding: Finding, until_ms: int, done: bool) -> None:
    blobs.hold_bytes(tx, finding.digest)
    if sweeps.acquit(tx, finding.digest, until_ms) and done:
        _forget(tx, finding)


def healed(tx: Transaction, digest: Digest, size_bytes: int, payload: bytes | None = None, by: str = "") -> None:
    """Record that the store has the right bytes of a digest; *payload* are those of a manifest for the index."""
    blobs.keep_bytes(tx, digest, size_bytes)
    blobs.correct_size(tx, digest, size_bytes)
    if payload is not None:
        manifests.repair(tx, digest, payload)
    damage.forget(tx, digest)
    changes.mark(tx)
    audit.write(tx, *ACTOR, "blob.heal", digest, "done", **({"by": by} if by else {}))


def _repair(tx: Transaction, digest: Digest, payload: bytes) -> None:
    manifests.repair(tx, digest, payload)
    audit.write(tx, *ACTOR, "manifest.heal", digest)
