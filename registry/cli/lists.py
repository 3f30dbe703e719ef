"""`hythe tags` and `hythe catalog`: what a registry has."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence

from registry.cli import command, output, reach
from registry.cli.login import server_of
from registry.oci.errors import HytheError
from registry.transfer import lists


def tags(arguments: Sequence[str]) -> int:
    """List the tags of a repository, one on a line."""
    top = command.parser("tags", "List the tags of a repository.")
    top.add_argument("name", metavar="NAME", help="host/repository")
    _add_options(top)
    return command.execute(_tags(top.parse_args(arguments)))


def catalog(arguments: Sequence[str]) -> int:
    """List the repositories of a registry, one on a line."""
    top = command.parser("catalog", "List the repositories of a registry that you may see.")
    top.add_argument("host", nargs="?", default="", metavar="HOST", help="host[:port]; the default registry else")
    _add_options(top)
    return command.execute(_catalog(top.parse_args(arguments)))


def _add_options(top: argparse.ArgumentParser) -> None:
    top.add_argument("--json", action="store_true", help="print JSON")


async def _tags(options: argparse.Namespace) -> int:
    async with reach.make() as way:
        name = reach.name_of(options.name, way.registries)
        if name.tag or name.digest:
            raise HytheError(f"{options.name}: a repository has tags; leave out what follows its name")
        await _print(way.source(name).tags(), options.json)
    return 0


async def _catalog(options: argparse.Namespace) -> int:
    async with reach.make() as way:
        host = way.registry(server_of(options.host) or way.registries.default_host)
        await _print(lists.catalog(host), options.json)
    return 0


async def _print(found: AsyncIterator[str], as_json: bool) -> None:
    if as_json:
        output.as_json([each async for each in found])
        return
    async for each in found:
        print(each)
