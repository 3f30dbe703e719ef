"""The whole registry walked once: what candidates missed becomes one, and bytes that are missing are named.

Candidates miss what was there before they were kept, what a crash left between the store and the index, and what
a change of `gc.untagged` makes garbage. Nothing is deleted here: whatever is found waits for a grace period from
now, like everything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from registry.content.store import BlobStore, Progress
from registry.oci.digest import Digest
from registry.oci.errors import UploadBusy
from registry.server.index import candidates, inventory, uploads
from registry.server.index.candidates import BYTES
from registry.server.index.engine import Index
from registry.server.service import groups
from registry.server.service.lease import Lease

_PAGE = 500
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes that the index names and the store does not have, and some of the repositories that have them."""

    digest: Digest
    size_bytes: int
    repositories: Sequence[str]


@dataclass(slots=True)
class Found:
    """What a walk came upon."""

    links: int = 0
    manifests: int = 0
    records: int = 0
    stored: int = 0
    uploads: int = 0
    candidates: int = 0
    missing: list[Missing] = field(default_factory=list)


class Reconciliation:
    """One walk."""

    def __init__(self, index: Index, store: BlobStore, delete_untagged: bool) -> None:
        self._index = index
        self._store = store
        self._delete_untagged = delete_untagged
        self.found = Found()

    async def run(self, lease: Lease) -> Found:
        """Walk everything, as long as *lease* is kept. Raises Unavailable."""
        self._lease = lease
        async for links in self._pages(inventory.links):
            self.found.links += len(links)
            await self._add([each for each in links if each.is_loose])
        async for manifests in self._pages(inventory.manifests):
            self.found.manifests += len(manifests)
            await self._add([e for e in manifests if e.is_loose and (self._delete_untagged or e.is_deleted)])
        async for records in self._pages(inventory.records):
            self.found.records += len(records)
            await self._add([each for each in records if each.is_loose])
            await self._look_for(records)
        await self._name_lost()
        async for digests in groups.of(self._store.digests(), _PAGE):
            self.found.stored += len(digests)
            await self._lease.is_kept()
            known = await self._index.read(inventory.recorded, digests)
            await self._note(BYTES, [digest for digest in digests if digest not in known], "no row names it")
        if self._store.is_near:  # a distant store knows by itself what nobody goes on with
            await self._discard_uploads()
        return self.found

    async def _discard_uploads(self) -> None:
        """Free what is left of uploads that the index does not know: a killed request of a whole blob."""
        async for session in self._store.sessions():
            if await self._index.read(uploads.get, session) is None:
                with contextlib.suppress(UploadBusy):  # by a request that is under way
                    async with self._store.upload(session):
                        if await self._index.read(uploads.get, session) is None:
                            await self._store.discard(session, Progress())
                            self.found.uploads += 1

    async def _pages(self, page: Callable[..., list[inventory.Entry]]) -> AsyncIterator[list[inventory.Entry]]:
        after: inventory.Entry | None = None
        while found := await self._index.read(page, after, _PAGE):
            yield found
            after = found[-1]
            await self._lease.is_kept()

    async def _add(self, entries: Sequence[inventory.Entry]) -> None:
        for repository_id in sorted({each.repository_id for each in entries}):
            digests = [each.digest for each in entries if each.repository_id == repository_id]
            await self._note(repository_id, digests, "found by a full walk")

    async def _note(self, repository_id: int, digests: Sequence[Digest], reason: str) -> None:
        if digests:
            self.found.candidates += await self._index.write(candidates.add_new, repository_id, digests, reason)

    async def _look_for(self, records: Sequence[inventory.Entry]) -> None:
        """See that the store has the bytes of *records*; of what was deleted meanwhile nothing is said."""
        sizes = await groups.gather(lambda each: self._store.size(each.digest), records, _AT_ONCE)
        for each, size_bytes in zip(records, sizes, strict=True):
            if size_bytes != each.size_bytes and not each.is_loose:
                await self._report(each)

    async def _name_lost(self) -> None:
        """What repositories have and there is no record of: its bytes were found wrong, and wait for a push."""
        after = ""
        while True:
            lost, after = await self._index.read(inventory.lost, after, _PAGE)
            for each in lost:
                holders = await self._index.read(inventory.holders, each.digest)
                self.found.missing.append(Missing(each.digest, 0, holders))
            if not after:
                break
            await self._lease.is_kept()

    async def _report(self, entry: inventory.Entry) -> None:
        holders = await self._index.read(inventory.holders, entry.digest)
        if holders and await self._store.size(entry.digest) != entry.size_bytes:
            self.found.missing.append(Missing(entry.digest, entry.size_bytes, holders))
