"""Which repository may read which blob, asked at every pull: from memory where nothing can have changed.

"It is there" is a promise to whoever is about to push a manifest that names the blob: it stays for a grace
period. A blob that a manifest of the repository names needs no promise, as its grace period begins when that
manifest goes; only such answers are kept in memory. For the others the moment is noted, unless it was lately.
"""

from __future__ import annotations

from registry.oci.digest import Digest
from registry.oci.errors import BlobUnknown
from registry.oci.reference import Repository
from registry.server.index import blobs
from registry.server.index.engine import Index
from registry.server.index.names import now_ms
from registry.server.service.hot import Hot

_HOT_BYTES = 8 << 20
_ENTRY_BYTES = 300


def slack_ms(grace_ms: int) -> int:
    """How old a promise may become before it is noted again; a candidate stays for so much longer."""
    return grace_ms // 8


class Links:
    """The links of all repositories. *grace_seconds* is what a promise is good for."""

    def __init__(self, index: Index, grace_seconds: float) -> None:
        self._index = index
        self._slack_ms = slack_ms(int(grace_seconds * 1000))
        self._hot: Hot[int] = Hot(_HOT_BYTES, index.epoch)

    async def size(self, repository: Repository, digest: Digest) -> int:
        """The length in bytes of a blob that the repository has, and goes on to have. Raises BlobUnknown."""
        key = (repository, digest)
        size_bytes = await self._hot.get(key)
        if size_bytes is not None:
            return size_bytes
        moment = self._hot.moment
        found = await self._index.read(blobs.standing, repository, digest)
        if found is None:
            raise BlobUnknown(digest)
        if found.is_referenced:
            self._hot.put(key, found.size_bytes, _ENTRY_BYTES, moment)
        elif now_ms() - found.told_ms >= self._slack_ms and not await self._index.note(
            blobs.tell, repository, digest
        ):
            raise BlobUnknown(digest)
        return found.size_bytes
