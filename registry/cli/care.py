"""`hythe admin gc`, `retention`, `scrub` and `verify`: what is deleted, when and why, and whether all is right."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from registry.cli import output, verify
from registry.config import Settings
from registry.content.store import BlobStore
from registry.oci.errors import HytheError
from registry.server import care, storage
from registry.server.index import candidates, damage, jobs
from registry.server.index.engine import Index
from registry.server.service import collect, lease, retain, scrub
from registry.server.service.administration.changes import Actor
from registry.server.service.collect_plan import Decision
from registry.server.service.lease import Lease
from registry.server.service.reconcile import Found, Reconciliation

FAMILIES = ("gc", "retention", "scrub", "verify")
_WAIT_SECONDS = 60.0


class Busy(HytheError):
    """Another process does this work at the moment."""


def add_verbs(families: Any) -> None:
    """Add the families to the command line of `hythe admin`."""
    gc = _add(families, "gc", "delete what nobody uses any more, as the server does by itself")
    gc.add_argument("--full", action="store_true", help="walk everything first, for what was missed")
    retention = _add(families, "retention", "take away the tags that no retention rule keeps")
    retention.epilog = "pause, resume and status work as for gc"
    scrub_parser = _add(families, "scrub", "read everything again and mend what is wrong", dry_run=False)
    scrub_parser.add_argument("--rate", type=int, metavar="N", help="bytes a second at most (0: no limit)")
    verify.add_verb(families)


def _add(families: Any, name: str, help_text: str, dry_run: bool = True) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = families.add_parser(name, help=help_text, description=help_text)
    made.add_argument("what", nargs="?", choices=("run", "pause", "resume", "status"), default="run")
    if dry_run:
        made.add_argument("--dry-run", action="store_true", help="say what would go and why, and leave it")
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return made


async def run(settings: Settings, index: Index, actor: Actor, options: argparse.Namespace) -> int:
    """Run one of the verbs and return its exit status."""
    if options.family == "verify":
        return await _with_store(
            settings, lambda store: verify.run(index, store, care.make_mender(settings, index, store), options)
        )
    if options.what in ("pause", "resume"):
        await index.write(jobs.pause, options.family, options.what == "pause", actor.name, actor.address)
        return 0
    if options.what == "status":
        return await _status(settings, index, options)
    if options.family == "retention":
        return await _retention(settings, index, options)
    if options.family == "scrub":
        return await _with_store(settings, lambda store: _scrub(settings, index, store, options))
    return await _with_store(settings, lambda store: _gc(settings, index, store, options))


async def _with_store(settings: Settings, work: Callable[[BlobStore], Awaitable[int]]) -> int:
    store = storage.make_store(settings)
    try:
        return await work(store)
    finally:
        store.close()


# --- scrub


async def _scrub(settings: Settings, index: Index, store: BlobStore, options: argparse.Namespace) -> int:
    async with _lease(index, scrub.JOB) as taken:
        tally = await care.make_scrub(settings, index, store, options.rate).walk(taken)
    if options.json:
        output.as_json(asdict(tally))
    else:
        print(
            f"{tally.examined} digests looked at ({output.size(tally.read_bytes)}), {tally.found} were wrong: "
            f"{tally.healed} healed, {tally.waiting} wait for a push"
        )
        for failure in tally.failures:
            output.note(f"failed: {failure}")
    return 1 if tally.failures or tally.waiting else 0


# --- gc


async def _gc(settings: Settings, index: Index, store: BlobStore, options: argparse.Namespace) -> int:
    collector = care.make_collector(settings, index, store)
    if options.dry_run:
        return await _show_plan(collector.plan(), options.json)
    await care.forget_history(settings, index)
    async with _lease(index, collect.JOB) as taken:
        walk = Reconciliation(index, store, settings.gc.untagged == "delete")
        found = await walk.run(taken) if options.full else None
        tally = await collector.collect(taken)
    if options.json:
        output.as_json({**asdict(tally), "walk": None if found is None else asdict(found)})
    else:
        if found is not None:
            _show_walk(found)
        print(
            f"{tally.deleted} blobs deleted ({output.size(tally.freed_bytes)}), {tally.unlinked} links and "
            f"{tally.removed} manifests removed, {tally.examined} candidates looked at"
        )
        for failure in tally.failures:
            output.note(f"failed: {failure}")
    return 1 if tally.failures or (found is not None and found.missing) else 0


async def _show_plan(plan: AsyncIterator[Decision], as_json: bool) -> int:
    rows: list[Sequence[object]] = []
    freed_bytes = 0
    async for each in plan:
        freed_bytes += each.size_bytes if each.repository is None else 0
        rows.append((str(each.action), each.repository or "", each.digest, each.size_bytes, each.reason))
    if as_json:
        names = ("action", "repository", "digest", "size_bytes", "reason")
        output.as_json([dict(zip(names, row, strict=True)) for row in rows])
        return 0
    shown = [(*row[:3], output.size(int(str(row[3]))), row[4]) for row in rows]
    output.table(("ACTION", "REPOSITORY", "DIGEST", "SIZE", "REASON"), shown)
    output.note(f"{output.size(freed_bytes)} would be free")
    return 0


def _show_walk(found: Found) -> None:
    print(
        f"{found.links} links, {found.manifests} manifests, {found.records} records and {found.stored} blobs "
        f"walked through; {found.uploads} forgotten uploads freed; {found.candidates} new candidates, which have "
        "their grace period from now on"
    )
    for each in found.missing:
        output.note(f"missing: {each.digest} ({each.size_bytes} bytes) of {', '.join(each.repositories)}")


# --- retention


async def _retention(settings: Settings, index: Index, options: argparse.Namespace) -> int:
    retention = care.make_retention(settings, index)
    if not options.dry_run:
        async with _lease(index, retain.JOB) as taken:
            tally = await retention.apply(taken)
        if options.json:
            output.as_json(asdict(tally))
        else:
            print(f"{tally.removed} tags removed, {tally.kept} kept, in {tally.repositories} repositories")
        return 0
    rows = [
        ("keep" if each.stays else "remove", f"{repository}:{each.tag.name}", each.tag.digest, each.reason)
        async for repository, decisions in retention.plan()
        for each in decisions
    ]
    if options.json:
        names = ("action", "tag", "digest", "reason")
        output.as_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        output.table(("ACTION", "TAG", "DIGEST", "REASON"), rows)
    return 0


# --- both


async def _status(settings: Settings, index: Index, options: argparse.Namespace) -> int:
    job = await index.read(jobs.get, options.family)
    found: dict[str, object] = asdict(job)
    if options.family == "gc":
        limit_ms = (await care.limits(settings, index)).limit_ms
        waiting, due, oldest_ms = await index.read(candidates.standing, limit_ms)
        found["candidates"] = {"waiting": waiting, "due": due, "oldest_ms": oldest_ms}
    if options.family == "scrub":
        found["damaged"] = await index.read(damage.count)
    if options.json:
        output.as_json(found)
        return 0
    rows = [("state", _state(job)), ("by", job.holder)]
    rows += [
        (name.removesuffix("_ms"), output.moment(getattr(job, name))) for name in ("started_ms", "finished_ms")
    ]
    rows += [(name.replace("_", " "), str(value)) for name, value in job.detail.items()]
    if options.family == "gc":
        rows += [("candidates", str(waiting)), ("of them due", str(due))]
    if options.family == "scrub":
        rows += [("damaged now", str(found["damaged"]))]
    for name, value in rows:
        print(f"{name:<14} {value}".rstrip())
    return 0


def _state(job: jobs.Job) -> str:
    if job.paused:
        return "paused"
    if job.started_ms is None:
        return "never ran"
    return "resting" if job.finished_ms is not None else "running, or broken off"


@asynccontextmanager
async def _lease(index: Index, job: str) -> AsyncIterator[Lease]:
    """The lease of a kind of work; a server that is at it is waited for. Raises Busy, Paused."""
    deadline = time.monotonic() + _WAIT_SECONDS
    await index.read(jobs.refuse_paused, job)
    while True:
        async with lease.take(index, job) as taken:
            if taken is not None:
                yield taken
                return
        if time.monotonic() > deadline:
            raise Busy(f"{(await index.read(jobs.get, job)).holder} is at it; see `hythe admin {job} status`")
        await asyncio.sleep(1)
