"""What a repository holds: manifests, tags, blobs, referrers; reading, pushing manifests, deleting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from registry import failpoints
from registry.content.store import Blob, BlobStore
from registry.oci import manifest as documents
from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.errors import (
    BlobUnknown,
    ContentMissing,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameUnknown,
)
from registry.oci.manifest import Manifest
from registry.oci.platform import LINUX_AMD64
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Caller, require
from registry.server.index import audit, blobs, damage, manifests, names, tags
from registry.server.index.engine import Index, Transaction
from registry.server.index.manifests import Stored
from registry.server.service import immutable, publishing
from registry.server.service.hot import Hot
from registry.server.service.links import Links
from registry.server.service.policy import Policy
from registry.server.service.pulls import Pulls
from registry.server.service.quotas import Quotas

T = TypeVar("T", Digest, Tag)

_HOT_MANIFESTS_BYTES = 64 << 20
_HOT_BLOBS_BYTES = 64 << 20
_HOT_BLOB_MAX_BYTES = 64 << 10
_REFERRERS_PAGE_BYTES = 2 << 20  # clients accept lists of at least 4 MiB
_PARSE_INLINE_BYTES = 64 << 10

Redirect = Callable[[Digest], Awaitable[str | None]]
_SEARCH_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to a manifest push."""

    digest: Digest
    subject: Digest | None


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; `next_after` is where the next page begins, None at the end."""

    items: Sequence[str]
    next_after: str | None


class Repositories:
    """The repositories of one registry."""

    def __init__(
        self,
        index: Index,
        store: BlobStore,
        policy: Policy,
        redirect: Redirect | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._index = index
        self._quotas = quotas or Quotas(index, ())
        self._store = store
        self._policy = policy
        self._redirect = redirect
        self._hot: Hot[Stored] = Hot(_HOT_MANIFESTS_BYTES, index.epoch)
        # Bytes under a digest never change, so these are right for ever; who may read them is asked each time.
        self._small: Hot[bytes] = Hot(_HOT_BLOBS_BYTES)
        self._links = Links(index, policy.gc_grace_seconds)
        self.pulls = Pulls(index)

    # --- manifests

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> Stored:
        """The manifest under a tag or digest. Raises ManifestUnknown.

        A hot one costs neither a query nor a thread hop.
        """
        stored = await self._hot.get((repository, wanted))
        if stored is not None:
            return stored
        moment = self._hot.moment
        stored = await self._index.read(manifests.get, repository, wanted)
        if stored is None:
            raise ManifestUnknown(wanted)
        self._hot.put((repository, wanted), stored, len(stored.payload) + 500, moment)
        return stored

    async def image_for_old_client(self, repository: Repository, index: Stored) -> Stored:
        """The linux/amd64 image of an index, for a docker client that knows no indexes.

        As docker's own registry does. Raises ManifestUnknown when the index lists none, or it is not here.
        """
        document = documents.parse(index.payload, index.media_type)
        for child in document.children():
            platform = child.platform
            if platform and (platform.os, platform.architecture) == (
                LINUX_AMD64.os,
                LINUX_AMD64.architecture,
            ):
                return await self.manifest(repository, child.digest)
        raise ManifestUnknown(index.digest)

    async def push_manifest(
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

    async def delete_manifest(self, caller: Caller, repository: Repository, digest: Digest) -> None:
        """Delete a manifest and the tags that point to it. Raises ManifestUnknown, Unsupported, Denied."""
        self._policy.require_deletion()

        def remove(tx: Transaction, repository: Repository, digest: Digest) -> bool:
            tagged = manifests.hold(tx, repository, digest)
            if tagged is None:
                return False
            immutable.require_mutable(self._policy.immutable_tags, repository, tagged, "deleted")
            change = self._policy.change(caller.name, "deleted with its manifest")
            if change is not None:
                return manifests.hide(tx, repository, digest, change)
            return manifests.remove(tx, repository, digest)

        if not await self._delete(caller, "manifest", remove, repository, digest):
            await self._require_known(repository)
            raise ManifestUnknown(digest)
        failpoints.reach("manifest.deleted")

    async def delete_tag(self, caller: Caller, repository: Repository, tag: Tag) -> None:
        """Delete a tag and leave its manifest. Raises ManifestUnknown, Unsupported, Denied."""
        self._policy.require_deletion()

        def remove(tx: Transaction, repository: Repository, tag: Tag) -> bool:
            found = tags.remove(tx, repository, tag, self._policy.change(caller.name, "deleted"))
            immutable.require_mutable(self._policy.immutable_tags, repository, [tag] if found else (), "deleted")
            return found

        if not await self._delete(caller, "tag", remove, repository, tag):
            await self._require_known(repository)
            raise ManifestUnknown(tag)
        failpoints.reach("tag.deleted")

    async def _require_known(self, repository: Repository) -> None:
        if await self._index.read(names.find, repository) is None:
            raise NameUnknown(repository)

    # --- blobs

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        """The length in bytes of a blob that the repository has. Raises BlobUnknown."""
        return await self._links.size(repository, digest)

    async def blob(self, repository: Repository, digest: Digest) -> bytes | Blob:
        """A blob that the repository has: its bytes when they are few, else open for reading.

        Raises BlobUnknown, and ContentMissing when the store lost what the index has.
        """
        size_bytes = await self.blob_size(repository, digest)
        try:
            if size_bytes > _HOT_BLOB_MAX_BYTES:
                return await self._store.open(digest)
            data = await self._small.get(digest)
            if data is None:
                data = await self._store.read(digest)
                if Digest.of(data, digest.algorithm) != digest:  # kept in memory, they would outlive their repair
                    raise ContentMissing(digest)
                self._small.put(digest, data, len(data) + 200, self._small.moment)
            return data
        except ContentMissing:
            await self._links.size(repository, digest)  # it may have been deleted this very moment
            await self._index.note(damage.suspect, digest)
            raise

    async def blob_address(self, digest: Digest) -> str | None:
        """An address of the store's own, for a while, of a blob that a repository has; None to read it here."""
        return None if self._redirect is None else await self._redirect(digest)

    async def delete_blob(self, caller: Caller, repository: Repository, digest: Digest) -> None:
        """Take a blob from a repository. Raises BlobUnknown, Unsupported."""
        self._policy.require_deletion()
        if not await self._delete(caller, "blob", blobs.unlink, repository, digest):
            raise BlobUnknown(digest)
        failpoints.reach("blob.unlinked")

    async def _delete(
        self,
        caller: Caller,
        kind: str,
        remove: Callable[[Transaction, Repository, T], bool],
        repository: Repository,
        gone: T,
    ) -> bool:
        """Delete something; False when it was not there. That it was denied is in the audit log too."""
        try:
            return await self._index.write(_delete, caller, kind, remove, repository, gone)
        except Denied:
            action, target = f"{kind}.delete", _target(kind, repository, gone)
            await self._index.note(audit.write, caller.name, caller.address, action, target, "denied")
            raise

    # --- lists

    async def tags(self, repository: Repository, after: str, limit: int | None) -> Page:
        """Tags in byte order. Raises NameUnknown."""
        size = self._page_size(limit)
        found = await self._index.read(tags.page, repository, after, size + 1)
        if found is None:
            raise NameUnknown(repository)
        return _page(found, size)

    async def catalogue(self, caller: Caller, after: str, limit: int | None) -> Page:
        """Names of repositories that hold something and that *caller* may pull, in byte order."""
        size = self._page_size(limit)
        visible: list[str] = []
        while len(visible) <= size:
            found = await self._index.read(names.page, after, size + 1)
            visible += [name for name in found if caller.may("pull", Repository(name))]
            if len(found) <= size:
                break
            after = found[-1]
        return _page(visible[: size + 1], size)

    async def search(self, caller: Caller, term: str, limit: int) -> list[str]:
        """Names that contain *term* of repositories that hold something and that *caller* may pull."""
        found: list[str] = []
        after = ""
        while True:
            names_page = await self._index.read(names.page, after, _SEARCH_PAGE, term)
            found += [name for name in names_page if caller.may("pull", Repository(name))]
            if len(found) >= limit or len(names_page) < _SEARCH_PAGE:
                return found[:limit]
            after = names_page[-1]

    def _page_size(self, limit: int | None) -> int:
        return self._policy.page_size_max if limit is None else min(limit, self._policy.page_size_max)

    async def referrers(
        self,
        repository: Repository,
        subject: Digest,
        artifact_type: str | None,
        after: str,
        limit: int | None,
    ) -> Page:
        """The descriptors (JSON) of manifests whose subject is *subject*, in byte order of their digests.

        Those that were pushed with the fallback tag are among them: what counts is a manifest's own subject.
        """
        size = self._page_size(limit)
        found = await self._index.read(manifests.referrers, repository, subject, artifact_type, after, size + 1)
        taken: list[str] = []
        taken_bytes = 0
        for digest, entry in found[:size]:
            taken_bytes += len(entry)
            if taken and taken_bytes > _REFERRERS_PAGE_BYTES:
                break
            taken.append(entry)
            after = digest
        return Page(taken, after if len(found) > len(taken) and size else None)


