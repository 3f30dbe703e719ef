"""The history of tags, and how what was moved or deleted comes back.

A restore is one transaction: it brings back every deleted manifest that the wanted one lists, sees that nothing
of them is missing, and points the tag there. Their bytes are still stored, as collection keeps what the history
names (docs/garbage-collection.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import UTC, datetime

from registry import failpoints
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import NameUnknown, RegistryError, Unavailable
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Caller, require
from registry.server.index import audit, blobs, history, names, restore, tags
from registry.server.index.engine import Index, Transaction
from registry.server.index.history import UNTAGGED, Entry, Point
from registry.server.index.restore import Branch
from registry.server.service import immutable
from registry.server.service.administration.words import since_ms_of
from registry.server.service.policy import Policy

_TRIES = 5
_FORGET_AT_ONCE = 500
_FAR_FUTURE_MS = 1 << 60


class NothingToRestore(RegistryError):
    """The history does not say where that would lead, or what it led to is gone."""

    code = "MANIFEST_UNKNOWN"


class Incomplete(RegistryError):
    """What is to come back names content that the repository does not have any more."""

    code = "MANIFEST_BLOB_UNKNOWN"


class _Moved(Exception):
    """Somebody changed meanwhile what was to be decided by."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall come back: a tag, to the manifest *to*, or where it pointed at a moment (ms since 1970), or where
    it pointed before; without a tag the manifest *to* alone.
    """

    tag: Tag | None = None
    to: Digest | None = None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """Where the tag points now, and where before; which manifests are served again."""

    digest: Digest
    was: Digest | None
    manifests: tuple[Digest, ...]
    is_changed: bool


class History:
    """The history of one registry."""

    def __init__(self, index: Index, policy: Policy) -> None:
        self._index = index
        self._policy = policy

    async def entries(
        self, repository: Repository, of: str | None = None, before: int = 0, limit: int = 1000
    ) -> list[Entry]:
        """What is over, the latest first; of one tag, or of a repository and its deleted manifests.

        *before* is the id that the page before ended with. Raises NameUnknown.
        """
        await self._require_known(repository)
        place = min(before or history.ID_MAX, history.ID_MAX)
        return await self._index.read(history.page, repository, of, place, limit)

    async def now(self, repository: Repository, tag: Tag) -> Point | None:
        """Where a tag points; None when there is none."""
        return await self._index.read(history.now, repository, tag)

    async def at(self, repository: Repository, tag: Tag, at_ms: int) -> Point:
        """Where a tag pointed at a moment. Raises NameUnknown, NothingToRestore."""
        await self._require_known(repository)
        found = await self._index.read(history.at, repository, tag, at_ms)
        if found is None:
            raise NothingToRestore(_unknown_then(repository, tag))
        return found

    async def restore(
        self,
        caller: Caller,
        repository: Repository,
        wanted: Wanted,
        confirm: Callable[[Transaction], None] | None = None,
    ) -> Restored:
        """Bring something back; *confirm* is asked in the transaction whether the caller still may.

        Raises NameUnknown, NothingToRestore, Incomplete, and Denied for an immutable tag or without the right.
        """
        await self._require_known(repository)
        require(caller, "push", repository)
        for _ in range(_TRIES):
            with contextlib.suppress(_Moved):
                done = await self._index.write(_restore, self._policy, caller, repository, wanted, confirm)
                failpoints.reach("history.done")
                return done
        raise Unavailable("others are changing this very tag; try again soon")

    async def deny(self, who: tuple[str, str], repository: Repository, wanted: Wanted) -> None:
        """Say in the audit log that a restore was denied to somebody (name and address)."""
        await self._index.note(audit.write, *who, *audited(repository, wanted), "denied")

    async def forget(
        self,
        who: tuple[str, str],
        repository: Repository,
        of: str | None,
        confirm: Callable[[Transaction], None] | None = None,
    ) -> int:
        """Forget the history of a repository, or of one tag, so that collection may free what it kept.

        Returns how many entries there were. *who* is name and address, for the audit log. Raises NameUnknown.
        """
        await self._require_known(repository)
        return await self._index.write(_forget, who, repository, of, confirm)

    async def forget_old(self) -> int:
        """Forget what is older than the operator wants it, and return how many entries that were."""
        keep_ms, total = int(self._policy.history_seconds * 1000), 0
        before_ms = names.now_ms() - keep_ms if keep_ms else _FAR_FUTURE_MS
        while gone := await self._index.write(history.forget, before_ms, _FORGET_AT_ONCE):
            total += gone
        return total

    async def _require_known(self, repository: Repository) -> None:
        if await self._index.read(names.find, repository) is None:
            raise NameUnknown(repository)


def _restore(
    tx: Transaction,
    policy: Policy,
    caller: Caller,
    repository: Repository,
    wanted: Wanted,
    confirm: Callable[[Transaction], None] | None,
) -> Restored:
    if confirm is not None:
        confirm(tx)
    digest = _target(tx, repository, wanted)
    shown = _bring_back(tx, policy, repository, digest)
    failpoints.reach("history.shown")
    was = None
    if wanted.tag is not None:
        held = tags.hold(tx, repository, wanted.tag)
        was = None if held is None else held[0]
        if _target(tx, repository, wanted) != digest:
            raise _Moved
        if was != digest:
            _point(tx, policy, caller, repository, wanted.tag, digest)
    is_changed = bool(shown) or (wanted.tag is not None and was != digest)
    if is_changed:
        action, target = audited(repository, wanted)
        who = caller.name, caller.address
        audit.write(tx, *who, action, target, digest=digest, was=was, manifests=shown)
    return Restored(digest, was, tuple(shown), is_changed)


def _target(tx: Transaction, repository: Repository, wanted: Wanted) -> Digest:
    """The manifest that a restore leads to. Raises NothingToRestore."""
    if wanted.to is not None:
        return wanted.to
    assert wanted.tag is not None
    if wanted.at_ms is not None:
        point = history.at(tx, repository, wanted.tag, wanted.at_ms)
        if point is None:
            raise NothingToRestore(_unknown_then(repository, wanted.tag))
        return point.digest
    present = history.now(tx, repository, wanted.tag)
    found = history.before(tx, repository, wanted.tag, present.digest if present else UNTAGGED)
    if found is None:
        raise NothingToRestore(f"the history of {repository}:{wanted.tag} has nothing to go back to")
    return found


def _unknown_then(repository: Repository, tag: Tag) -> str:
    return (
        f"{repository}:{tag} did not exist at that time, or the history does not go back so far; "
        "`hythe admin history` shows what is known"
    )


def _bring_back(tx: Transaction, policy: Policy, repository: Repository, digest: Digest) -> list[Digest]:
    """Serve a manifest and all that it lists again; returns those that were not served."""
    tree = restore.tree(tx, repository, digest)
    if digest not in tree:
        raise NothingToRestore(f"{repository} does not have {digest} any more; push it again")
    deleted = {name: branch for name, branch in tree.items() if branch.is_deleted}
    # What it names is kept first, then the manifests: the order of locks of blobs.py.
    _require_complete(tx, policy, repository, [tree[digest], *deleted.values()], tree.keys())
    if not restore.hold_all(tx, repository, [digest, *deleted]):
        raise _Moved
    restore.show(tx, repository, deleted.values())
    return sorted(deleted)


def _require_complete(
    tx: Transaction, policy: Policy, repository: Repository, branches: list[Branch], present: Container[Digest]
) -> None:
    """Raise Incomplete unless the repository has all that manifests name; what it has stays until the end."""
    needed: set[Digest] = set()
    for branch in branches:
        document = documents.parse(branch.stored.payload, branch.stored.media_type)
        if not policy.sparse_layers:
            needed.update(each.digest for each in document.blobs())
        if not policy.sparse_indexes:
            needed.update(each.digest for each in document.children())
    repository_id = names.find(tx, repository)
    assert repository_id is not None
    wanted = sorted(each for each in needed if each not in present)
    missing = blobs.absent(tx, repository_id, wanted, keep=True)
    if missing:
        raise Incomplete(
            f"{len(missing)} of the blobs that it names were deleted, {missing[0]} first; push the image again",
            {"digests": missing[:100]},
        )


def _point(
    tx: Transaction, policy: Policy, caller: Caller, repository: Repository, tag: Tag, digest: Digest
) -> None:
    names_id = names.find_or_add(tx, repository)
    moved = tags.move_all(tx, names_id, [tag], digest, policy.change(caller.name, "restored"))
    if moved:
        require(caller, "overwrite", repository)
        immutable.require_mutable(policy.immutable_tags, repository, moved, "moved")


def audited(repository: Repository, wanted: Wanted) -> tuple[str, str]:
    """What the audit log calls a restore, and what it says that it was about."""
    if wanted.tag is None:
        return "manifest.restore", f"{repository}@{wanted.to}"
    return "tag.restore", f"{repository}:{wanted.tag}"


def _forget(
    tx: Transaction,
    who: tuple[str, str],
    repository: Repository,
    of: str | None,
    confirm: Callable[[Transaction], None] | None,
) -> int:
    if confirm is not None:
        confirm(tx)
    count = history.forget_all_of(tx, repository, of)
    target = str(repository) if of is None else f"{repository}:{of}"
    audit.write(tx, *who, "history.forget", target, entries=count)
    return count


def moment_of(text: str) -> int:
    """A time as `2026-11-20T12:00:00Z` (UTC when it does not say), or as `2d` for so long ago. Raises Refused."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return since_ms_of(text.strip())
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
