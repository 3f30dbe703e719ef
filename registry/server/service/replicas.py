"""Healing from elsewhere: what this registry lost, another one may have under the same name."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

from registry.content.store import BlobStore, Progress
from registry.oci.digest import Digest
from registry.oci.errors import RegistryError
from registry.oci.reference import Repository
from registry.server.index import inventory
from registry.server.index.engine import Index, Transaction
from registry.server.service import publishing
from registry.server.service.examine import Finding
from registry.server.service.mend import healed
from registry.transfer.fetch import FetchFailed
from registry.transfer.replica import Replica, in_time

log = logging.getLogger("hythe.scrub")

_UNKNOWN_MAX_BYTES = 1 << 40
_REPOSITORIES_MAX = 5  # of those that have the digest; whoever has it in one has it in most


class Replicas:
    """Other registries, asked in order for a digest under the names of the repositories that have it."""

    def __init__(self, index: Index, store: BlobStore, replicas: Sequence[Replica]) -> None:
        self._index = index
        self._store = store
        self._replicas = replicas

    async def heal(self, finding: Finding) -> bool:
        """Get the bytes of a digest and record them; False when nobody has them right. A `mend.Source`."""
        if not self._replicas:
            return False
        names = (await self._index.read(inventory.holders, finding.digest))[:_REPOSITORIES_MAX]
        is_manifest = bool(await self._index.read(inventory.payloads, finding.digest))
        for replica in self._replicas:
            for name in names:
                try:
                    size_bytes = await self._fetch(replica, Repository(name), is_manifest, finding)
                except (FetchFailed, RegistryError) as error:
                    fields = {"digest": finding.digest, "replica": replica.url, "repo": name, "error": str(error)}
                    log.info("scrub.replica_failed", extra={"fields": fields})
                    continue
                fields = {"digest": finding.digest, "replica": replica.url, "repo": name, "bytes": str(size_bytes)}
                log.info("scrub.fetched", extra={"fields": fields})
                return True
        return False

    async def _fetch(self, replica: Replica, name: Repository, is_manifest: bool, finding: Finding) -> int:
        """Take the bytes in as an upload does: nobody sees them before they have their digest."""
        digest, session = finding.digest, str(uuid.uuid4())
        kind, payload = "manifests" if is_manifest else "blobs", bytearray()
        try:
            async with (
                replica.open(name, kind, digest) as pieces,
                self._store.upload(session) as upload,
            ):
                await upload.begin(Progress(), digest.algorithm)
                async for piece in in_time(pieces, finding.size_bytes or _UNKNOWN_MAX_BYTES):
                    await upload.append([piece])
                    payload += piece if is_manifest else b""

                async def commit() -> None:
                    await upload.commit(digest)

                await publishing.publish(
                    self._index, self._store, digest, commit, _record, digest, upload.size_bytes, bytes(payload)
                )
                return upload.size_bytes
        except BaseException:
            await self._store.discard(session, Progress())
            raise


def _record(tx: Transaction, digest: Digest, size_bytes: int, payload: bytes) -> None:
    healed(tx, digest, size_bytes, payload or None, by="a replica")
