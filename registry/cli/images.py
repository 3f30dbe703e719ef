"""`hythe images`: the list of local images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from registry.cli import filters, listing, local
from registry.cli.filters import Filters
from registry.client.images import records
from registry.client.images.records import Image, Name
from registry.client.images.store import Store

_NONE = "<none>"
_TABLE = "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}"
_DIGESTS = "table {{.Repository}}\\t{{.Tag}}\\t{{.Digest}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}"
HEADINGS = {
    "Containers": "CONTAINERS",
    "CreatedAt": "CREATED AT",
    "CreatedSince": "CREATED",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "SharedSize": "SHARED SIZE",
    "Size": "SIZE",
    "Tag": "TAG",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
_FILTERS = ("dangling", "label", "before", "since", "until", "reference")


def run(words: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    options = _parser().parse_args(words)
    with local.opened(files=False) as store:
        rows = [row(*each, options.no_trunc) for each in _lines(store, options)]
    if options.quiet:
        listing.show(rows, "{{.ID}}", HEADINGS)
        return 0
    format = options.format if options.format and options.format != "table" else _TABLE
    if options.digests and format == _TABLE:
        format = _DIGESTS
    listing.show(rows, format, HEADINGS)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hythe images", description="List images")
    parser.add_argument("name", nargs="?", metavar="REPOSITORY[:TAG]")
    parser.add_argument("-a", "--all", action="store_true", help="show all images; none is hidden here")
    parser.add_argument("-q", "--quiet", action="store_true", help="only show image IDs")
    parser.add_argument("--digests", action="store_true", help="show digests")
    parser.add_argument("--no-trunc", action="store_true", help="don't truncate output")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--format", metavar="TEMPLATE", help="table, json, or a Go template")
    return parser


def _lines(store: Store, options: argparse.Namespace) -> Iterator[tuple[Store, Image, str, str, str]]:
    """Image, repository, tag and digest of each line, in docker's order."""
    wanted = Filters(store, options.filter, _FILTERS)
    patterns = [*wanted.references(), *([options.name] if options.name else [])]
    dangling = wanted.flag("dangling")
    names = filters.names_of(store)
    for image in wanted.images(records.images(store.db)):
        tags, digests = names.get(image.id, ([], []))
        if dangling is not None and dangling == bool(tags):
            continue
        if patterns:
            tags = [name for name in tags if _is_wanted(store, patterns, name, name.reference)]
            digests = [name for name in digests if _is_wanted(store, patterns, name, "")]
            if not tags and not digests:
                continue
        for line in _of_image(tags, digests, options.digests or ".Digest" in (options.format or "")):
            yield store, image, *line


def every_line(store: Store) -> Iterator[tuple[Image, str, str, str]]:
    """Image, repository, tag and digest of each line, when nothing is filtered."""
    names = filters.names_of(store)
    for image in records.images(store.db):
        for line in _of_image(*names.get(image.id, ([], [])), False):
            yield image, *line


def _is_wanted(store: Store, patterns: Sequence[str], name: Name, tag: str) -> bool:
    return all(filters.matches(store, pattern, name.repository, tag) for pattern in patterns)


def _of_image(tags: list[Name], digests: list[Name], show: bool) -> Iterator[tuple[str, str, str]]:
    by_repository: dict[str, list[str]] = {}
    for name in digests:
        by_repository.setdefault(name.repository, []).append(name.reference)
    for name in tags:
        for digest in (by_repository.get(name.repository) if show else None) or [_NONE]:
            yield name.repository, name.reference, digest
    tagged = {name.repository for name in tags}
    for repository, found in by_repository.items():
        if repository not in tagged:
            yield from ((repository, _NONE, digest) for digest in (found if show else [_NONE]))
    if not tags and not digests:
        yield _NONE, _NONE, _NONE


def row(store: Store, image: Image, repository: str, tag: str, digest: str, whole: bool) -> dict[str, str]:
    """The fields of a line."""
    size = listing.size(image.size_bytes)
    return {
        "Containers": "N/A",
        "CreatedAt": listing.local(image.created),
        "CreatedSince": listing.since(image.created),
        "Digest": digest,
        "ID": image.id if whole else image.id.encoded[:12],
        "Repository": repository if repository == _NONE else store.familiar(repository),
        "SharedSize": "N/A",
        "Size": size,
        "Tag": tag,
        "UniqueSize": "N/A",
        "VirtualSize": listing.size(image.size_bytes, 4),
    }
