"""Verbs that look at running containers: top, stats, port."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from types import SimpleNamespace

from registry.cli import containers, listing
from registry.cli.flags import BOOL, TEXT, Flag, Words
from registry.client.runtime import cgroups, ports
from registry.client.runtime.errors import ContainerConflict, Missing
from registry.client.runtime.machine import Machine
from registry.client.runtime.records import RUNNING, Container
from registry.oci.errors import HytheError

_TOP = Words(
    "top", "CONTAINER [ps OPTIONS]", "Display the running processes of a container", (), least=1, opaque=True
)
_STATS = Words(
    "stats",
    "[OPTIONS] [CONTAINER...]",
    "Display a live stream of container(s) resource usage statistics",
    (
        Flag("all", "a", BOOL, "Show all containers (default shows just running)"),
        Flag("format", "", TEXT, "Format output: table, json, or a Go template", ""),
        Flag("no-stream", "", BOOL, "Disable streaming stats and only pull the first result"),
        Flag("no-trunc", "", BOOL, "Do not truncate output"),
    ),
)
_PORT = Words("port", "CONTAINER [PRIVATE_PORT[/PROTO]]", "List port mappings of a container", (), 1, 2)
_TABLE = (
    "table {{.ID}}\\t{{.Name}}\\t{{.CPUPerc}}\\t{{.MemUsage}}\\t"
    "{{.MemPerc}}\\t{{.NetIO}}\\t{{.BlockIO}}\\t{{.PIDs}}"
)
_HEADINGS = {
    "BlockIO": "BLOCK I/O",
    "CPUPerc": "CPU %",
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "MemPerc": "MEM %",
    "MemUsage": "MEM USAGE / LIMIT",
    "Name": "NAME",
    "NetIO": "NET I/O",
    "PIDs": "PIDS",
}
_BETWEEN_SECONDS = 0.5


def _running(machine: Machine, name: str) -> Container:
    container = machine.find(name)
    if container.state != RUNNING or container.process is None:
        raise ContainerConflict(f"Container {container.id} is not running")
    return container


def top(words: Sequence[str]) -> int:
    """Run `top` and return its exit status."""
    return containers.execute(_TOP, words, _top)


def _top(machine: Machine, options: SimpleNamespace) -> int:
    container = _running(machine, options.words[0])
    assert container.process is not None
    wanted = {str(pid) for pid in cgroups.pids(container.process.pid)}
    try:
        done = subprocess.run(["ps", *(options.words[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Missing("hythe top needs ps: apt-get install procps") from None
    if done.returncode != 0:
        raise HytheError(f"Error running ps: {done.stderr.strip()}")
    heading, *lines = done.stdout.splitlines()
    titles = heading.split()
    if "PID" not in titles:
        raise HytheError("Couldn't find PID field in ps output")
    rows = [line.split(None, len(titles) - 1) for line in lines]
    kept = [row for row in rows if len(row) > titles.index("PID") and row[titles.index("PID")] in wanted]
    listing.columns([titles, *kept])
    return 0


def port(words: Sequence[str]) -> int:
    """Run `port` and return its exit status."""
    return containers.execute(_PORT, words, _port)


def _port(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    found = ports.published(machine, container)
    if len(options.words) == 1:
        for each in sorted(found, key=lambda each: (each.container, each.protocol)):
            print(f"{each.container}/{each.protocol} -> {ports.address(each)}:{each.host}")
        return 0
    number, _, protocol = options.words[1].partition("/")
    kept = [each for each in found if (str(each.container), each.protocol) == (number, protocol or "tcp")]
    if not kept:
        raise HytheError(f"No public port '{number}/{protocol or 'tcp'}' published for {options.words[0]}")
    for each in kept:
        print(f"{ports.address(each)}:{each.host}")
    return 0


def stats(words: Sequence[str]) -> int:
    """Run `stats` and return its exit status."""
    return containers.execute(_STATS, words, _stats)


def _stats(machine: Machine, options: SimpleNamespace) -> int:
    while True:
        rows = _rows(machine, options)
        if not options.no_stream:
            print("\033[2J\033[H", end="")
        listing.show(rows, options.format or _TABLE, _HEADINGS)
        if options.no_stream:
            return 0


def _rows(machine: Machine, options: SimpleNamespace) -> list[dict[str, str]]:
    found = [machine.find(name) for name in options.words] or [
        each for each in machine.every() if options.all or each.state == RUNNING
    ]
    first = {each.id: _usage(each) for each in found}
    begun = time.monotonic()
    time.sleep(_BETWEEN_SECONDS if found else 0)
    seconds = time.monotonic() - begun
    return [_row(each, first[each.id], _usage(each), seconds, options.no_trunc) for each in found]


def _usage(container: Container) -> cgroups.Usage | None:
    try:
        return cgroups.read(container.process.pid) if container.process is not None else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def _row(
    container: Container, before: cgroups.Usage | None, after: cgroups.Usage | None, seconds: float, whole: bool
) -> dict[str, str]:
    row = {"ID": container.id if whole else container.id[:12], "Name": container.name, "Container": container.name}
    if before is None or after is None:
        zero = {
            "CPUPerc": "0.00%",
            "MemUsage": "0B / 0B",
            "MemPerc": "0.00%",
            "NetIO": "0B / 0B",
            "BlockIO": "0B / 0B",
        }
        return {**row, **zero, "PIDs": "0"}
    share = (after.cpu_ns - before.cpu_ns) / 1e9 / seconds if seconds else 0.0
    return {
        **row,
        "CPUPerc": f"{100 * share:.2f}%",
        "MemUsage": f"{_binary(after.memory_bytes)} / {_binary(after.memory_limit_bytes)}",
        "MemPerc": f"{100 * after.memory_bytes / after.memory_limit_bytes:.2f}%",
        "NetIO": f"{listing.size(after.received_bytes)} / {listing.size(after.sent_bytes)}",
        "BlockIO": f"{listing.size(after.read_bytes)} / {listing.size(after.written_bytes)}",
        "PIDs": str(after.pids),
    }


def _binary(size_bytes: int) -> str:
    """`1.5MiB`, of 1024 each, with four digits."""
    amount, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.4g}{units[0]}"
