"""The storage of docker's own registry (distribution 2.x and 3.x), as it lies under its `rootdirectory`.

Pure paths, and a reader of what lies there. Blobs are files under their digest; everything else is links, files
that say a digest: a repository's revisions, tags and layers. Source: distribution, registry/storage/paths.go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from registry.content.trees import Tree
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, HytheError

ROOT = "docker/registry/v2"
REPOSITORIES = f"{ROOT}/repositories"
_LINK_BYTES_MAX = 1024
# Its release 2 writes links and manifests in place: for a moment they are empty, or half there.
_TRIES_SECONDS = (0.0, 0.02, 0.1, 0.3)


class BrokenLink(HytheError):
    """A link that says no digest."""


def blob(digest: Digest) -> str:
    """Where a blob's bytes are."""
    return f"{ROOT}/blobs/{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}/data"


def _link(repository: str, kind: str, digest: Digest) -> str:
    return f"{REPOSITORIES}/{repository}/{kind}/{digest.algorithm}/{digest.encoded}/link"


def revision(repository: str, digest: Digest) -> str:
    """The link that makes a manifest one of a repository."""
    return _link(repository, "_manifests/revisions", digest)


def layer(repository: str, digest: Digest) -> str:
    """The link by which a repository may read a blob."""
    return _link(repository, "_layers", digest)


def tag(repository: str, name: str) -> str:
    """The link that says where a tag points."""
    return f"{REPOSITORIES}/{repository}/_manifests/tags/{name}/current/link"


def tag_index(repository: str, name: str, digest: Digest) -> str:
    """The link that says that a tag points, or pointed once, to a manifest."""
    return _link(repository, f"_manifests/tags/{name}/index", digest)


class DockerLayout:
    """What lies in a tree; every method blocks. Names are as they lie there: the caller checks them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def repositories(self, under: str = "") -> Iterator[str]:
        """The names of all repositories, parents before children."""
        for name in self.tree.folders(f"{REPOSITORIES}/{under}".rstrip("/")):
            if not name.startswith("_"):
                full = f"{under}/{name}" if under else name
                if any(part.startswith("_") for part in self.tree.folders(f"{REPOSITORIES}/{full}")):
                    yield full
                yield from self.repositories(full)

    def revisions(self, repository: str) -> Iterator[str]:
        """The digests of a repository's manifests."""
        return self._digests(f"{REPOSITORIES}/{repository}/_manifests/revisions")

    def layers(self, repository: str) -> Iterator[str]:
        """The digests of a repository's blobs."""
        return self._digests(f"{REPOSITORIES}/{repository}/_layers")

    def _digests(self, path: str) -> Iterator[str]:
        for algorithm in self.tree.folders(path):
            for encoded in self.tree.folders(f"{path}/{algorithm}"):
                yield f"{algorithm}:{encoded}"

    def tags(self, repository: str) -> list[str]:
        """The names of a repository's tags."""
        return self.tree.folders(f"{REPOSITORIES}/{repository}/_manifests/tags")

    def uploads(self, repository: str) -> list[str]:
        """The uploads to a repository that were not finished."""
        return self.tree.folders(f"{REPOSITORIES}/{repository}/_uploads")

    def follow(self, path: str) -> Digest:
        """What a link says. Raises FileNotFoundError, BrokenLink.

        A link under one digest may say another: of the same bytes, by the algorithm that they are stored under.
        """
        for pause in _TRIES_SECONDS:
            time.sleep(pause)
            text = self.tree.read(path, _LINK_BYTES_MAX)
            try:
                return Digest.parse(text.decode(errors="replace").strip())
            except DigestInvalid as error:
                refused = error
        raise BrokenLink("the link is empty" if not text.strip() else f"the link says {str(refused)[:100]}")

    def manifest(self, digest: Digest, stored_as: Digest, most_bytes: int) -> bytes:
        """A manifest's bytes. Raises FileNotFoundError, and DigestInvalid when they are not *digest*'s."""
        for pause in _TRIES_SECONDS:
            time.sleep(pause)
            data = self.tree.read(blob(stored_as), most_bytes)
            if Digest.of(data, digest.algorithm) == digest:
                return data
        raise DigestInvalid("its bytes do not have its digest", {"digest": digest})
