"""Guessing made slow: failures are counted in the index, so that all workers know of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from registry.oci.errors import TooManyRequests
from registry.server.index import credentials
from registry.server.index.credentials import Attempts
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms

# Failures that are free, the longest block, and for how long failures are remembered, in seconds. An account
# under attack from elsewhere is slowed for seconds, never locked: its owner comes in between.
_PAIR = (5, 300.0, 3600.0)
_ADDRESS = (30, 300.0, 3600.0)
_ACCOUNT = (50, 5.0, 600.0)
# A login from an address where the account came in within a day is not slowed by what others try on it.
_WELCOME_AGAIN_MS = 3_600_000


class Counters(NamedTuple):
    """The rows under which logins of a name from an address are counted; `welcome` is there after a good one."""

    pair: str
    address: str
    account: str
    welcome: str

    @classmethod
    def of(cls, name: str, address: str) -> Counters:
        """Those of a login."""
        who, origin = name.lower()[:130], _origin(address)
        return cls(f"pair:{who}@{origin}", f"address:{origin}", f"account:{who}", f"welcome:{who}@{origin}")

    def is_fresh(self, known: Mapping[str, Attempts]) -> bool:
        """Whether the good login was noted so lately that this one need not be."""
        return self.welcome in known and known[self.welcome].touched_ms > now_ms() - _WELCOME_AGAIN_MS


class Slowing:
    """Has those wait from whose address, or on whose account, too much failed."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def require_address(self, address: str) -> None:
        """Raise TooManyRequests for an address from which too much failed."""
        of_address = Counters.of("", address).address
        _require_past((await self._index.read(credentials.attempts, [of_address])).values())

    async def require(self, counters: Counters) -> dict[str, Attempts]:
        """What is counted, when nothing of it stands in the way now. Raises TooManyRequests."""
        known = await self._index.read(credentials.attempts, list(counters))
        _require_past(
            attempts for key, attempts in known.items() if key != counters.account or counters.welcome not in known
        )
        return known

    async def address_failed(self, address: str) -> None:
        """Count something that failed from an address, as failed logins are."""
        await self._index.note(credentials.failed, Counters.of("", address).address, *_ADDRESS)

    async def failed(self, counters: Counters) -> None:
        """Count a login that failed."""
        await self._index.note(_count_failure, counters)

    async def succeeded(self, counters: Counters, known: Mapping[str, Attempts]) -> None:
        """Forget what failed from there; *known* is what `require` found."""
        if counters.pair in known or not counters.is_fresh(known):
            await self._index.note(credentials.succeeded, counters.pair, counters.welcome)


def _origin(address: str) -> str:
    """What counts as one address: of IPv6, the network that one customer is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _require_past(counted: Iterable[Attempts]) -> None:
    wait_ms = max((attempts.until_ms for attempts in counted), default=0) - now_ms()
    if wait_ms > 0:
        raise TooManyRequests("too many failed logins; wait, then try again", 1 + wait_ms // 1000)


def _count_failure(tx: Transaction, counters: Counters) -> None:
    for key, bounds in zip(counters[:3], (_PAIR, _ADDRESS, _ACCOUNT), strict=True):
        credentials.failed(tx, key, *bounds)
