"""Looking at a repository of docker's registry, and at what is here of it: the plan of an import."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from registry.content import threads
from registry.content.docker_layout import DockerLayout
from registry.oci.digest import Digest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, imported, manifests, names, tags
from registry.server.index.engine import Index, Transaction
from registry.server.service import groups
from registry.server.service.moving.looking import Look
from registry.server.service.moving.plan import (
    Arrival,
    RepositoryPlan,
    TagChange,
    in_order,
    judge,
)
from registry.server.service.policy import Policy

T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Here:
    """What this registry has of a repository."""

    missing: list[Digest]
    tags: dict[Tag, Digest]
    before: dict[Tag, Digest]


class Survey:
    """Makes the plan of each repository. *source* names the other registry in the index."""

    def __init__(
        self, layout: DockerLayout, index: Index, policy: Policy, source: str, pool: Executor, overwrite: bool
    ) -> None:
        self._layout = layout
        self._index = index
        self._policy = policy
        self._source = source
        self._pool = pool
        self._overwrite = overwrite

    async def of(self, repository: Repository) -> RepositoryPlan:
        """The plan of one repository."""
        look = Look(self._layout, repository, self._policy)
        there = await self._run(look.revisions)
        named = await self._run(look.tag_names)
        pointing = dict(zip(named, await self._map(look.tag, named), strict=True))
        here = await self._index.read(_here, repository, there, self._source)
        found = [each for each in await self._map(look.arrival, here.missing) if each is not None]
        known = set(there).difference(here.missing)
        ordered = in_order({each.digest: each for each in found}, known, self._policy.sparse_indexes)
        for digest, lacking in ordered.refused.items():
            look.problem(digest, "lists manifests that are not there: " + _some(lacking))
        taken = known | {each.digest for each in ordered.accepted}
        return RepositoryPlan(
            repository,
            ordered.accepted,
            self._tags(look, pointing, here, taken),
            look.problems,
            known=len(known),
            loose=await self._loose(look, ordered.accepted),
            uploads=len(await self._run(self._layout.uploads, repository)),
        )

    def _tags(
        self, look: Look, pointing: dict[str, Digest | None], here: Here, taken: set[Digest]
    ) -> list[TagChange]:
        changes = []
        for name, there in pointing.items():
            if there is None:
                continue  # a problem by now
            tag = Tag(name)
            if there not in taken:
                look.problem(tag, f"points at {there}, which is not taken over")
                continue
            now, before = here.tags.get(tag), here.before.get(tag)
            changes.append(TagChange(tag, judge(there, now, before, self._overwrite), there, now, before))
        for tag in sorted(set(here.before).difference(pointing)):
            now, before = here.tags.get(tag), here.before[tag]
            changes.append(TagChange(tag, judge(None, now, before), None, now, before))
        return changes

    async def _loose(self, look: Look, arrivals: Iterable[Arrival]) -> int:
        """How many blobs are there that no manifest names that is here, or comes."""
        layers = await self._run(look.layers)
        coming = {piece.digest for each in arrivals for piece in each.pieces}
        absent = await self._index.read(_absent_blobs, look.repository, layers)
        return len(set(absent) - coming)

    async def _run(self, step: Callable[..., R], *args: object) -> R:
        return await threads.run(self._pool, step, *args)

    async def _map(self, step: Callable[[T], R], items: list[T]) -> list[R]:
        return await groups.gather(lambda item: self._run(step, item), items, _AT_ONCE)


def _here(tx: Transaction, repository: Repository, there: list[Digest], source: str) -> Here:
    return Here(
        manifests.absent(tx, repository, there),
        tags.everything(tx, repository),
        imported.of_repository(tx, source, repository),
    )


def _absent_blobs(tx: Transaction, repository: Repository, digests: list[Digest]) -> list[Digest]:
    repository_id = names.find(tx, repository)
    return digests if repository_id is None else blobs.absent(tx, repository_id, digests)


def _some(digests: list[Digest]) -> str:
    return ", ".join(digests[:3]) + (" …" if len(digests) > 3 else "")
