"""Deleting what a repository holds: manifests, tags, blobs. When it goes for good is for collection to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from registry import failpoints
from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown, Denied, ManifestUnknown, NameUnknown
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Caller
from registry.server.index import audit, blobs, manifests, names, tags
from registry.server.index.engine import Index, Transaction
from registry.server.service import immutable
from registry.server.service.policy import Policy

T = TypeVar("T", Digest, Tag)


class Deletions:
    """The deletions in one registry."""

    def __init__(self, index: Index, policy: Policy) -> None:
        self._index = index
        self._policy = policy

    async def manifest(self, caller: Caller, repository: Repository, digest: Digest) -> None:
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

    async def tag(self, caller: Caller, repository: Repository, tag: Tag) -> None:
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

    async def blob(self, caller: Caller, repository: Repository, digest: Digest) -> None:
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
