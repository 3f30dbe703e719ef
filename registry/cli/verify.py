"""`hythe admin verify`: whether the bytes are right, and who suffers where they are not."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.cli import output
from registry.content.store import BlobStore
from registry.oci.errors import ConfigurationError
from registry.oci.reference import Repository
from registry.server.index import inventory
from registry.server.index.engine import Index
from registry.server.index.inventory import Record
from registry.server.service.examine import Examiner, Finding, Place
from registry.server.service.mend import Mender

_HELP = "compare the bytes with their digests; exit status 1 when something is wrong"


@dataclass
class _Tally:
    examined: int = 0
    read_bytes: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)


def add_verb(families: Any) -> None:
    """Add the verb to the command line of `hythe admin`."""
    made: argparse.ArgumentParser = families.add_parser("verify", help=_HELP, description=_HELP)
    made.add_argument("repositories", nargs="*", metavar="REPO", help="what these repositories have")
    made.add_argument("--all", action="store_true", help="everything, each digest once")
    made.add_argument("--quick", action="store_true", help="compare the lengths alone, and read nothing")
    made.add_argument("--heal", action="store_true", help="mend what is wrong, as scrub does")
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


async def run(index: Index, store: BlobStore, mender: Mender, options: argparse.Namespace) -> int:
    """Verify, print what is wrong, and return the exit status."""
    if options.all == bool(options.repositories):
        raise ConfigurationError("say which repositories, or --all")
    examiner, tally = Examiner(index, store, quick=options.quick), _Tally()
    seen: set[str] = set()
    async for page in _records(examiner, [Repository.parse(name) for name in options.repositories]):
        for record in page:
            if record.digest in seen:
                continue
            finding = await examiner.examine(record)
            tally.examined += 1
            # Of everything each comes once, unless it is set aside: then it comes again with what has no record.
            if options.repositories or finding is not None:
                seen.add(record.digest)
            if finding is not None:
                await _tell(index, store, mender, finding, tally, options)
    tally.read_bytes = examiner.read_bytes
    if options.json:
        output.as_json(asdict(tally))
    else:
        read = "lengths alone" if options.quick else f"{output.size(tally.read_bytes)} read"
        print(f"{tally.examined} digests looked at ({read}), {len(tally.problems)} wrong")
    return 1 if any(problem["outcome"] != "healed" for problem in tally.problems) else 0


async def _records(examiner: Examiner, repositories: list[Repository]) -> AsyncIterator[list[Record]]:
    if not repositories:
        async for page in examiner.everything():
            yield page
    for repository in repositories:
        async for page in examiner.of(repository):
            yield page


async def _tell(
    index: Index, store: BlobStore, mender: Mender, finding: Finding, tally: _Tally, options: argparse.Namespace
) -> None:
    places = await Examiner(index, store).places(finding.digest)
    outcome = await _heal(index, store, mender, finding) if options.heal else ""
    entry = {
        "digest": finding.digest,
        "problem": str(finding.problem),
        "size_bytes": finding.size_bytes,
        "outcome": outcome,
        "affected": [asdict(place) for place in places],
    }
    tally.problems.append(entry)
    if options.json:
        return
    print(f"{finding.problem}: {finding.digest} ({finding.size_bytes} bytes){f', {outcome}' if outcome else ''}")
    for place in places:
        print(f"    {_shown(place)}")


async def _heal(index: Index, store: BlobStore, mender: Mender, finding: Finding) -> str:
    """Mend it, if it is still so after a look at the bytes themselves."""
    record = await index.read(inventory.record, finding.digest)
    again = await Examiner(index, store).examine(record)
    return "healed" if again is None else str(await mender.mend(again))


def _shown(place: Place) -> str:
    return f"{place.repository}: {', '.join(place.tags)}" if place.tags else f"{place.repository}: no tag"
