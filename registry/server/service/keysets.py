"""Keys of others, as their files or addresses publish them now: asked for rarely, and never because a stranger
wants it more often.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Generic, TypeVar

from registry.oci.errors import Unavailable
from registry.server.auth import foreign
from registry.server.auth.foreign import ForeignKey, KeysRefused
from registry.transfer.fetch import FetchFailed

log = logging.getLogger("hythe.federation")
T = TypeVar("T")

Keys = tuple[ForeignKey, ...]

# Keys that their publisher took back stop to count after the first; what cannot be asked for again is used until
# the second. A key that nobody knows makes us ask again, but not before the third. In seconds.
FRESH_SECONDS, STALE_SECONDS, AGAIN_SECONDS = 600.0, 3600.0, 60.0
_FAILED_AGAIN_SECONDS = 5.0  # when there is nothing yet to go on with
_FILE_SECONDS = 3.0


class Remembered(Generic[T]):
    """What *load* found, kept for *fresh* seconds; while it fails, what it found before, for up to *stale*.

    However many ask, one is under way at a time. *load* raises FetchFailed, KeysRefused or OSError, which the log
    gets; clients are told *name* alone.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Awaitable[T]],
        fresh: float = FRESH_SECONDS,
        stale: float = STALE_SECONDS,
        again: float = AGAIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._load = load
        self._fresh = fresh
        self._stale = stale
        self._again = again
        self._clock = clock
        self._value: tuple[T, float] | None = None
        self._asked = self._forced = float("-inf")
        self._turn = asyncio.Lock()

    def _kept(self, seconds: float) -> T | None:
        if self._value is None or self._clock() - self._value[1] > seconds:
            return None
        return self._value[0]

    async def get(self) -> T:
        """The value. Raises Unavailable when there is none."""
        found = self._kept(self._fresh)
        if found is None:
            # What fails is not asked for again at once.
            pause = _FAILED_AGAIN_SECONDS if self._kept(self._stale) is None else self._again
            found = await self._ask(min(pause, self._again))
        return found

    async def newer(self) -> T:
        """The value, asked for anew unless that was just wanted. Raises Unavailable when there is none."""
        if self._clock() - self._forced < self._again:
            async with self._turn:  # perhaps it is under way
                pass
            return await self.get()
        self._forced = self._clock()
        return await self._ask(0.0)

    async def _ask(self, pause: float) -> T:
        seen = self._asked
        async with self._turn:
            if self._asked == seen and self._clock() - self._asked >= pause:
                self._asked = self._clock()
                try:
                    self._value = (await self._load(), self._clock())
                except (FetchFailed, KeysRefused, Unavailable, OSError) as error:
                    log.warning(
                        "federation.unavailable", extra={"fields": {"of": self._name, "error": str(error)}}
                    )
        found = self._kept(self._stale)
        if found is None:
            raise Unavailable(f"{self._name} cannot be asked now; try again soon")
        return found


class KeySet:
    """Where the keys of one issuer come from."""

    def __init__(self, keys: Remembered[Keys]) -> None:
        self._keys = keys

    async def verify(
        self,
        token: str,
        issuer: str,
        audience: str,
        required: Collection[str],
        is_sole_audience: bool = False,
    ) -> dict[str, Any]:
        """What a token says, as `foreign.verify`. Raises TokenInvalid, or Unavailable without any keys."""
        kid = foreign.key_id(token)
        keys = foreign.candidates(await self._keys.get(), kid)
        if not keys:
            keys = foreign.candidates(await self._keys.newer(), kid)
        return foreign.verify(token, keys, issuer, audience, required, is_sole_audience)


def keys_of_file(name: str, path: Path, read: Callable[[bytes], Keys]) -> KeySet:
    """Keys of a file, which is read again now and then; one that cannot be read changes nothing."""

    async def load() -> Keys:
        return read(await asyncio.to_thread(path.read_bytes))

    return KeySet(Remembered(name, load, _FILE_SECONDS, float("inf"), _FILE_SECONDS))
