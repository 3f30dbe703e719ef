"""`hythe search`: docker's options and columns, asked of any registry that answers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from registry.cli import command, listing, output, reach
from registry.oci.errors import HytheError
from registry.oci.reference import DOCKER_HUB
from registry.transfer import lists
from registry.transfer.hosts import Endpoint

_LIMIT_MAX = 100
_DESCRIPTION_MAX = 45
_HUB = Endpoint("index.docker.io")
_HEADINGS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}
_YES_OR_NO = ("IsAutomated", "IsOfficial")
_WHOLE_ROWS = re.compile(r"^json$|\bjson \.(?![A-Za-z])")  # docker's JSON has true and false, its table has marks
_TABLE = "table " + "\\t".join(f"{{{{.{name}}}}}" for name in _HEADINGS)


def run(arguments: Sequence[str]) -> int:
    """`search [OPTIONS] [HOST[:PORT]/]TERM`."""
    top = command.parser("search", "Search a registry for repositories.")
    top.add_argument("term", metavar="TERM", help="a part of a name, with the registry's host before it")
    top.add_argument(
        "-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help="stars=3, is-official=true"
    )
    top.add_argument("--format", default="", metavar="TEMPLATE", help="table, json, or a Go template")
    top.add_argument("--limit", type=int, default=25, metavar="N", help=f"at most so many, up to {_LIMIT_MAX}")
    top.add_argument("--no-trunc", action="store_true", help="print descriptions in full")
    top.add_argument("--json", action="store_true", help="print JSON")
    return command.execute(_search(top.parse_args(arguments)))


async def _search(options: argparse.Namespace) -> int:
    if not 1 <= options.limit <= _LIMIT_MAX:
        raise HytheError(f"--limit {options.limit} is outside the range of [1, {_LIMIT_MAX}]")
    wanted = [_condition(text) for text in options.filter]
    async with reach.make() as way:
        first, slash, rest = options.term.partition("/")
        is_named = slash and ("." in first or ":" in first or first == "localhost")
        host, term = (first, rest) if is_named else (way.registries.default_host, options.term)
        asked = way.host(_HUB) if host == DOCKER_HUB else way.registry(host)
        found = await lists.search(asked, term, options.limit)
    rows = [_row(entry, options.no_trunc) for entry in found if all(_holds(entry, *each) for each in wanted)]
    _print(rows, options)
    return 0


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if key not in ("stars", "is-official", "is-automated") or not equals:
        raise HytheError(
            f"invalid filter {text!r}: stars=NUMBER, is-official=true and is-automated=true are known"
        )
    if key == "stars" and not (value.isascii() and value.isdigit()):
        raise HytheError(f"invalid filter 'stars={value}': a number is expected")
    if key != "stars" and value not in ("true", "false", "1", "0"):
        raise HytheError(f"invalid filter '{key}={value}': true or false is expected")
    return key, value


def _holds(entry: dict[str, Any], key: str, value: str) -> bool:
    if key == "stars":
        stars = entry.get("star_count")
        return isinstance(stars, int) and stars >= int(value)
    return bool(entry.get(key.replace("-", "_"))) == (value in ("true", "1"))


def _row(entry: dict[str, Any], in_full: bool) -> dict[str, str]:
    description = " ".join(str(entry.get("description") or "").split())
    if len(description) > _DESCRIPTION_MAX and not in_full:
        description = description[: _DESCRIPTION_MAX - 1] + "…"
    return {
        "Description": description,
        "IsAutomated": "[OK]" if entry.get("is_automated") else "",
        "IsOfficial": "[OK]" if entry.get("is_official") else "",
        "Name": str(entry.get("name") or ""),
        "StarCount": str(entry.get("star_count") or 0),
    }


def _print(rows: list[dict[str, str]], options: argparse.Namespace) -> None:
    if options.json:
        output.as_json(rows)
        return
    clean = [{key: output.cell(value) for key, value in row.items()} for row in rows]
    format = options.format if options.format and options.format != "table" else _TABLE
    if _WHOLE_ROWS.search(format):
        clean = [row | {key: "true" if row[key] else "false" for key in _YES_OR_NO} for row in clean]
    listing.show(clean, format, _HEADINGS)
