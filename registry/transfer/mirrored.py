"""A repository with mirrors before it: each is asked in order, the registry itself last."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, HytheError
from registry.oci.reference import Tag
from registry.transfer.hosts import Uses
from registry.transfer.remote import Remote
from registry.transfer.target import Pieces

log = logging.getLogger("hythe.transfer")


@dataclass(frozen=True, slots=True)
class Copy:
    """A mirror's repository, and what it may be asked for."""

    remote: Remote
    uses: Uses = "all"
    can_resolve: bool = True

    def answers(self, reference: Tag | Digest) -> bool:
        """Whether it may be asked what a tag or digest means."""
        return self.can_resolve and self.uses in (
            "all",
            "digest-only" if isinstance(reference, Digest) else "tag-only",
        )


class Mirrored:
    """A Source, Referring and Doubting. What a mirror fails at, in whatever way, the next one does.

    Content is found by digest, so a mirror can delay but not deceive; only what a tag means is its word.
    """

    def __init__(self, mirrors: Sequence[Copy], origin: Remote) -> None:
        self.origin = origin
        self._mirrors = list(mirrors)
        self._failed: set[int] = set()
        self._came_from: dict[Digest, int] = {}  # contents that a mirror gave a part of, and which mirror

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        """What the first that knows *reference* says. Raises what the registry itself raises."""
        for place, mirror in self._usable():
            if mirror.answers(reference):
                try:
                    return await mirror.remote.resolve(reference)
                except HytheError as error:
                    self._note(place, error)
        return await self.origin.resolve(reference)

    async def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes from *start* on; where one place broke off, the next goes on."""
        position = start
        for place, mirror in self._usable():
            if mirror.uses == "tag-only":
                continue
            self._came_from[descriptor.digest] = place
            try:
                async with aclosing(mirror.remote.fetch(descriptor, position)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                return
            except HytheError as error:
                self._note(place, error)
        async with aclosing(self.origin.fetch(descriptor, position)) as pieces:
            async for piece in pieces:
                yield piece

    def doubt(self, descriptor: Descriptor) -> bool:
        """Ask that mirror no more which gave wrong bytes; False when they did not come from a mirror."""
        place = self._came_from.pop(descriptor.digest, None)
        if place is not None:
            self._note(place, DigestInvalid(f"it has wrong bytes for {descriptor.digest}"))
        return place is not None

    def tags(self) -> AsyncIterator[Tag]:
        """Every tag of the registry itself: a mirror may have some of them only."""
        return self.origin.tags()

    async def referrers(self, digest: Digest) -> Sequence[Descriptor]:
        """The referrers that the registry itself knows."""
        return await self.origin.referrers(digest)

    def _usable(self) -> list[tuple[int, Copy]]:
        return [(place, copy) for place, copy in enumerate(self._mirrors) if place not in self._failed]

    def _note(self, place: int, error: HytheError) -> None:
        self._failed.add(place)
        log.warning(
            "mirror.failed", extra={"fields": {"mirror": self._mirrors[place].remote.place, "error": str(error)}}
        )
