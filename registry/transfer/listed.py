"""What is found by an index.json, the same in a directory, in a tar, and in a tar that is being written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from registry.oci import manifest as manifests
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.reference import Tag
from registry.transfer import index_json
from registry.transfer.errors import no_manifest
from registry.transfer.index_json import Entry
from registry.transfer.target import Pieces, is_manifest, read_all

_OFFERED_MAX = 20


class Listed(ABC):
    """A place whose manifests an index.json lists. References are tags, whole names or digests.

    `label` is what it is called in errors.
    """

    label: str

    @abstractmethod
    async def entries(self) -> list[Entry]:
        """All that index.json lists."""

    async def resolve(self, reference: str) -> Descriptor:
        """The manifest under a reference. Raises ManifestUnknown, which says what there is."""
        entries = await self.entries()
        found = index_json.find(entries, reference)
        if found is None:
            names = [name for entry in entries for name in entry.names[-1:]]
            offers = f"; there are: {', '.join(names[:_OFFERED_MAX])}" if names else ""
            raise no_manifest(self.label, reference, offers)
        return found

    async def tags(self) -> AsyncIterator[Tag]:
        """Every name, in the order of index.json."""
        for entry in await self.entries():
            for name in entry.names[-1:]:
                yield Tag(name)


class ListedWhole(Listed):
    """One whose manifests can all be read: Referring."""

    @abstractmethod
    def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The bytes from *start* on."""

    async def referrers(self, digest: Digest) -> Sequence[Descriptor]:
        """Those of the listed manifests whose subject is *digest*."""
        listed = [entry.descriptor for entry in await self.entries()]
        unique = {one.digest: one for one in listed if is_manifest(one)}.values()
        return [one for one in unique if await self.subject(one) == digest]

    async def subject(self, descriptor: Descriptor) -> Digest | None:
        """What a manifest refers to."""
        parsed = manifests.parse(await read_all(self, descriptor), descriptor.media_type)
        return parsed.subject.digest if parsed.subject else None