def _delete(
    tx: Transaction,
    caller: Caller,
    kind: str,
    remove: Callable[[Transaction, Repository, T], bool],
    repository: Repository,
    gone: T,
) -> bool:
    """Remove something with its line in the audit log; False when it was not there."""
    if not remove(tx, repository, gone):
        return False
    audit.write(tx, caller.name, caller.address, f"{kind}.delete", _target(kind, repository, gone))
    return True


def _target(kind: str, repository: Repository, gone: str) -> str:
    return f"{repository}{':' if kind == 'tag' else '@'}{gone}"


def _digest(wanted: Tag | Digest, payload: bytes) -> Digest:
    if isinstance(wanted, Tag):
        return Digest.of(payload)
    actual = Digest.of(payload, wanted.algorithm)
    if actual != wanted:
        raise DigestInvalid("the manifest does not have this digest", {"digest": wanted, "actual": actual})
    return actual


def _page(found: Sequence[str], size: int) -> Page:
    if len(found) <= size or not size:
        return Page(found[:size], None)
    return Page(found[:size], found[size - 1])


def referrers_document(entries: Sequence[str]) -> bytes:
    """An image index whose descriptors are *entries* (JSON texts)."""
    head = {"schemaVersion": 2, "mediaType": media.OCI_INDEX}
    return (json.dumps(head)[:-1] + ',"manifests":[' + ",".join(entries) + "]}").encode()
