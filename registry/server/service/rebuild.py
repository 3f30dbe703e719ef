"""The index made anew from what the store has. docs/storage.md says what comes back, and why no more.

Everything is added and nothing taken away, each step may be repeated, and what is done is seen in the index: so
whoever was killed in it begins again, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from registry import failpoints
from registry.content.store import BlobStore
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, ManifestInvalid, Unavailable
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, inventory, manifests, recovered
from registry.server.index.engine import Index, Transaction
from registry.server.index.manifests import Stored
from registry.server.service import groups
from registry.server.service.lease import Lease

JOB = "rebuild"
REPOSITORY = Repository("recovered")
_PAGE = 200
_AT_ONCE = 16
_SHOWN_MAX = 1000


@dataclass(slots=True)
class Found:
    """What came of it. `incomplete` are manifests that name what is not in the store."""

    repository: str = REPOSITORY
    stored: int = 0
    recorded: int = 0
    manifests: int = 0
    blobs: int = 0
    tags: int = 0
    damaged: list[Digest] = field(default_factory=list)
    incomplete: list[Digest] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Item:
    """A digest of the store; with `manifest` when its bytes are one."""

    digest: Digest
    size_bytes: int
    payload: bytes = b""
    manifest: Manifest | None = None
    is_wrong: bool = False


class Rebuilding:
    """One rebuilding. A manifest has at most *manifest_max_bytes*."""

    def __init__(self, index: Index, store: BlobStore, manifest_max_bytes: int) -> None:
        self._index = index
        self._store = store
        self._manifest_max_bytes = manifest_max_bytes
        self.found = Found()

    async def run(self, lease: Lease) -> Found:
        """Do it, while *lease* keeps collections away. Raises Unavailable, OSError."""
        async for digests in groups.of(self._store.digests(), _PAGE):
            if not await lease.is_kept():
                raise Unavailable("somebody else has begun to collect; pause that: hythe admin gc pause")
            await self._take(digests)
        await self._complete()
        await self._name()
        return self.found

    # --- what is there

    async def _take(self, digests: Sequence[Digest]) -> None:
        """Record a page of the store; what no repository has goes into REPOSITORY."""
        self.found.stored += len(digests)
        known = await self._index.read(inventory.recorded, digests)
        held = await self._index.read(recovered.held, digests)
        unknown = [each for each in digests if each not in known or each not in held]
        items = await groups.gather(self._look, unknown, _AT_ONCE)
        right = [item for item in items if item is not None and not item.is_wrong]
        self.found.damaged += [item.digest for item in items if item is not None and item.is_wrong]
        self.found.recorded += sum(item.digest not in known for item in right)
        await self._index.write(_record, [item for item in right if item.digest in held])
        await self._recover([item for item in right if item.digest not in held])

    async def _recover(self, items: Sequence[_Item]) -> None:
        if items:
            await self._index.write(_record_recovered, items)
            self.found.manifests += sum(item.manifest is not None for item in items)
            self.found.blobs += sum(item.manifest is None for item in items)
        failpoints.reach("rebuild.recorded")

    async def _look(self, digest: Digest) -> _Item | None:
        """What the store has under a digest; None when that has just gone."""
        copy = await self._store.copy_of(digest)
        if copy is None:
            return None
        item = _Item(digest, copy.size_bytes)
        if not 2 <= copy.size_bytes <= self._manifest_max_bytes or not await self._begins_an_object(digest):
            return item
        try:
            payload = await self._store.read(digest)
        except ContentMissing:
            return None
        if Digest.of(payload, digest.algorithm) != digest:
            return _Item(digest, copy.size_bytes, is_wrong=True)
        try:
            parsed = await asyncio.to_thread(documents.parse, payload, None)
        except ManifestInvalid:
            return item
        return _Item(digest, copy.size_bytes, payload, parsed)

    async def _begins_an_object(self, digest: Digest) -> bool:
        """Whether a blob's first bytes may be those of JSON's `{`; layers are told apart without reading them."""
        try:
            blob = await self._store.open(digest)
        except ContentMissing:
            return False
        try:
            async for piece in blob.pieces(0, min(64, blob.size_bytes), 64):
                return bytes(piece).lstrip()[:1] in (b"{", b"")
            return False
        finally:
            blob.close()

    # --- what that needs

    async def _complete(self) -> None:
        """Give REPOSITORY what its manifests name and another repository has; children bring children."""
        while True:
            failpoints.reach("rebuild.recovered")
            after, news = "", 0
            while page := await self._index.read(recovered.missing, REPOSITORY, after, _PAGE):
                items = await groups.gather(self._look, page, _AT_ONCE)
                there = [item for item in items if item is not None and not item.is_wrong]
                if there:
                    await self._index.write(_record_recovered, there)
                news += len(there)
                after = page[-1]
            if not news:
                break
        wanting = await self._index.read(recovered.incomplete, REPOSITORY, _SHOWN_MAX)
        self.found.incomplete = list(wanting)

    async def _name(self) -> None:
        """Tag what nothing else leads to, so that it can be listed, and stays where `gc.untagged` is delete."""
        after = ""
        while page := await self._index.read(recovered.tops, REPOSITORY, after, _PAGE):
            names = {each: Tag(f"recovered-{each.encoded[:16]}") for each in page}
            self.found.tags += await self._index.write(recovered.name, REPOSITORY, names)
            after = page[-1]


def _record(tx: Transaction, items: Sequence[_Item]) -> None:
    for item in sorted(items, key=lambda item: item.digest):
        blobs.keep_bytes(tx, item.digest, item.size_bytes)


def _record_recovered(tx: Transaction, items: Sequence[_Item]) -> None:
    for item in sorted(items, key=lambda item: item.digest):
        if item.manifest is None:
            blobs.link(tx, REPOSITORY, item.digest, item.size_bytes)
        else:
            stored = Stored(item.digest, item.manifest.media_type, item.payload)
            manifests.put(tx, REPOSITORY, stored, item.manifest, ())
