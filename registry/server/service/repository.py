"""What a repository holds, as it is read: manifests by tag or digest, and blobs; hot ones from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from registry.content.store import Blob, BlobStore
from registry.oci import manifest as documents
from registry.oci.digest import Digest
from registry.oci.errors import ContentMissing, ManifestUnknown
from registry.oci.platform import LINUX_AMD64
from registry.oci.reference import Repository, Tag
from registry.server.index import damage, manifests
from registry.server.index.engine import Index
from registry.server.index.manifests import Stored
from registry.server.service.deletions import Deletions
from registry.server.service.hot import Hot
from registry.server.service.links import Links
from registry.server.service.lists import Lists
from registry.server.service.policy import Policy
from registry.server.service.pulls import Pulls
from registry.server.service.pushes import Pushes
from registry.server.service.quotas import Quotas

_HOT_MANIFESTS_BYTES = 64 << 20
_HOT_BLOBS_BYTES = 64 << 20
_HOT_BLOB_MAX_BYTES = 64 << 10

Redirect = Callable[[Digest], Awaitable[str | None]]


class Repositories:
    """The repositories of one registry.

    `pushes` takes manifests in, `deletions` takes things away, `lists` says what there is, `pulls` notes what was
    asked for.
    """

    def __init__(
        self,
        index: Index,
        store: BlobStore,
        policy: Policy,
        redirect: Redirect | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._index = index
        self._store = store
        self._redirect = redirect
        self._hot: Hot[Stored] = Hot(_HOT_MANIFESTS_BYTES, index.epoch)
        # Bytes under a digest never change, so these are right for ever; who may read them is asked each time.
        self._small: Hot[bytes] = Hot(_HOT_BLOBS_BYTES)
        self._links = Links(index, policy.gc_grace_seconds)
        self.pulls = Pulls(index)
        self.pushes = Pushes(index, store, policy, quotas or Quotas(index, ()))
        self.deletions = Deletions(index, policy)
        self.lists = Lists(index, policy.page_size_max)

    # --- manifests

    async def manifest(self, repository: Repository, wanted: Tag | Digest) -> Stored:
        """The manifest under a tag or digest. Raises ManifestUnknown.

        A hot one costs neither a query nor a thread hop.
        """
        stored = await self._hot.get((repository, wanted))
        if stored is not None:
            return stored
        moment = self._hot.moment
        stored = await self._index.read(manifests.get, repository, wanted)
        if stored is None:
            raise ManifestUnknown(wanted)
        self._hot.put((repository, wanted), stored, len(stored.payload) + 500, moment)
        return stored

    async def image_for_old_client(self, repository: Repository, index: Stored) -> Stored:
        """The linux/amd64 image of an index, for a docker client that knows no indexes.

        As docker's own registry does. Raises ManifestUnknown when the index lists none, or it is not here.
        """
        document = documents.parse(index.payload, index.media_type)
        for child in document.children():
            platform = child.platform
            if platform and (platform.os, platform.architecture) == (
                LINUX_AMD64.os,
                LINUX_AMD64.architecture,
            ):
                return await self.manifest(repository, child.digest)
        raise ManifestUnknown(index.digest)

    # --- blobs

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        """The length in bytes of a blob that the repository has. Raises BlobUnknown."""
        return await self._links.size(repository, digest)

    async def blob(self, repository: Repository, digest: Digest) -> bytes | Blob:
        """A blob that the repository has: its bytes when they are few, else open for reading.

        Raises BlobUnknown, and ContentMissing when the store lost what the index has.
        """
        size_bytes = await self.blob_size(repository, digest)
        try:
            if size_bytes > _HOT_BLOB_MAX_BYTES:
                return await self._store.open(digest)
            data = await self._small.get(digest)
            if data is None:
                data = await self._store.read(digest)
                if Digest.of(data, digest.algorithm) != digest:  # kept in memory, they would outlive their repair
                    raise ContentMissing(digest)
                self._small.put(digest, data, len(data) + 200, self._small.moment)
            return data
        except ContentMissing:
            await self._links.size(repository, digest)  # it may have been deleted this very moment
            await self._index.note(damage.suspect, digest)
            raise

    async def blob_address(self, digest: Digest) -> str | None:
        """An address of the store's own, for a while, of a blob that a repository has; None to read it here."""
        return None if self._redirect is None else await self._redirect(digest)
