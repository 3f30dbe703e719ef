"""From settings to those who look after the data, and when they do: collection, retention, history, scrub."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from registry.config import ReplicaSettings, Settings
from registry.content.store import BlobStore
from registry.oci.errors import ConfigurationError, Unavailable
from registry.server.index import jobs
from registry.server.index.engine import Index
from registry.server.index.names import now_ms
from registry.server.service import collect, lease, quotas, retain, scrub
from registry.server.service.collect import Choices, Collector
from registry.server.service.collect_plan import Rules
from registry.server.service.examine import Examiner
from registry.server.service.history import History
from registry.server.service.immutable import TagPattern
from registry.server.service.mend import Mender
from registry.server.service.policy import Policy
from registry.server.service.replicas import Replicas
from registry.server.service.retain import Retention
from registry.server.service.retention_plan import Rule
from registry.server.service.scrub import Scrub
from registry.transfer.replica import Replica

log = logging.getLogger("hythe.care")

_RETENTION_SECONDS = 3600.0
_FORGET_SECONDS = 3600.0
_QUARANTINE_SECONDS = 3600.0


def immutable_tags(settings: Settings) -> tuple[TagPattern, ...]:
    """`policy.immutable_tags`. Raises ConfigurationError."""
    return tuple(map(TagPattern.parse, settings.policy.immutable_tags))


def make_collector(settings: Settings, index: Index, store: BlobStore) -> Collector:
    """The collector of the settings."""
    return Collector(index, store, _choices(settings))


def _choices(settings: Settings) -> Choices:
    chosen = settings.gc
    return Choices(chosen.grace_seconds, chosen.deletions_per_second, chosen.untagged == "delete")


def make_retention(settings: Settings, index: Index) -> Retention:
    """The retention rules of the settings. Raises ConfigurationError."""
    rules = [
        Rule(
            each.repositories,
            each.keep_last,
            each.keep_younger_days,
            each.keep_pulled_days,
            each.keep_matching,
            each.protect,
        ).check()
        for each in settings.retention
    ]
    has_history = settings.policy.history_days > 0
    return Retention(index, rules, immutable_tags(settings), settings.gc.deletions_per_second, has_history)


def make_scrub(settings: Settings, index: Index, store: BlobStore, bytes_per_second: float | None = None) -> Scrub:
    """The scrub of the settings, or one of another speed."""
    chosen = settings.scrub
    speed = chosen.bytes_per_second if bytes_per_second is None else bytes_per_second
    every_seconds = chosen.every_days * 86_400 if settings.has_scrub() else None
    return Scrub(index, Examiner(index, store, speed), make_mender(settings, index, store), every_seconds)


def make_mender(settings: Settings, index: Index, store: BlobStore) -> Mender:
    """What mends, with the replicas of the settings. Raises ConfigurationError."""
    return Mender(index, store, Replicas(index, store, [_replica(each) for each in settings.scrub.replicas]).heal)


def _replica(chosen: ReplicaSettings) -> Replica:
    password = chosen.password
    if chosen.password_file:
        try:
            password = Path(chosen.password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"scrub.replicas: {chosen.password_file}: {error}") from None
    return Replica(chosen.url, chosen.username, password, chosen.hosts)


async def limits(settings: Settings, index: Index) -> Rules:
    """The rules of collection as of now."""
    return await collect.rules(index, _choices(settings))


def check(settings: Settings) -> None:
    """Raise ConfigurationError for rules that cannot be used."""
    immutable_tags(settings)
    quotas.of(settings.policy.quotas)
    make_retention(settings, index=None)  # type: ignore[arg-type]
    for each in settings.scrub.replicas:
        _replica(each)


def background(settings: Settings, index: Index, store: BlobStore) -> Iterator[Coroutine[None, None, None]]:
    """What each worker does now and then, one of all workers at a time."""
    if settings.gc.enabled:
        collector = make_collector(settings, index, store)

        async def collect_what_is_due() -> None:
            if await collector.is_due():
                await run(index, collect.JOB, collector.collect)

        yield _again_and_again(settings.gc.interval_seconds, collect_what_is_due)
    yield _again_and_again(_forget_seconds(settings), partial(forget_history, settings, index))
    yield _again_and_again(_QUARANTINE_SECONDS, partial(clear_quarantine, settings, index, store))
    retention = make_retention(settings, index)
    if retention.rules:

        async def retain_hourly() -> None:
            last = await index.read(jobs.get, retain.JOB)
            if now_ms() - (last.updated_ms or 0) > _RETENTION_SECONDS * 500:  # another worker may have done it
                await run(index, retain.JOB, retention.apply)

        yield _again_and_again(_RETENTION_SECONDS, retain_hourly)

    if settings.scrub.enabled != "never":
        scrubber = make_scrub(settings, index, store)

        async def scrub_what_is_due() -> None:
            if await scrubber.is_due():
                await run(index, scrub.JOB, scrubber.run)

        yield _again_and_again(settings.scrub.interval_seconds, scrub_what_is_due)


async def clear_quarantine(settings: Settings, index: Index, store: BlobStore) -> None:
    """Delete the wrong bytes that were set aside long enough ago."""
    if not settings.scrub.quarantine_days:
        return
    async with lease.take(index, "quarantine") as taken:
        if taken is not None:
            count = await store.clear_quarantine(time.time() - settings.scrub.quarantine_days * 86_400.0)
            if count:
                log.info("quarantine.cleared", extra={"fields": {"files": count}})


def _forget_seconds(settings: Settings) -> float:
    """How often the history is looked through: so that nothing stays much longer than it was to."""
    kept = settings.policy.history_days * 86_400.0
    return min(_FORGET_SECONDS, max(1.0, kept / 10)) if kept else _FORGET_SECONDS


async def forget_history(settings: Settings, index: Index) -> None:
    """Forget the history that is older than the settings want it."""
    history = History(index, Policy(history_seconds=settings.policy.history_days * 86_400.0))
    async with lease.take(index, "history") as taken:
        count = await history.forget_old() if taken is not None else 0
    if count:
        log.info("history.forgotten", extra={"fields": {"entries": count}})


async def run(index: Index, job: str, work: Callable[[lease.Lease], Awaitable[object]]) -> None:
    """Do leased work, unless somebody else does it at this moment or it is paused."""
    if (await index.read(jobs.get, job)).paused:
        return
    async with lease.take(index, job) as taken:
        if taken is not None:
            try:
                tally = await work(taken)
            except jobs.Paused:
                return
            log.info(f"{job}.done", extra={"fields": asdict(tally)})  # type: ignore[call-overload]


async def _again_and_again(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers
        try:
            await work()
        except Unavailable as error:
            log.warning("care.unavailable", extra={"fields": {"error": str(error)}})
        except Exception:
            log.exception("care.failed")
