"""Quotas: how many bytes the repositories of a pattern may have, each blob counted once among them.

No row is written when something is pushed. Each process counts for itself: once at first, then anew in the
background while there are pushes, and before it refuses anything. In between it adds what it takes in itself. So
one process alone never lets a quota be exceeded; several together by what the others take in between two counts
(RECOUNT_SECONDS, or ten times as long as a count takes, if that is longer).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, Denied, RegistryError
from registry.oci.reference import Repository
from registry.server.auth import patterns
from registry.server.auth.caller import Caller
from registry.server.index import usage
from registry.server.index.engine import Index

log = logging.getLogger("hythe.quotas")

RECOUNT_SECONDS = 10.0
_REFUSAL_SECONDS = 0.2  # a count that is younger than this is good enough to refuse by
_REST = 10.0
_PER_SLICE = 2000
_LARGEST = 3
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


class QuotaExceeded(Denied):
    """There is no room left for a push."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Repositories `team/web`, `team/*` or `*` (all), and how many bytes they may have together."""

    pattern: str
    limit_bytes: int

    @classmethod
    def parse(cls, pattern: str, size: int | str) -> Quota:
        """Read a setting. Raises ConfigurationError."""
        name = pattern if pattern == "*" else pattern.removesuffix("/*")
        try:
            patterns.check_pattern(pattern)
        except patterns.NameRefused as error:
            raise ConfigurationError(f"policy.quotas: {error}") from None
        if "*" in name and pattern != "*":
            raise ConfigurationError(f"policy.quotas: {pattern!r}: 'team/web', 'team/*' and '*' can have a quota")
        return cls(pattern, _bytes_of(size))

    def covers(self, repository: str) -> bool:
        """Whether a repository counts for it."""
        return patterns.matches(self.pattern, repository)


def _bytes_of(size: int | str) -> int:
    """`10GiB`, `500MB` or a number of bytes. Raises ConfigurationError."""
    text = str(size).strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = _UNITS.get(text[len(number) :].strip().upper())
    try:
        found = -1 if unit is None else int(float(number) * unit)
    except (ValueError, OverflowError):
        found = -1
    if found < 0:
        raise ConfigurationError(f"policy.quotas: {text[:40]!r} is no size; 10GiB, 500MB and 1000000 are")
    return found


@dataclass(frozen=True, slots=True)
class Usage:
    """What the repositories of a quota have; `largest` are some of them with their bytes, the largest first."""

    quota: Quota
    used_bytes: int
    largest: Sequence[tuple[str, int]]


@dataclass(slots=True)
class _Meter:
    """What this process knows of a quota: what it counted, and took in since that count began."""

    quota: Quota
    counted_bytes: int = 0
    taken_bytes: int = 0
    slices: int = 16
    began: float = -1e9
    took_seconds: float = 0.0
    is_counted: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None

    def used_bytes(self) -> int:
        return self.counted_bytes + self.taken_bytes

    def age_seconds(self) -> float:
        return time.monotonic() - self.began

    def rest_seconds(self, least: float) -> float:
        """How old a count may become: counting shall not be what a server does most."""
        return max(least, _REST * self.took_seconds)


