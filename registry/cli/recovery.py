"""`hythe admin backup` and `hythe admin rebuild`: the index out and in again, and what to do without it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from registry.cli import output
from registry.cli.command import verb_of
from registry.config import Settings
from registry.oci.errors import ConfigurationError, HytheError
from registry.server import recovery
from registry.server.service import backup
from registry.server.service.administration.changes import Actor
from registry.server.service.rebuild import Found

FAMILIES = ("backup", "rebuild")
_SECRETS = (
    "It has the signing key, the hashes of passwords and tokens, and every manifest: keep it as you keep the "
    "index. Only its owner can read it."
)


def add_verbs(families: Any) -> None:
    """Add both families to the command line of `hythe admin`."""
    help_text = "the index as a file, and back; the bytes of blobs are not in it"
    verbs = families.add_parser("backup", help=help_text, description=help_text).add_subparsers(
        dest="verb", metavar="VERB", required=True
    )
    create = verb_of(verbs, "create", "back the index up, while the registry serves")
    create.add_argument("target", metavar="FILE|DIRECTORY", help="a new file; - for standard output")
    create.epilog = _SECRETS
    listing = verb_of(verbs, "list", "say what backups have, and whether they are whole")
    listing.add_argument("paths", metavar="FILE|DIRECTORY", nargs="+")
    restore = verb_of(verbs, "restore", "make an empty index what a backup says; stop the registry before")
    restore.add_argument("file", metavar="FILE")
    restore.add_argument("--force", action="store_true", help="replace an index that has something in it")
    rebuild = verb_of(families, "rebuild", "make the index anew from what the storage has")
    rebuild.add_argument("--backup", metavar="FILE", help="begin with this backup: names, tags and accounts")
    rebuild.add_argument("--add", action="store_true", help="add to an index that has something in it")


def run(settings: Settings, actor: Actor, options: argparse.Namespace) -> int:
    """Run one of the verbs and return its exit status."""
    if options.family == "rebuild":
        return _rebuild(settings, actor, options)
    if options.verb == "restore":
        return _restore(settings, actor, options)
    return _create(settings, options) if options.verb == "create" else _list(options)


def _create(settings: Settings, options: argparse.Namespace) -> int:
    if options.target == "-":
        if sys.stdout.isatty():
            raise ConfigurationError("a backup is no text for a terminal: name a file, or send it on")
        backup.write(recovery.index_place(settings), sys.stdout.buffer)
        return 0
    path, found = backup.create(recovery.index_place(settings), Path(options.target))
    if options.json:
        output.as_json({"file": str(path), **backup.summary(found)})
    else:
        print(path)
        output.note(_SECRETS)
    return 0


def _list(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for path in _files(options.paths):
        try:
            rows.append({"file": str(path), "whole": True, **backup.summary(backup.examine(path))})
        except HytheError as error:
            rows.append({"file": str(path), "whole": False, "error": str(error)})
    if options.json:
        output.as_json(rows)
    else:
        names = ("created", "schema", "database", "repositories", "manifests", "tags", "accounts")
        output.table(
            ("FILE", "WHOLE", *(name.upper() for name in names)),
            [
                (
                    row["file"],
                    "yes" if row["whole"] else "NO",
                    output.moment(row.get("created_ms")),
                    *(row.get(name, "") for name in names[1:]),
                )
                for row in rows
            ],
        )
        for row in rows:
            if not row["whole"]:
                output.note(row["error"])
    return 0 if all(row["whole"] for row in rows) else 1


def _files(names: list[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, names):
        found += sorted(path.glob(f"*{backup.SUFFIX}")) if path.is_dir() else [path]
    return found


def _restore(settings: Settings, actor: Actor, options: argparse.Namespace) -> int:
    found = recovery.restore(settings, Path(options.file), actor, options.force)
    if options.json:
        output.as_json(backup.summary(found))
        return 0
    known = backup.summary(found)
    print(
        f"The index is that of {output.moment(found.created_ms)}: {known['repositories']} repositories, "
        f"{known['manifests']} manifests, {known['tags']} tags, {known['accounts']} accounts."
    )
    output.note(
        "Now see what is missing: hythe admin verify --all --quick. What was pushed after the backup comes back "
        "by: hythe admin rebuild --add"
    )
    return 0


def _rebuild(settings: Settings, actor: Actor, options: argparse.Namespace) -> int:
    file = Path(options.backup) if options.backup else None
    found = asyncio.run(recovery.rebuild_index(settings, file, actor, options.add))
    if options.json:
        output.as_json(asdict(found))
    else:
        _show(found)
    return 1 if found.damaged or found.incomplete else 0


def _show(found: Found) -> None:
    print(
        f"{found.stored} digests in the storage: {found.recorded} were new to the index; {found.manifests} "
        f"manifests and {found.blobs} blobs are in the repository {found.repository!r} now, with {found.tags} tags"
    )
    for digest in found.damaged:
        output.note(f"wrong bytes: {digest}; not taken")
    for digest in found.incomplete:
        output.note(f"incomplete: {digest} names what the storage does not have")
    output.note("Now see what is missing: hythe admin verify --all (--quick: lengths alone)")
