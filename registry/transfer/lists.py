"""What a registry lists, page by page: tags, repositories, referrers, and what docker searches.

Source: OCI distribution-spec v1.1, "Listing Tags", "Listing Referrers"; docker's registry API, "Catalog".
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlencode, urljoin

from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import HytheError, ManifestInvalid, NameInvalid, RegistryError, TagInvalid
from registry.oci.reference import Repository, Tag
from registry.transfer.errors import AnswerInvalid, refusal
from registry.transfer.host import NO_SCOPES, Host

CATALOG_SCOPES = frozenset({"registry:catalog:*"})
SEARCH_SCOPES = frozenset({"registry:catalog:search"})
PAGE = 1000
PAGES_MAX = 100_000
_PAGE_MAX_BYTES = 8 << 20
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?', re.IGNORECASE)


async def pages(host: Host, path: str, scopes: frozenset[str], place: str) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON documents of a list, following `Link`. Raises AnswerInvalid, and what `Host.ask` raises."""
    seen: set[str] = set()
    while path and path not in seen and len(seen) < PAGES_MAX:
        seen.add(path)
        async with host.ask("GET", path, scopes=scopes, place=place) as answer:
            document = _document(host, await answer.read(_PAGE_MAX_BYTES))
            following = [_NEXT.search(value) for value in answer.all("Link")]
            found = next((match[1] for match in following if match), "")
            path = host.url(urljoin(answer.url, found)) if found else ""
        if path and not host.is_own(path):
            raise AnswerInvalid(f"{host.name}: the next page is said to be on another host")
        yield document


def _document(host: Host, body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise AnswerInvalid(f"{host.name}: the answer is not JSON; is this a registry?")
    return document


async def tags(host: Host, repository: Repository, scopes: frozenset[str]) -> AsyncIterator[Tag]:
    """Every tag of a repository, in the registry's order."""
    place = f"{host.name}/{repository}"
    listed = pages(host, f"/v2/{repository}/tags/list?n={PAGE}", scopes, place)
    async with aclosing(listed):
        async for document in listed:
            for text in document.get("tags") or ():
                try:
                    yield Tag.parse(text)
                except (TagInvalid, TypeError):
                    raise AnswerInvalid(f"{place}: the list of tags has something else in it") from None


async def catalog(host: Host) -> AsyncIterator[Repository]:
    """Every repository that the registry shows us."""
    listed = pages(host, f"/v2/_catalog?n={PAGE}", CATALOG_SCOPES, host.name)
    async with aclosing(listed):
        async for document in listed:
            for text in document.get("repositories") or ():
                try:
                    yield Repository.parse(text)
                except (NameInvalid, TypeError):
                    raise AnswerInvalid(f"{host.name}: the catalogue has something else in it") from None


async def referrers(
    host: Host, repository: Repository, digest: Digest, scopes: frozenset[str]
) -> list[Descriptor] | None:
    """The manifests that refer to *digest*; None when the registry has no such list."""
    found: list[Descriptor] = []
    place = f"{host.name}/{repository}"
    listed = pages(host, f"/v2/{repository}/referrers/{quote(digest)}", scopes, place)
    try:
        async with aclosing(listed):
            async for document in listed:
                if document.get("mediaType", media.OCI_INDEX) != media.OCI_INDEX:
                    return None
                found += read_referrers(document)
    except RegistryError as error:
        if is_missing(error):
            return None
        raise
    return found


def read_referrers(document: dict[str, Any]) -> list[Descriptor]:
    """The entries of a referrers list. Raises ManifestInvalid."""
    entries = document.get("manifests")
    if not isinstance(entries, list):
        raise ManifestInvalid("a list of referrers without manifests")
    return [Descriptor.parse(entry, f"manifests[{place}]") for place, entry in enumerate(entries)]


def is_missing(error: RegistryError) -> bool:
    """Whether a registry said that it knows no such thing, which for a list means: no such list."""
    return error.code in ("NAME_UNKNOWN", "MANIFEST_UNKNOWN") or "answered 404" in error.message


async def search(host: Host, term: str, limit: int) -> list[dict[str, Any]]:
    """What `docker search` shows: entries with name, description, star_count, is_official, is_automated.

    Raises HytheError where a registry has no search, as most have none.
    """
    path = "/v1/search?" + urlencode({"q": term, "n": limit})
    scopes = NO_SCOPES
    if await host.has_login():
        # A search answers strangers as well, so it never asks who we are: the base of the API does, as for docker.
        scopes = SEARCH_SCOPES
        async with host.ask("GET", "/v2/", scopes=scopes, expects=(200, 401, 403, 404), place=host.name):
            pass
    async with host.ask("GET", path, scopes=scopes, expects=(200, 404), place=host.name) as answer:
        body = await answer.read(_PAGE_MAX_BYTES)
        if answer.status == 404:
            raise HytheError(f"{host.name}: this registry has no search; hythe catalog {host.name} lists it")
        if answer.status != 200:
            raise refusal(host.name, answer.status, body)
        found = _document(host, body).get("results")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
