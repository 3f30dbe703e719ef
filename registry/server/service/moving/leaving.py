"""What of a repository is to be written out: all of it, or some tags with whatever belongs to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import ManifestUnknown, NameUnknown
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, manifests, names, tags
from registry.server.index.engine import Index, Transaction
from registry.server.index.manifests import Stored

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Leaving:
    """A manifest to write out, with the blobs that it names and that are here, and their lengths."""

    digest: Digest
    media_type: str
    size_bytes: int
    blobs: tuple[tuple[Digest, int], ...] = ()
    children: tuple[Digest, ...] = ()
    subject: Digest | None = None
    referrer: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Departure:
    """The plan for one repository: manifests, children before parents where they are found so, and tags."""

    repository: Repository
    manifests: dict[Digest, Leaving]
    tags: dict[Tag, Digest]

    def roots(self) -> list[Digest]:
        """The manifests that no other one of these lists, and no tag names: signatures, and what was untagged."""
        listed = {child for each in self.manifests.values() for child in each.children}
        return sorted(set(self.manifests) - listed - set(self.tags.values()))

    def referrers(self) -> dict[Digest, list[Leaving]]:
        """By subject, what refers to it."""
        found: dict[Digest, list[Leaving]] = {}
        for digest in sorted(self.manifests):
            each = self.manifests[digest]
            if each.subject is not None:
                found.setdefault(each.subject, []).append(each)
        return found


async def plan(index: Index, repository: Repository, wanted: Sequence[Tag]) -> Departure:
    """What to write of a repository; *wanted* tags alone, or all. Raises NameUnknown, ManifestUnknown.

    Tags are read first: what they name is there then, and stays unless somebody deletes it.
    """
    if await index.read(names.find, repository) is None:
        raise NameUnknown(repository)
    pointing = await index.read(tags.everything, repository)
    for tag in wanted:
        if tag not in pointing:
            raise ManifestUnknown(f"{repository}:{tag}")
    found: dict[Digest, Leaving] = {}
    if wanted:
        pointing = {tag: pointing[tag] for tag in wanted}
        await _closure(index, repository, pointing.values(), found)
    else:
        after = ""
        while page := await index.read(_page, repository, after):
            found.update((each.digest, each) for each in page)
            after = page[-1].digest
    return Departure(repository, found, {tag: digest for tag, digest in pointing.items() if digest in found})


async def _closure(
    index: Index, repository: Repository, digests: Iterable[Digest], found: dict[Digest, Leaving]
) -> None:
    """Add manifests, what they list, and what refers to any of them."""
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        each = await index.read(_one, repository, digest)
        if each is not None:
            found[digest] = each
            waiting += each.children
            waiting += await index.read(_referrers, repository, digest)


def _page(tx: Transaction, repository: Repository, after: str) -> list[Leaving]:
    return [_leaving(tx, repository, stored) for stored in manifests.page(tx, repository, after, _PAGE)]


def _one(tx: Transaction, repository: Repository, digest: Digest) -> Leaving | None:
    stored = manifests.get(tx, repository, digest)
    return None if stored is None else _leaving(tx, repository, stored)


def _referrers(tx: Transaction, repository: Repository, subject: Digest) -> list[Digest]:
    found: list[Digest] = []
    while page := manifests.referrers(tx, repository, subject, None, found[-1] if found else "", _PAGE):
        found += [Digest(digest) for digest, _ in page]
    return found


def _leaving(tx: Transaction, repository: Repository, stored: Stored) -> Leaving:
    document = documents.parse(stored.payload, stored.media_type)
    sized: dict[Digest, int] = {}
    children = []
    for each in (*document.blobs(), *document.layers, *document.children()):
        size_bytes = blobs.size(tx, repository, each.digest)
        if size_bytes is not None:
            sized[each.digest] = size_bytes
    for child in document.children():
        if child.digest not in sized:
            children.append(child.digest)
    size = len(stored.payload)
    return Leaving(
        stored.digest,
        stored.media_type,
        size,
        tuple(sized.items()),
        tuple(children),
        None if document.subject is None else document.subject.digest,
        document.referrer_descriptor(stored.digest, size),
    )
