"""Lists, page by page: tags, names of repositories, what refers to a manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.errors import NameUnknown
from registry.oci.reference import Repository
from registry.server.auth.caller import Caller
from registry.server.index import manifests, names, tags
from registry.server.index.engine import Index

_REFERRERS_PAGE_BYTES = 2 << 20  # clients accept lists of at least 4 MiB
_SEARCH_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; `next_after` is where the next page begins, None at the end."""

    items: Sequence[str]
    next_after: str | None


class Lists:
    """The lists of one registry; a page has at most *page_size_max* entries, however many are asked for."""

    def __init__(self, index: Index, page_size_max: int) -> None:
        self._index = index
        self._page_size_max = page_size_max

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
        return self._page_size_max if limit is None else min(limit, self._page_size_max)

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


def _page(found: Sequence[str], size: int) -> Page:
    if len(found) <= size or not size:
        return Page(found[:size], None)
    return Page(found[:size], found[size - 1])


def referrers_document(entries: Sequence[str]) -> bytes:
    """An image index whose descriptors are *entries* (JSON texts)."""
    head = {"schemaVersion": 2, "mediaType": media.OCI_INDEX}
    return (json.dumps(head)[:-1] + ',"manifests":[' + ",".join(entries) + "]}").encode()
