"""A bound on how many requests a second one client address may make, in this process."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from registry.oci.errors import TooManyRequests

_ADDRESSES_MAX = 20_000


class Throttle:
    """A bucket for each address that fills with *rate* tokens a second, up to two seconds' worth.

    *clock* says the time in seconds, from any start.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count one request. Raises TooManyRequests."""
        if not self._rate:
            return
        now = self._clock()
        tokens, then = self._buckets.pop(address, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1 - tokens) / self._rate)
            raise TooManyRequests(f"more than {self._rate:g} requests a second from one address", wait)
