"""Pushing a manifest: asked, stored, and made visible with its tags in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from registry import failpoints
from registry.content.store import BlobStore
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import Denied, DigestInvalid, ManifestBlobUnknown, ManifestInvalid, ManifestTooLarge
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Caller, require
from registry.server.index import audit, manifests
from registry.server.index.engine import Index, Transaction
from registry.server.index.manifests import Stored
from registry.server.service import immutable, publishing
from registry.server.service.policy import Policy
from registry.server.service.quotas import Quotas

_PARSE_INLINE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to a manifest push."""

    digest: Digest
    subject: Digest | None


class Pushes:
    """The pushes of manifests to one registry."""

    def __init__(self, index: Index, store: BlobStore, policy: Policy, quotas: Quotas) -> None:
        self._index = index
        self._store = store
        self._policy = policy
        self._quotas = quotas

    async def push(
        self,
        caller: Caller,
        repository: Repository,
        wanted: Tag | Digest,
        with_tags: Sequence[Tag],
        content_type: str | None,
        payload: bytes,
    ) -> Pushed:
        """Store a manifest under a digest or tag, and point *with_tags* at it, all or nothing.

        Raises ManifestTooLarge, ManifestInvalid, DigestInvalid when *payload* is not what the digest says,
        ManifestBlobUnknown when it names what was not pushed, Denied when a tag exists and may not be moved.
        """
        if len(payload) > self._policy.manifest_size_max_bytes:
            raise ManifestTooLarge(self._policy.manifest_size_max_bytes)
        document = await self._parse(payload, content_type)
        digest = _digest(wanted, payload)
        moving = list(dict.fromkeys([wanted, *with_tags] if isinstance(wanted, Tag) else with_tags))
        if len(moving) > self._policy.tags_per_request_max:
            raise ManifestInvalid(f"more than {self._policy.tags_per_request_max} tags in one request")
        stored = Stored(digest, document.media_type, payload)
        # Asked before the bytes are stored, so that a refused push leaves nothing, and again in the
        # transaction that makes it visible.
        await self._index.read(self._require_references, repository, document)
        await self._quotas.take(caller, repository, digest, len(payload))

        async def put() -> None:
            await self._store.put(digest, [payload])
            failpoints.reach("manifest.stored")

        record = partial(self._record, caller=caller, stored=stored, document=document, moving=moving)
        try:
            await publishing.publish(self._index, self._store, digest, put, record, repository)
        except Denied:
            who = (caller.name, caller.address)
            await self._index.note(audit.write, *who, "repository.overwrite", f"{repository}@{digest}", "denied")
            raise
        failpoints.reach("manifest.indexed")
        return Pushed(digest, document.subject.digest if document.subject else None)

    async def _parse(self, payload: bytes, content_type: str | None) -> Manifest:
        limit = self._policy.manifest_references_max
        if len(payload) <= _PARSE_INLINE_BYTES:
            return documents.parse(payload, content_type, limit)
        return await asyncio.to_thread(documents.parse, payload, content_type, limit)

    def _require_references(
        self, tx: Transaction, repository: Repository, document: Manifest, keep: bool = False
    ) -> None:
        missing = manifests.absent_references(
            tx,
            repository,
            document,
            need_blobs=not self._policy.sparse_layers,
            need_children=not self._policy.sparse_indexes,
            keep=keep,
        )
        if missing:
            raise ManifestBlobUnknown(missing)

    def _record(
        self,
        tx: Transaction,
        repository: Repository,
        caller: Caller,
        stored: Stored,
        document: Manifest,
        moving: Sequence[Tag],
    ) -> None:
        self._require_references(tx, repository, document, keep=True)
        # Asked of what was moved, not of what was there: between a look and the move another push may come.
        change = self._policy.change(caller.name, "moved")
        moved = manifests.put(tx, repository, stored, document, moving, change)
        if moved:
            require(caller, "overwrite", repository)
            immutable.require_mutable(self._policy.immutable_tags, repository, moved, "moved")
        target = f"{repository}@{stored.digest}"
        who = (caller.name, caller.address)
        audit.write(tx, *who, "manifest.push", target, tags=list(moving), overwritten=moved)


def _digest(wanted: Tag | Digest, payload: bytes) -> Digest:
    if isinstance(wanted, Tag):
        return Digest.of(payload)
    actual = Digest.of(payload, wanted.algorithm)
    if actual != wanted:
        raise DigestInvalid("the manifest does not have this digest", {"digest": wanted, "actual": actual})
    return actual