class Quotas:
    """The quotas of one registry, as one process keeps them."""

    def __init__(self, index: Index, quotas: Sequence[Quota]) -> None:
        self._index = index
        self.quotas = tuple(quotas)
        self._meters = [_Meter(quota) for quota in quotas]

    async def require_room(self, caller: Caller | None, repository: Repository) -> None:
        """Raise QuotaExceeded when a quota is used up already: whoever begins a push is told before its bytes.

        It names no repository that *caller* may not see (None: no repository).
        """
        for meter in self._of(repository):
            await self._keep_counted(meter)
            if meter.used_bytes() >= meter.quota.limit_bytes:
                await self._refuse(caller, meter, 1)

    async def take(self, caller: Caller | None, repository: Repository, digest: Digest, size_bytes: int) -> None:
        """Make sure that there is room for bytes, and count them. Raises QuotaExceeded.

        Bytes that are there already, in whichever repository of a quota, need no room.
        """
        for meter in self._of(repository):
            await self._keep_counted(meter)
            if await self._index.read(usage.has, meter.quota.pattern, digest):
                continue
            if meter.used_bytes() + size_bytes > meter.quota.limit_bytes:
                await self._refuse(caller, meter, size_bytes)
            meter.taken_bytes += size_bytes

    def _of(self, repository: Repository) -> list[_Meter]:
        return [meter for meter in self._meters if meter.quota.covers(repository)]

    async def _refuse(self, caller: Caller | None, meter: _Meter, size_bytes: int) -> None:
        """Count again, and raise QuotaExceeded unless there is room now."""
        if meter.age_seconds() > meter.rest_seconds(_REFUSAL_SECONDS):
            await self._count(meter)
        if meter.used_bytes() + size_bytes <= meter.quota.limit_bytes:
            return
        quota, used = meter.quota, meter.used_bytes()
        sums = await self._sums(quota.pattern, meter.slices) if caller is not None else []
        seen = [each for each in sums if caller is not None and caller.may("pull", Repository(each[0]))]
        words = ", ".join(f"{name} ({_readable(size)})" for name, size in seen[:_LARGEST])
        most = f", most of them by {words}" if words else ""
        raise QuotaExceeded(
            f"the quota of {quota.pattern} is {_readable(quota.limit_bytes)}, {_readable(used)} are used{most}; "
            "delete some, or ask for a larger one",
            {"quota": quota.pattern, "limit_bytes": quota.limit_bytes, "used_bytes": used},
        )

    # --- counting

    async def _keep_counted(self, meter: _Meter) -> None:
        """Wait for the first count; renew an old one beside what goes on."""
        if not meter.is_counted:
            async with meter.lock:
                if not meter.is_counted:
                    await self._count_now(meter)
        elif meter.age_seconds() > meter.rest_seconds(RECOUNT_SECONDS) and (
            meter.task is None or meter.task.done()
        ):
            meter.task = asyncio.create_task(self._renew(meter))

    async def _renew(self, meter: _Meter) -> None:
        try:
            await self._count(meter)
        except RegistryError as error:
            log.warning("quota.uncounted", extra={"fields": {"quota": meter.quota.pattern, "error": str(error)}})

    async def _count(self, meter: _Meter) -> None:
        """Count, unless somebody did so while this waited for them."""
        asked = time.monotonic()
        async with meter.lock:
            if meter.began < asked:
                await self._count_now(meter)

    async def _count_now(self, meter: _Meter) -> None:
        began, before = time.monotonic(), meter.taken_bytes
        found, size_bytes = await self._total(meter.quota.pattern, meter.slices)
        meter.counted_bytes, meter.taken_bytes = size_bytes, meter.taken_bytes - before
        meter.began, meter.took_seconds, meter.is_counted = began, time.monotonic() - began, True
        meter.slices = next(count for count in (1, 16, 256) if found <= count * _PER_SLICE or count == 256)

    async def _total(self, pattern: str, slices: int) -> tuple[int, int]:
        found = size_bytes = 0
        for part in usage.slices(slices):
            count, some_bytes = await self._index.read(usage.total, pattern, part)
            found, size_bytes = found + count, size_bytes + some_bytes
            await asyncio.sleep(0)
        return found, size_bytes

    async def _sums(self, pattern: str, slices: int) -> list[tuple[str, int]]:
        """Every repository of a pattern with its bytes, the largest first."""
        sums: dict[str, int] = {}
        for part in usage.slices(slices):
            for name, size_bytes in (await self._index.read(usage.by_repository, pattern, part)).items():
                sums[name] = sums.get(name, 0) + size_bytes
            await asyncio.sleep(0)
        return sorted(sums.items(), key=lambda item: (-item[1], item[0]))

    async def usage(self, wanted: Sequence[Quota] | None = None) -> list[Usage]:
        """What is used of quotas (None: of all), counted now."""
        return [
            Usage(
                quota, (await self._total(quota.pattern, 16))[1], (await self._sums(quota.pattern, 16))[:_LARGEST]
            )
            for quota in (self.quotas if wanted is None else wanted)
        ]


def of(sizes: Mapping[str, int | str]) -> tuple[Quota, ...]:
    """The quotas of a setting. Raises ConfigurationError."""
    return tuple(Quota.parse(pattern, size) for pattern, size in sizes.items())


def _readable(size_bytes: int) -> str:
    """A number of bytes for people, in the units in which quotas are given: `1.4 GiB`."""
    amount, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{size_bytes} B"
