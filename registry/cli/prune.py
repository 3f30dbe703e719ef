"""`hythe image prune` and `hythe system prune`: what nothing needs goes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from registry.cli import listing, local
from registry.cli.filters import Filters
from registry.cli.names import delete
from registry.client.images import garbage, records
from registry.client.images.garbage import Removed
from registry.client.images.store import Store

_UNUSED = "all images without at least one container associated to them"


def images(words: Sequence[str]) -> int:
    """Run `image prune` and return its exit status."""
    options = _parser("image prune", "Remove unused images").parse_args(words)
    what = _UNUSED if options.all else "all dangling images"
    if not options.force and not local.confirmed(f"WARNING! This will remove {what}."):
        return 0
    _show(*_prune(options))
    return 0


def system(words: Sequence[str]) -> int:
    """Run `system prune` and return its exit status."""
    parser = _parser("system prune", "Remove unused data")
    parser.add_argument("--volumes", action="store_true", help="as with docker; there are none yet")
    options = parser.parse_args(words)
    what = _UNUSED if options.all else "all dangling images"
    if not options.force and not local.confirmed(f"WARNING! This will remove:\n  - {what}\n"):
        return 0
    _show(*_prune(options))
    return 0


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"hythe {verb}", description=description)
    parser.add_argument(
        "-a", "--all", action="store_true", help="all unused images, not just those without a name"
    )
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="until=, label=, label!="
    )
    return parser


def _prune(options: argparse.Namespace) -> tuple[list[str], Removed]:
    with local.opened() as store:
        wanted = Filters(store, options.filter, ("dangling", "until", "label", "label!"))
        freed_bytes = garbage.discard_downloads(store) if not options.filter else 0
        said = _remove(store, wanted, options.all or wanted.flag("dangling") is False)
        removed = garbage.collect(store, everything=not options.filter)
        return said, Removed(removed.layers, removed.freed_bytes + freed_bytes)


def _remove(store: Store, wanted: Filters, named_too: bool) -> list[str]:
    said: list[str] = []
    with records.writing(store.db):
        for image in wanted.images(records.images(store.db)):
            if not records.users(store.db, image.id) and (named_too or not records.tags(store.db, image.id)):
                said += delete(store, image)
    return said


def _show(said: list[str], removed: Removed) -> None:
    if said:
        print("Deleted Images:")
        for line in said:
            print(line[0].lower() + line[1:])
        print()
    print(f"Total reclaimed space: {listing.size(removed.freed_bytes)}")
