"""`hythe admin import`, `export` and `copy-store`: moving in, out, and from one content store to another."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from registry.cli import output
from registry.cli import settings as settings_files
from registry.cli.command import verb_of
from registry.config import Settings
from registry.content import copying
from registry.content.arrivals import Arrivals
from registry.content.copying import Copied
from registry.content.departures import Departures
from registry.content.docker_layout import DockerLayout
from registry.content.placing import Care, How
from registry.content.store import BlobStore
from registry.oci.reference import Repository, Tag
from registry.server import storage, wiring
from registry.server.auth import patterns
from registry.server.index.engine import Index
from registry.server.service.administration.changes import Actor
from registry.server.service.moving.incoming import Import, Wishes
from registry.server.service.moving.outgoing import Export
from registry.server.service.moving.report import Report

T = TypeVar("T")
FAMILIES = ("import", "export", "copy-store")
_PROGRESS_SECONDS = 2.0
_THREADS = 16
_COPY = "copy every byte, with no hard links: the two may be on one file system, and have different owners"
_VERIFY = "hash what is not copied too; what is copied always is"


def add_verbs(families: Any) -> None:
    """Add the verbs to the command line of `hythe admin`."""
    incoming = verb_of(families, "import", "take over the storage of docker's own registry, while it serves")
    incoming.add_argument("source", metavar="DIRECTORY|s3://BUCKET/PREFIX", help="its `rootdirectory`")
    incoming.add_argument(
        "--repository", metavar="PATTERN", action="append", default=[], help="these alone: 'team/*'"
    )
    incoming.add_argument("--prune", action="store_true", help="delete tags here that were deleted there")
    incoming.add_argument("--overwrite", action="store_true", help="where a tag moved on both sides, there wins")
    incoming.add_argument("--copy", action="store_true", help=_COPY)
    incoming.add_argument("--verify", action="store_true", help=_VERIFY)
    incoming.add_argument(
        "--s3-settings", metavar="FILE", help="settings whose storage.s3 has the endpoint and keys"
    )
    incoming.add_argument("--dry-run", action="store_true", help="say what would come, and leave it")
    outgoing = verb_of(families, "export", "write repositories out, for docker's registry or as OCI layouts")
    outgoing.add_argument("directory", metavar="DIRECTORY")
    outgoing.add_argument("names", metavar="REPOSITORY[:TAG]", nargs="*", help="these alone")
    outgoing.add_argument("--format", choices=("registry", "oci"), required=True)
    outgoing.add_argument("--copy", action="store_true", help=_COPY)
    outgoing.add_argument("--verify", action="store_true", help=_VERIFY)
    copy = verb_of(
        families, "copy-store", "copy all bytes from one content store to another, while the registry serves"
    )
    copy.add_argument("source", metavar="FROM", help="a directory, s3://BUCKET/PREFIX, or a settings file")
    copy.add_argument("target", metavar="TO")
    copy.add_argument("--dry-run", action="store_true", help="say how much would be copied")


async def run(settings: Settings, index: Index, actor: Actor, options: argparse.Namespace) -> int:
    """Run one of the verbs and return its exit status."""
    if options.family == "copy-store":
        return await _copy_store(settings, options)
    store = storage.make_store(settings)
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="moving") as pool:
            if options.family == "import":
                report = await _import(settings, index, store, pool, actor, options)
            else:
                report = await _export(index, store, pool, options)
    finally:
        store.close()
    _show(report, options)
    return 1 if report.needs_attention else 0


async def _import(
    settings: Settings,
    index: Index,
    store: BlobStore,
    pool: ThreadPoolExecutor,
    actor: Actor,
    options: argparse.Namespace,
) -> Report:
    chosen = tuple(map(patterns.check_pattern, options.repository))
    other = settings if options.s3_settings is None else settings_files.load(options.s3_settings)
    tree = storage.tree_at(other, options.source)
    layout, care = DockerLayout(tree), Care(link=not options.copy, verify=options.verify)
    arrivals = Arrivals(tree, store, care, pool)
    wishes = Wishes(chosen, options.dry_run, options.prune, options.overwrite)
    policy = wiring.policy_of(settings)
    with _progress(_told) as progress:
        return await Import(index, store, policy, layout, arrivals, pool, wishes, actor, progress).run()


async def _export(index: Index, store: BlobStore, pool: ThreadPoolExecutor, options: argparse.Namespace) -> Report:
    wanted: dict[Repository, list[Tag]] = {}
    for name in options.names:
        repository, colon, tag = name.partition(":")
        wanted.setdefault(Repository.parse(repository), []).extend([Tag.parse(tag)] if colon else [])
    for name in options.names:
        if ":" not in name:  # all of it is more than any of its tags
            wanted[Repository.parse(name)] = []
    # Nobody writes into our own published files: their age says nothing.
    care = replace(Care(link=not options.copy, verify=options.verify), young_seconds=0)
    departures = Departures(store, Path(options.directory), care, pool)
    with _progress(_told) as progress:
        return await Export(index, departures, options.format, progress).run(wanted)


async def _copy_store(settings: Settings, options: argparse.Namespace) -> int:
    source = storage.store_at(settings, options.source, must_exist=True)
    try:
        target = storage.store_at(settings, options.target, must_exist=False)
        try:
            with _progress(_copied) as progress:
                done = await copying.copy(source, target, progress, options.dry_run)
        finally:
            target.close()
    finally:
        source.close()
    if options.json:
        output.as_json(asdict(done))
    else:
        print(_copied(done) + (" (nothing was: a dry run)" if options.dry_run else ""))
        for digest in done.damaged:
            output.note(f"not copied: {digest}, whose bytes have another digest")
    return 1 if done.damaged else 0


# --- words


@contextmanager
def _progress(words: Callable[[T], str]) -> Iterator[Callable[[T], None]]:
    """What to call with the state of things: now and then it is a line on standard error."""
    due = time.monotonic() + _PROGRESS_SECONDS

    def tell(state: T) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _PROGRESS_SECONDS
            output.note(words(state))

    yield tell


def _told(report: Report) -> str:
    blobs = ", ".join(
        f"{count} {how} ({output.size(report.blobs_bytes[how])})" for how, count in sorted(report.blobs.items())
    )
    return (
        f"{report.repositories} repositories: {report.manifests} manifests, {report.manifests_present} more were "
        f"there; blobs: {blobs or 'none'}"
    )


def _copied(done: Copied) -> str:
    return f"{done.blobs} blobs copied ({output.size(done.blobs_bytes)}), {done.present} were there"


def _show(report: Report, options: argparse.Namespace) -> None:
    if options.json:
        output.as_json(asdict(report))
        return
    print(_told(report))
    if options.family == "import":
        print(
            f"tags: {report.tags_created} new, {report.tags_moved} moved, {report.tags_deleted} deleted, "
            f"{report.tags_kept} left as they were changed here"
        )
        if report.loose_blobs or report.unfinished_uploads:
            print(
                f"left behind: {report.loose_blobs} blobs that no manifest names, "
                f"{report.unfinished_uploads} unfinished uploads"
            )
    for problem in report.problems:
        output.note(f"{problem.repository}: {output.cell(problem.what)}: {output.cell(problem.why)}")
    for each in report.conflicts:
        output.note(f"conflict: {each.repository}:{each.tag} is {each.here} here and {each.there} there")
    for name in report.deleted_there:
        output.note(f"deleted there: {name} (--prune deletes it here)")
    if How.WANTED in report.blobs or getattr(options, "dry_run", False):
        output.note("a dry run: nothing was done")
