"""How a pull or push is told: docker's line for each layer; on a terminal the lines change in place."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from registry.cli.listing import size
from registry.client.images.ingest import is_layer
from registry.oci.descriptor import Descriptor
from registry.transfer.copy import Event

_REDRAW_SECONDS = 0.1
_BAR = 50
_BAR_LEAST = 10


class Lines:
    """One line for each id. Not on a terminal, every change of words is a line of its own, without bars.

    No line is wider than the terminal, or the lines above it could not be found again; what has scrolled out at
    its top is not changed any more.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stdout
        self._lively = self._stream.isatty()
        self._order: list[str] = []
        self._said: dict[str, str] = {}
        self._drawn: dict[str, float] = {}

    def knows(self, identity: str) -> bool:
        """Whether there is a line of *identity*."""
        return identity in self._said

    def say(self, identity: str, words: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Set the line of *identity*; with *total_bytes* it has a bar."""
        if self._quiet or (total_bytes and not self._lively):
            return
        now = time.monotonic()
        if total_bytes:
            if now - self._drawn.get(identity, 0.0) < _REDRAW_SECONDS:
                return
            words = self._with_bar(f"{identity}: ", words, done_bytes, total_bytes)
        self._drawn[identity] = 0.0 if not total_bytes else now
        if self._said.get(identity) == words:
            return
        self._said[identity] = words
        if not self._lively:
            print(f"{identity}: {words}", flush=True, file=self._stream)
            return
        self._draw(identity, words)

    def _with_bar(self, before: str, words: str, done_bytes: int, total_bytes: int) -> str:
        after = f"{size(done_bytes):>8}/{size(total_bytes)}"
        room = self._size()[0] - len(before) - 12 - len(after) - 5
        bar = _bar(done_bytes, total_bytes, min(room, _BAR)) + " " if room >= _BAR_LEAST else ""
        return f"{words:<12} {bar}{after}"

    def _draw(self, identity: str, words: str) -> None:
        columns, rows = self._size()
        line = f"{identity}: {words}"[: columns - 1]
        if identity not in self._order:
            self._order.append(identity)
            print(line, flush=True, file=self._stream)
            return
        up = len(self._order) - self._order.index(identity)
        if up < rows:
            print(f"\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r", end="", flush=True, file=self._stream)

    def _size(self) -> os.terminal_size:
        """Columns and rows of the terminal; one that does not know them has 80 by 24."""
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except OSError:
            found = os.terminal_size((0, 0))
        return os.terminal_size((found.columns or 80, found.lines or 24))


def _bar(done: int, total: int, width: int) -> str:
    filled = min(width, width * done // max(total, 1))
    return "[" + ("=" * filled + ">").ljust(width)[:width] + "]"


class Pull:
    """The steps of a pull in docker's words."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._begun: set[str] = set()
        self.moved = False

    def event(self, event: Event) -> None:
        """What the copy tells."""
        descriptor = event.descriptor
        if not is_layer(descriptor):
            return
        name = descriptor.digest.encoded[:12]
        if event.kind == "present":
            self._lines.say(name, "Already exists")
        elif event.kind == "moving":
            self.moved = True
            if name not in self._begun:
                self._begun.add(name)
                self._lines.say(name, "Pulling fs layer")
            self._lines.say(name, "Downloading", event.done_bytes, descriptor.size_bytes)

    def stored(self, step: str, descriptor: Descriptor) -> None:
        """What the store tells."""
        if not is_layer(descriptor):
            return
        name = descriptor.digest.encoded[:12]
        if name not in self._begun:
            self._begun.add(name)
            self._lines.say(name, "Pulling fs layer")
        if step == "extracting":
            self._lines.say(name, "Verifying Checksum")
            self._lines.say(name, "Download complete")
        else:
            self.moved = True
            self._lines.say(name, "Pull complete")


def push(
    lines: Lines, name_of: Callable[[Descriptor], str], origin_of: Callable[[Descriptor], str]
) -> Callable[[Event], None]:
    """The steps of a push in docker's words; *name_of* gives a layer's short diff id."""

    def observe(event: Event) -> None:
        descriptor = event.descriptor
        if not is_layer(descriptor):
            return
        name = name_of(descriptor)
        words = {"waiting": "Preparing", "present": "Layer already exists", "done": "Pushed"}
        if event.kind == "mounted":
            lines.say(name, f"Mounted from {origin_of(descriptor)}")
        elif event.kind == "moving":
            lines.say(name, "Pushing", event.done_bytes, descriptor.size_bytes)
        else:
            lines.say(name, words[event.kind])

    return observe
