"""The registry's own keys, as they are now."""

from __future__ import annotations

from registry.server.auth import tokens
from registry.server.auth.keys import SigningKey
from registry.server.index import credentials
from registry.server.index.credentials import StoredKey
from registry.server.index.engine import Index
from registry.server.index.names import now_ms
from registry.server.service.hot import Hot


class KeyRing:
    """The keys that sign and verify, as the index has them now."""

    def __init__(self, index: Index, lifetime_seconds: float) -> None:
        self._index = index
        # A retired key verifies for as long as what it signed may live.
        self._kept_ms = int((lifetime_seconds + 2 * tokens.LEEWAY_SECONDS) * 1000)
        self._hot: Hot[list[StoredKey]] = Hot(1 << 20, index.epoch)

    async def _all(self) -> list[StoredKey]:
        found = await self._hot.get("keys")
        if found is None:
            moment = self._hot.moment
            found = await self._index.read(credentials.keys)
            self._hot.put("keys", found, 1000, moment)
        return found

    async def signing(self) -> SigningKey:
        """The key that signs now."""
        for stored in await self._all():
            if stored.retired_ms is None:
                return stored.key
        raise LookupError("the index has no signing key")

    async def verifying(self) -> dict[str, SigningKey]:
        """The keys whose signatures hold now, by their ids."""
        oldest = now_ms() - self._kept_ms
        return {
            stored.key.id: stored.key
            for stored in await self._all()
            if stored.retired_ms is None or stored.retired_ms > oldest
        }
