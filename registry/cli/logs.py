"""`hythe logs`: what a container has said."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC
from types import SimpleNamespace

from registry.cli import containers, filters, listing
from registry.cli.flags import BOOL, TEXT, Flag, Words
from registry.client.runtime import logs, processes, records
from registry.client.runtime.machine import Machine
from registry.oci.errors import HytheError

_LOGS = Words(
    "logs",
    "[OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    (
        Flag("follow", "f", BOOL, "Follow log output"),
        Flag("since", "", TEXT, "Show logs since a time (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m)", ""),
        Flag("tail", "n", TEXT, "Number of lines to show from the end of the logs", "all"),
        Flag("timestamps", "t", BOOL, "Show timestamps"),
        Flag("until", "", TEXT, "Show logs before a timestamp or relative time", ""),
        Flag("details", "", BOOL),
    ),
    1,
    1,
)


def run(words: Sequence[str]) -> int:
    """Run `logs` and return its exit status."""
    return containers.execute(_LOGS, words, _run)


def _run(machine: Machine, options: SimpleNamespace) -> int:
    container = machine.find(options.words[0])
    if container.spec.log_driver == "none":
        raise HytheError("this container was made with --log-driver none: nothing of what it says is kept")
    tail = None
    if options.tail != "all":
        if not options.tail.lstrip("-").isdigit():
            raise HytheError(f"invalid value for --tail: {options.tail}")
        tail = int(options.tail) if int(options.tail) >= 0 else None
    since = filters.moment(options.since) if options.since else None
    until = filters.moment(options.until) if options.until else None

    def wanted(line: logs.Line) -> bool:
        moment = listing.parse_time(line.time) if since is not None or until is not None else 0.0
        return (since is None or moment >= since) and (until is None or moment <= until)

    def goes_on() -> bool:
        found = records.get(machine.db, container.id)
        alive = found is not None and found.state == records.RUNNING and processes.is_alive(found.process)
        return alive or (found is not None and processes.is_alive(found.monitor))

    begun = False
    for line in logs.read(machine.place.log(container.id), tail, goes_on if options.follow else None, wanted):
        target = sys.stdout.buffer if line.stream == "stdout" else sys.stderr.buffer
        stamp = f"{_utc(line.time)} ".encode() if options.timestamps and not begun else b""
        target.write(stamp + line.data)
        begun = not line.data.endswith(b"\n")
        if options.follow or line.stream == "stderr":
            target.flush()
    sys.stdout.flush()
    return 0


def _utc(text: str) -> str:
    """The monitor's local time as docker prints it, in UTC."""
    if text.endswith(("Z", "+00:00")):
        return text.replace("+00:00", "Z")
    from datetime import datetime

    head, _, rest = text.partition(".")
    digits, zone = rest[:9], rest[9:]
    moment = datetime.fromisoformat(head + zone).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{digits}Z"
