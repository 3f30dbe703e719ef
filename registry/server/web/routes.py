"""The paths of the distribution API, read from their end: a repository may be called `a/manifests/b`.

Source: OCI distribution-spec v1.1, "Endpoints".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from registry.oci.reference import Repository

PREFIX = "/v2/"
_CACHED_PATH_MAX = 512


_NOWHERE = Repository("")


class Kind(Enum):
    """What a path is about."""

    BASE = "base"
    CATALOGUE = "catalogue"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    TAGS = "tags"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True)
class Route:
    """A path in parts: its kind, the repository, and the last part (a tag, digest or upload) as it came."""

    kind: Kind
    repository: Repository = _NOWHERE
    last: str = ""


_BASE = Route(Kind.BASE)
_CATALOGUE = Route(Kind.CATALOGUE)


def find(path: str) -> Route | None:
    """The route of *path*, None for a path that is not of this API. Raises NameInvalid."""
    return _find_cached(path) if len(path) <= _CACHED_PATH_MAX else _find(path)


def _find(path: str) -> Route | None:
    rest = path.removeprefix(PREFIX)
    if rest in ("", "_catalog"):
        return _CATALOGUE if rest else _BASE
    head, _, last = rest.rpartition("/")
    name, _, collection = head.rpartition("/")
    if collection == "uploads" and name.endswith("/blobs"):
        repository = Repository.parse(name.removesuffix("/blobs"))
        return Route(Kind.UPLOAD, repository, last) if last else Route(Kind.UPLOADS, repository)
    if not name or not last:
        return None
    if collection == "blobs" and last == "uploads":  # a proxy took the slash at the end away
        return Route(Kind.UPLOADS, Repository.parse(name))
    kind = {"manifests": Kind.MANIFEST, "blobs": Kind.BLOB, "referrers": Kind.REFERRERS}.get(collection)
    if kind is None and (collection, last) == ("tags", "list"):
        kind = Kind.TAGS
    return None if kind is None else Route(kind, Repository.parse(name), last)


_find_cached = lru_cache(maxsize=8192)(_find)
