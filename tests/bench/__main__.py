"""`python -m tests.bench`: this registry and Debian's docker-registry, side by side, row by row, in turn.

Both servers live all the time, hold the same content on one file system and meet the same client. Absolute
figures drift with the machine; the ratios of neighbouring measurements hold. Run it from the project's
root; it needs wrk and, for the peer, docker-registry on PATH.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from tests.bench import client, machine, replicas, report
from tests.bench.content import MB
from tests.bench.load import LoadError
from tests.bench.report import Result
from tests.bench.rows import Library, Row, fill, make_library, table
from tests.bench.servers import Registry, docker_registry, docker_registry_version, flush, ours

ROUNDS = 3
SECONDS = 3.0
LARGE_MB = 200
QUICK_SECONDS = 0.4
QUICK_LARGE_MB = 32
FREE_BYTES_NEEDED = 16 << 30


def main() -> int:
    """Measure and print. 0 when every row has its figures, whatever they are; 1 when one failed."""
    if sys.argv[1:2] == ["--client"]:
        client.main(sys.argv[2:])
        return 0
    parser = _parser()
    options = parser.parse_args()
    if options.rounds < ROUNDS or (options.seconds or 1) <= 0:
        parser.error(f"a median wants {ROUNDS} rounds or more, and a measurement some seconds")
    if options.replicas:
        return _measure_replicas(options)
    missing = [name for name in _programs(options) if not shutil.which(name)]
    if missing:
        sys.exit(f"not on PATH: {', '.join(missing)}")
    signal.signal(signal.SIGTERM, _terminated)
    large_bytes = (QUICK_LARGE_MB if options.quick else LARGE_MB) * MB
    rows = [row for row in table(large_bytes) if not options.rows or row.name in options.rows]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hythe-bench-", dir=options.storage) as name:
        storage = Path(name)
        if shutil.disk_usage(storage).free < FREE_BYTES_NEEDED:
            sys.exit(f"the storage has less than {FREE_BYTES_NEEDED >> 30} GB free")
        facts = machine.facts(storage)
        with ExitStack() as stack:
            registries = [stack.enter_context(start(storage / key)) for key, start in _servers(options)]
            results = _measure(rows, registries, make_library(large_bytes), storage, options)
    facts["seconds"] = round(time.monotonic() - begun)
    _print(results, registries, facts, options)
    return 1 if any(result.error for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    names = [row.name for row in table(MB)]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=names, help=", ".join(names))
    parser.add_argument("--seconds", type=float, help=f"of one measurement (default {SECONDS:g})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each server in each row")
    parser.add_argument("--quick", action="store_true", help=f"under a minute; large blobs of {QUICK_LARGE_MB} MB")
    parser.add_argument("--storage", type=Path, metavar="DIR", help="where the servers' data are put and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there too")
    parser.add_argument("--peer", choices=["docker-registry", "none"], default="docker-registry")
    parser.add_argument(
        "--replicas",
        type=int,
        nargs="+",
        metavar="N",
        help="instead: so many servers behind nginx, on PostgreSQL and an S3 store (1 2 3 for docs/scale.md)",
    )
    parser.add_argument(
        "--client", action="store_true", help="instead, as the first word: the client's rows; --client --help"
    )
    parser.add_argument("--only", choices=["ours", "peer"], help="measure one server alone")
    return parser


def _measure_replicas(options: argparse.Namespace) -> int:
    """The other table: how the figures go with the number of replicas."""
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    document = replicas.main(options.replicas, seconds, options.rounds, options.storage, _say)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(cell["error"] for cell in document["cells"]) else 0


def _programs(options: argparse.Namespace) -> list[str]:
    return ["wrk", *(["docker-registry"] if options.only != "ours" and options.peer != "none" else [])]


def _servers(
    options: argparse.Namespace,
) -> list[tuple[str, Callable[[Path], AbstractContextManager[Registry]]]]:
    chosen: list[tuple[str, Callable[[Path], AbstractContextManager[Registry]]]] = []
    if options.only != "peer":
        chosen.append(("ours", ours))
    if options.only != "ours" and options.peer != "none":
        chosen.append(("peer", docker_registry))
    if not chosen:
        sys.exit("--only peer and --peer none leave nothing to measure")
    return chosen


def _measure(
    rows: Sequence[Row],
    registries: Sequence[Registry],
    library: Library,
    storage: Path,
    options: argparse.Namespace,
) -> list[Result]:
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    for registry in registries:
        _say(f"filling {registry.name}")
        try:
            fill(registry, library)
        except LoadError as error:
            raise SystemExit(f"{registry.name} was not filled: {error}\n{registry.log_end()}") from error
    results = []
    for row in rows:
        result = Result(row.name, row.title, row.unit, row.bar)
        results.append(result)
        for registry in registries:
            registry.forget_peak()
        others = machine.Others(registries)
        _measure_row(row, result, registries, library, storage, seconds, options.rounds)
        result.others_share = others.share()
        for registry in registries:
            result.peak_bytes[registry.name] = registry.peak_bytes()
    return results


def _measure_row(
    row: Row,
    result: Result,
    registries: Sequence[Registry],
    library: Library,
    storage: Path,
    seconds: float,
    rounds: int,
) -> None:
    """All rounds of a row, the servers in turn. The first error ends the row, and is shown."""
    for _ in range(rounds):
        for registry in registries:
            flush(storage)
            try:
                value = row.measure(registry, library, seconds)
            except LoadError as error:
                result.error = f"{registry.name}: {error}"
                _say(f"FAILED {row.name} on {result.error}\nits log ends with:\n{registry.log_end()}")
                return
            result.values.setdefault(registry.name, []).append(value)
            _say(f"{row.name} {registry.name} {value:,.1f} {row.unit}")


def _print(
    results: Sequence[Result],
    registries: Sequence[Registry],
    facts: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    servers = [registry.name for registry in registries]
    if "docker-registry" in servers:
        facts["docker_registry"] = docker_registry_version()
    print(f"{machine.line(facts)}; {facts['seconds']} s in all.")
    if "docker_registry" in facts:
        print(f"The peer is docker-registry {facts['docker_registry']}.", end=" ")
    print("Client and servers share the cores. MB is 2^20 bytes.", end=" ")
    print(f"Medians of {options.rounds} rounds taken in turn.\n")
    print(report.markdown(results, servers))
    print(f"\n{report.others_line(results)}")
    for result in results:
        if result.error:
            print(f"\n**{result.name} failed** on {result.error}")
    if options.json:
        document = {"machine": facts, "rows": [result.as_json() for result in results]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _terminated(_signal: int, _frame: object) -> None:
    """SIGTERM unwinds as ctrl-C does, so that servers stop and their data are removed."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
