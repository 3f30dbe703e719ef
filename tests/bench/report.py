"""What was measured, as values, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench.content import MB

OURS = "ours"
NOTHING = "–"
DISTURBED_SHARE = 0.2


@dataclass
class Result:
    """One row's figures: for each server one of every round, in the order in which they were taken.

    `others_share` of the cores' time went to processes that have no part in this, or to the kernel's own.
    """

    name: str
    title: str
    unit: str
    bar: float
    values: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    others_share: float = 0.0
    error: str | None = None

    def figure(self, server: str) -> float | None:
        """The median of the server's rounds; None when the row failed or the server did not run."""
        taken = self.values.get(server)
        return median(taken) if taken and self.error is None else None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios, ours to the peer's: neighbours in time meet the same machine."""
        peers = [name for name in self.values if name != OURS]
        if self.error is not None or OURS not in self.values or not peers:
            return None
        pairs = zip(self.values[OURS], self.values[peers[0]], strict=True)
        return median(mine / other for mine, other in pairs)

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is at the bar."""
        return None if self.ratio is None else self.ratio >= self.bar

    def as_json(self) -> dict[str, Any]:
        """Everything that a later comparison may want."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "bar": self.bar,
            "ratio": self.ratio,
            "reached": self.reached,
            "rounds": self.values,
            "median": {name: self.figure(name) for name in self.values},
            "peak_bytes": self.peak_bytes,
            "others_share": self.others_share,
            "error": self.error,
        }


def markdown(results: Sequence[Result], servers: Sequence[str]) -> str:
    """The table of figures and, under it, the table of memory."""
    peer = next((name for name in servers if name != OURS), "peer")
    lines = [
        f"| row | ours | {peer} | ratio | bar | reached |",
        "|---|---:|---:|---:|---:|---|",
        *(_figures(result, peer) for result in results),
        "",
        f"| peak resident memory, MB | ours | {peer} |",
        "|---|---:|---:|",
        *(
            f"| {result.title} | {_memory(result.peak_bytes.get(OURS))} | {_memory(result.peak_bytes.get(peer))} |"
            for result in results
        ),
        f"| **most** | {_memory(_most(results, OURS))} | {_memory(_most(results, peer))} |",
    ]
    return "\n".join(lines)


def others_line(results: Sequence[Result]) -> str:
    """How much of the machine was somebody else's, and where most."""
    most = max(results, key=lambda result: result.others_share)
    share = median(result.others_share for result in results)
    line = f"Others took {share:.0%} of the cores, {most.others_share:.0%} during {most.name}."
    if most.others_share > DISTURBED_SHARE:
        line += " **The machine was not ours: measure again before you believe a ratio.**"
    return line


def _figures(result: Result, peer: str) -> str:
    if result.error is not None:
        return f"| {result.title}, {result.unit} | **failed** | | | ≥ {result.bar:g}× | **failed** |"
    ratio = NOTHING if result.ratio is None else f"{result.ratio:.2f}×"
    reached = {None: NOTHING, True: "yes", False: "**no**"}[result.reached]
    figures = f"{_number(result.figure(OURS))} | {_number(result.figure(peer))}"
    return f"| {result.title}, {result.unit} | {figures} | {ratio} | ≥ {result.bar:g}× | {reached} |"


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _memory(value: int | None) -> str:
    return NOTHING if value is None else f"{value / MB:,.0f}"


def _most(results: Sequence[Result], server: str) -> int | None:
    return max((result.peak_bytes[server] for result in results if server in result.peak_bytes), default=None)
