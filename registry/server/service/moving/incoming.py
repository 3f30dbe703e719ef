"""Taking over the storage of docker's own registry, while both serve: a plan for each repository, then the deed.

Bytes come first, then the row that names them, as with a push; everything may be repeated, and only differences
cost. A manifest comes with its blobs in one transaction, after the manifests that it lists; tags come last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from registry import failpoints
from registry.content import threads
from registry.content.arrivals import Arrivals
from registry.content.docker_layout import DockerLayout
from registry.content.placing import How
from registry.content.store import BlobStore
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import (
    ConfigurationError,
    ContentMissing,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    NameInvalid,
    Unavailable,
)
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository
from registry.server.auth import patterns
from registry.server.index import audit, blobs, imported, manifests
from registry.server.index.engine import Index, Transaction
from registry.server.index.manifests import Stored
from registry.server.service import publishing
from registry.server.service.administration.changes import Actor
from registry.server.service.moving import settling
from registry.server.service.moving.plan import Arrival, Problem, RepositoryPlan, TagChange, Verdict
from registry.server.service.moving.report import Conflict, Report
from registry.server.service.moving.survey import Survey
from registry.server.service.policy import Policy

_AT_ONCE = 8
_TAGS_AT_ONCE = 100
_PAUSES_SECONDS = (0.2, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator wants: which repositories (patterns, none for all), and how."""

    repositories: Sequence[str] = ()
    dry_run: bool = False
    prune: bool = False
    overwrite: bool = False


