"""Lists as docker prints them: tables, `--format`, sizes and ages. Nothing here knows what is listed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from registry.cli import templates
from registry.cli.templates import Strict

_MIN_WIDTH = 10
_GAP = 3


def show(rows: Sequence[Mapping[str, str]], format: str, headings: Mapping[str, str], quiet: bool = False) -> None:
    """Print *rows* by a format: `table …`, `json`, or any template, which is run for each row.

    *headings* has a title for each field that may be asked for; *quiet* leaves the titles of a table out.
    """
    if format == "json":
        format = "{{json .}}"
    is_table = format.startswith("table")
    template = templates.parse(format.removeprefix("table").strip() if is_table else format)
    lines = [template.render(Strict(row)) for row in rows]
    if not is_table:
        for line in lines:
            print(line)
        return
    titles = template.render(Strict({name: headings.get(name, name.upper()) for name in headings}))
    columns([line.split("\t") for line in ([] if quiet else [titles]) + lines])


def columns(lines: Sequence[Sequence[str]]) -> None:
    """Print aligned columns as Go's tabwriter does it for docker: ten wide at least, three apart."""
    count = max((len(line) for line in lines), default=0)
    widths = [
        max(_MIN_WIDTH, *(len(line[place]) + _GAP for line in lines if len(line) > place + 1), 0)
        for place in range(count - 1)
    ]
    for line in lines:
        cells = [text.ljust(widths[place]) for place, text in enumerate(line[:-1])]
        print("".join(cells) + line[-1])


def size(size_bytes: int, digits: int = 3) -> str:
    """`1.24MB`, of 1000 each."""
    amount, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB", "PB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    unit = units[0]
    return f"{amount:.{digits}g}{unit}"


def ago(seconds: float) -> str:
    """A duration in the words of docker: `5 days`."""
    whole = int(seconds)
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    steps = (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 14, f"{hours // 24} days"),
        (hours < 24 * 60, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    )
    return next((words for applies, words in steps if applies), f"{int(seconds / 3600) // 24 // 365} years")


def parse_time(text: str) -> float:
    """Seconds since the epoch of `2023-11-14T22:13:20.123456789Z`; of what is no such time, the year one."""
    head, _, rest = text.partition(".")
    digits = rest.rstrip("Zz").partition("+")[0].partition("-")[0] if rest else ""
    zone = rest[len(digits) :] if rest else ""
    try:
        moment = datetime.fromisoformat((head + zone).replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError:
        return -62135596800.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)  # noqa: UP017 -- 3.11 has it under both names
    return moment.timestamp() + (float(f"0.{digits}") if digits.isdigit() else 0.0)


def since(text: str) -> str:
    """`5 days ago`, for a time as images have it."""
    moment = parse_time(text)
    return "N/A" if moment < 0 else f"{ago(time.time() - moment)} ago"


def local(text: str) -> str:
    """A time as Go prints it: `2023-11-14 22:13:20 +0000 UTC`."""
    moment = parse_time(text)
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(max(moment, 0)))


def utc(nanoseconds: int, whole: bool = False) -> str:
    """A moment as docker's JSON has it, in UTC; *whole* leaves the fractions out. 0 is the year one."""
    if not nanoseconds:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = "" if whole else f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"
