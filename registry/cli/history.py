"""`hythe admin history`, `restore` and `quota`: where tags pointed, how that comes back, what is used."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from registry.cli import output
from registry.cli.command import verb_of
from registry.config import Settings
from registry.oci.digest import Digest
from registry.oci.errors import Denied
from registry.oci.reference import Repository, Tag
from registry.server import wiring
from registry.server.auth.caller import Operator
from registry.server.index.engine import Index
from registry.server.index.history import Entry, Point
from registry.server.service import quotas
from registry.server.service.administration.changes import Actor, Refused
from registry.server.service.history import History, Wanted, moment_of
from registry.server.service.quotas import Quotas

FAMILIES = ("history", "restore", "quota")
_LIMIT_MAX = 1_000_000
_TIME = "2026-11-20T12:00:00Z, or 2d, 12h, 30m ago"


def add_verbs(families: Any) -> None:
    """Add the verbs to the command line of `hythe admin`."""
    history = verb_of(families, "history", "print where tags pointed before, until when, and who ended that")
    history.add_argument("name", metavar="REPO[:TAG]")
    history.add_argument("--limit", type=int, default=1000, metavar="N", help="the latest N entries (1000)")
    history.add_argument("--forget", action="store_true", help="forget it, so that what it keeps may be collected")
    restore = verb_of(
        families, "restore", "bring back a tag that was moved or deleted, or a manifest that was deleted"
    )
    restore.add_argument("name", metavar="REPO:TAG|REPO@DIGEST")
    where = restore.add_mutually_exclusive_group()
    where.add_argument("--at", metavar="TIME", help=f"to where it pointed at that time: {_TIME}")
    where.add_argument("--to", metavar="DIGEST", help="to this manifest; else: to where it pointed before")
    verb_of(families, "quota", "print the quotas, what is used of them, and the largest repositories")


async def run(settings: Settings, index: Index, actor: Actor, options: argparse.Namespace) -> int:
    """Run one of the verbs and return its exit status."""
    if options.family == "quota":
        return await _quota(Quotas(index, quotas.of(settings.policy.quotas)), options)
    kept = History(index, wiring.policy_of(settings))
    if options.family == "restore":
        return await _restore(kept, actor, options)
    return await _history(kept, actor, options)


# --- history


async def _history(kept: History, actor: Actor, options: argparse.Namespace) -> int:
    repository, tag = _name(options.name)
    if not 1 <= options.limit <= _LIMIT_MAX:
        raise Refused(f"--limit is a number of entries from 1 to {_LIMIT_MAX}")
    if options.forget:
        count = await kept.forget((actor.name, actor.address), repository, tag)
        output.as_json({"forgotten": count}) if options.json else print(f"{count} entries forgotten")
        return 0
    entries = await kept.entries(repository, tag, limit=options.limit)
    point = None if tag is None else await kept.now(repository, tag)
    if options.json:
        now = None if point is None else asdict(point)
        output.as_json({"now": now, "history": [asdict(entry) for entry in entries]})
        return 0
    rows = [_present(repository, str(tag), point)] if point is not None else []
    rows += [_row(repository, entry) for entry in entries]
    output.table(("NAME", "DIGEST", "FROM", "UNTIL", "ENDED BY", "HOW"), rows)
    return 0


def _present(repository: Repository, tag: str, point: Point) -> tuple[str, ...]:
    return f"{repository}:{tag}", point.digest, output.moment(point.from_ms), "now", "", ""


def _row(repository: Repository, entry: Entry) -> tuple[str, ...]:
    name = f"{repository}:{entry.name}" if entry.name else f"{repository} (manifest)"
    times = output.moment(entry.from_ms), output.moment(entry.until_ms)
    return name, entry.digest, *times, entry.actor, entry.action


def _name(text: str) -> tuple[Repository, Tag | None]:
    """Read REPO[:TAG]."""
    name, colon, tag = text.partition(":")
    return Repository.parse(name), Tag.parse(tag) if colon else None


# --- restore


async def _restore(kept: History, actor: Actor, options: argparse.Namespace) -> int:
    repository, wanted = _wanted(options)
    try:
        done = await kept.restore(Operator(actor.name, actor.address), repository, wanted)
    except Denied:
        await kept.deny((actor.name, actor.address), repository, wanted)
        raise
    if options.json:
        output.as_json(asdict(done))
        return 0
    if not done.is_changed:
        print(f"{options.name}: nothing to do, it is {done.digest}")
        return 0
    was = f", it was {done.was}" if done.was and done.was != done.digest else ""
    print(f"{options.name}: {done.digest}{was}")
    if done.manifests:
        output.note(f"{len(done.manifests)} deleted manifests are served again")
    return 0


def _wanted(options: argparse.Namespace) -> tuple[Repository, Wanted]:
    name, at, digest = options.name.partition("@")
    if at:
        if options.at or options.to:
            raise Refused("--at and --to go with REPO:TAG")
        return Repository.parse(name), Wanted(to=Digest.parse(digest))
    repository, tag = _name(options.name)
    if tag is None:
        raise Refused(f"{options.name[:300]!r} says no tag: REPO:TAG or REPO@DIGEST is expected")
    to = Digest.parse(options.to) if options.to else None
    return repository, Wanted(tag, to, moment_of(options.at) if options.at else None)


# --- quotas


async def _quota(found: Quotas, options: argparse.Namespace) -> int:
    usage = await found.usage()
    if options.json:
        output.as_json(
            [
                {
                    "pattern": each.quota.pattern,
                    "limit_bytes": each.quota.limit_bytes,
                    "used_bytes": each.used_bytes,
                    "largest": [{"repository": name, "size_bytes": size} for name, size in each.largest],
                }
                for each in usage
            ]
        )
        return 0
    rows = [
        (
            each.quota.pattern,
            output.size(each.used_bytes),
            output.size(each.quota.limit_bytes),
            f"{100 * each.used_bytes / max(1, each.quota.limit_bytes):.0f}%",
            ", ".join(f"{name} ({output.size(size)})" for name, size in each.largest),
        )
        for each in usage
    ]
    output.table(("PATTERN", "USED", "QUOTA", "", "LARGEST"), rows)
    return 0