class Import:
    """One run. *progress* is told now and then how far it is."""

    def __init__(
        self,
        index: Index,
        store: BlobStore,
        policy: Policy,
        layout: DockerLayout,
        arrivals: Arrivals,
        pool: Executor,
        wishes: Wishes,
        actor: Actor,
        progress: Callable[[Report], None],
    ) -> None:
        self._index = index
        self._store = store
        self._policy = policy
        self._layout = layout
        self._arrivals = arrivals
        self._pool = pool
        self._wishes = wishes
        self._actor = actor
        self._progress = progress
        self._source = layout.tree.name
        self._survey = Survey(layout, index, policy, self._source, pool, wishes.overwrite)
        self._locks: dict[Digest, asyncio.Lock] = {}
        self._wanted: set[Digest] = set()
        self.report = Report()

    async def run(self) -> Report:
        """Take over what there is. Raises ConfigurationError when there is nothing of the kind."""
        found = await threads.run(self._pool, lambda: list(self._layout.repositories()))
        before = await self._index.read(imported.repositories, self._source)
        if not found:
            raise ConfigurationError(
                f"{self._source} has no repository under docker/registry/v2/repositories; name the directory "
                "(or bucket and prefix) that is `rootdirectory` in the settings of that registry"
            )
        for name in sorted({*found, *before}):
            try:
                repository = Repository.parse(name)
            except NameInvalid as error:
                self.report.problems.append(Problem(name, "the repository", str(error)))
                continue
            if not self._wishes.repositories or any(
                patterns.matches(pattern, repository) for pattern in self._wishes.repositories
            ):
                await self._take(await self._survey.of(repository))
                self.report.repositories += 1
                self._progress(self.report)
        if not self._wishes.dry_run:
            await self._index.write(_note, self._actor, self._source, self.report)
        return self.report

    async def _take(self, plan: RepositoryPlan) -> None:
        self.report.problems += plan.problems
        self.report.manifests_present += plan.known
        self.report.loose_blobs += plan.loose
        self.report.unfinished_uploads += plan.uploads
        if self._wishes.dry_run:
            await self._foresee(plan)
            return
        for group in _groups(plan.arrivals):
            await asyncio.gather(*(self._arrive(plan.repository, each) for each in group))
            self._progress(self.report)
        for first in range(0, len(plan.tags), _TAGS_AT_ONCE):
            await self._settle(plan.repository, plan.tags[first : first + _TAGS_AT_ONCE])

    # --- manifests

    async def _arrive(self, repository: Repository, arrival: Arrival) -> None:
        try:
            await self._bring_patiently(repository, arrival)
        except FileNotFoundError:
            self._problem(repository, arrival.digest, "it, or a blob of it, went while it was taken over")
        except (DigestInvalid, ContentMissing, ManifestBlobUnknown, ManifestInvalid) as error:
            self._problem(repository, arrival.digest, f"not taken: {error}")

    async def _bring_patiently(self, repository: Repository, arrival: Arrival) -> None:
        """Whoever serves or collects beside this may be in the way for a moment."""
        for pause in _PAUSES_SECONDS:
            try:
                await self._bring(repository, arrival)
                return
            except Unavailable:
                await asyncio.sleep(pause)
        await self._bring(repository, arrival)

    def _problem(self, repository: Repository, what: str, why: str) -> None:
        self.report.problems.append(Problem(repository, what, why))

    async def _bring(self, repository: Repository, arrival: Arrival) -> None:
        payload = await threads.run(
            self._pool, self._layout.manifest, arrival.digest, arrival.stored_as, arrival.size_bytes + 1
        )
        document = documents.parse(payload, None, self._policy.manifest_references_max)
        came: dict[Digest, How] = {}

        async def put() -> None:
            for piece in arrival.pieces:
                async with self._locks.setdefault(piece.digest, asyncio.Lock()):
                    how = await self._arrivals.bring(piece.digest, piece.stored_as, piece.size_bytes)
                if came.setdefault(piece.digest, how) is How.PRESENT:
                    came[piece.digest] = how
            if not await self._arrivals.has(arrival.digest, len(payload)):
                await self._store.put(arrival.digest, [payload])
            failpoints.reach("import.brought")

        stored = Stored(arrival.digest, document.media_type, payload)
        digests = sorted({arrival.digest, *(piece.digest for piece in arrival.pieces)})
        await publishing.publish_all(
            self._index, self._store, digests, put, _record, repository, arrival, stored, document, self._policy
        )
        failpoints.reach("import.recorded")
        self.report.manifests += 1
        for piece in arrival.pieces:
            self._locks.pop(piece.digest, None)
            self.report.add_blob(came[piece.digest], piece.size_bytes)

    # --- tags

    async def _settle(self, repository: Repository, changes: Sequence[TagChange]) -> None:
        wishes = self._wishes
        done = await self._index.write(
            settling.settle,
            repository,
            self._source,
            changes,
            self._actor,
            self._policy,
            wishes.prune,
            wishes.overwrite,
        )
        failpoints.reach("import.tagged")
        for change, problem in done:
            self._count(repository, change, problem)

    def _count(self, repository: Repository, change: TagChange, problem: str) -> None:
        report = self.report
        if problem:
            self._problem(repository, change.name, problem)
        elif change.verdict is Verdict.CREATE:
            report.tags_created += 1
        elif change.verdict is Verdict.MOVE:
            report.tags_moved += 1
        elif change.verdict is Verdict.KEEP:
            report.tags_kept += 1
        elif change.verdict is Verdict.GONE and self._wishes.prune:
            report.tags_deleted += 1
        elif change.verdict is Verdict.GONE:
            report.deleted_there.append(f"{repository}:{change.name}")
        elif change.verdict is Verdict.CONFLICT:
            here = change.here or "deleted"
            report.conflicts.append(Conflict(repository, change.name, here, str(change.there)))

    # --- a dry run

    async def _foresee(self, plan: RepositoryPlan) -> None:
        """Count what would be done."""
        self.report.manifests += len(plan.arrivals)
        for arrival in plan.arrivals:
            for piece in arrival.pieces:
                is_here = piece.digest in self._wanted or await self._arrivals.has(piece.digest, piece.size_bytes)
                self._wanted.add(piece.digest)
                self.report.add_blob(How.PRESENT if is_here else How.WANTED, piece.size_bytes)
        for change in plan.tags:
            self._count(plan.repository, change, "")


def _groups(arrivals: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    """Some at a time, in order; what one of a group lists is never in the same one."""
    group: list[Arrival] = []
    for arrival in arrivals:
        if len(group) == _AT_ONCE or any(each.digest in arrival.children for each in group):
            yield group
            group = []
        group.append(arrival)
    if group:
        yield group


def _record(
    tx: Transaction,
    repository: Repository,
    arrival: Arrival,
    stored: Stored,
    document: Manifest,
    policy: Policy,
) -> None:
    """Link the blobs and record the manifest that names them, all or nothing."""
    for piece in sorted(arrival.pieces, key=lambda piece: piece.digest):
        blobs.link(tx, repository, piece.digest, piece.size_bytes)
    missing = manifests.absent_references(
        tx, repository, document, not policy.sparse_layers, not policy.sparse_indexes, keep=True
    )
    if missing:
        raise ManifestBlobUnknown(missing)
    manifests.put(tx, repository, stored, document, [])


def _note(tx: Transaction, actor: Actor, source: str, report: Report) -> None:
    moved = report.tags_created + report.tags_moved
    who = (actor.name, actor.address)
    audit.write(tx, *who, "registry.import", source, manifests=report.manifests, tags=moved)
