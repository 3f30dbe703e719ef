"""Bytes from somebody else's tree into a content store, by the shortest way that is safe."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING

from registry.content import docker_layout, streaming
from registry.content.files import FileStore
from registry.content.placing import Care, How
from registry.content.store import BlobStore
from registry.content.trees import DirectoryTree, Tree
from registry.oci.digest import Digest

if TYPE_CHECKING:
    from registry.content.s3 import S3Store
    from registry.content.s3_bucket import Bucket


class Arrivals:
    """Brings blobs of docker's layout in *tree* to *store*. *pool* has the threads that read."""

    def __init__(self, tree: Tree, store: BlobStore, care: Care, pool: Executor) -> None:
        self._tree = tree
        self._store = store
        self._care = care
        self._pool = pool
        self._beside = _beside(tree, store)

    async def has(self, digest: Digest, size_bytes: int) -> bool:
        """Whether the store has a blob."""
        return await self._store.size(digest) == size_bytes

    async def bring(self, digest: Digest, stored_as: Digest, size_bytes: int) -> How:
        """See that the store has a blob, which lies in the tree as *stored_as*. Safe to repeat.

        Raises FileNotFoundError, and DigestInvalid when its bytes are not what *digest* and *size_bytes* say.
        """
        if await self.has(digest, size_bytes):
            return How.PRESENT
        path = docker_layout.blob(stored_as)
        known = digest == stored_as  # else nobody may have seen that they are the same bytes
        if isinstance(self._tree, DirectoryTree) and isinstance(self._store, FileStore):
            care = self._care if known else replace(self._care, verify=True)
            return await self._store.adopt(digest, self._tree.path(path), size_bytes, care)
        if self._beside is not None and known and not self._care.verify:
            store, bucket = self._beside
            await store.take_over(digest, bucket, path, size_bytes)
            return How.CLONED
        pieces = streaming.of_iterator(self._pool, self._tree.pieces(path))
        await streaming.store(self._store, digest, size_bytes, pieces)
        return How.COPIED


def _beside(tree: Tree, store: BlobStore) -> tuple[S3Store, Bucket] | None:
    """The store and the bucket to copy from within it, when both are of the same S3 store."""
    if isinstance(tree, DirectoryTree) or isinstance(store, FileStore):
        return None
    from registry.content.s3 import S3Store  # slow to import
    from registry.content.s3_tree import BucketTree

    if isinstance(tree, BucketTree) and isinstance(store, S3Store) and store.bucket.is_beside(tree.bucket):
        return store, tree.bucket
    return None
