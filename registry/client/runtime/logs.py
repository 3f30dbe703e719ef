"""What a container has said: the monitor's log, a line each `TIME STREAM F|P TEXT`.

P is a piece without its newline.

Source: Kubernetes' CRI log format, which conmon calls k8s-file.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 16
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log: when, stdout or stderr, and its bytes with the newline if it had one."""

    time: str
    stream: str
    data: bytes


def parse(line: bytes) -> Line | None:
    """A line of the file; None for one that a crash cut."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr") or not line.endswith(b"\n"):
        return None
    text = parts[3] if parts[2].startswith(b"F") else parts[3][:-1]
    return Line(parts[0].decode("ascii", "replace"), parts[1].decode(), text)


def read(
    path: Path,
    tail: int | None = None,
    follow: Callable[[], bool] | None = None,
    select_line: Callable[[Line], bool] = lambda _: True,
) -> Iterator[Line]:
    """The lines of a log, the last *tail* only; with *follow*, which says whether more may come, those too."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if tail is not None:
            file.seek(_start_of_tail(file, tail))
        yield from filter(select_line, _lines(file))
        if follow is not None:
            yield from filter(select_line, _coming(path, file, follow))


def _lines(file: BinaryIO) -> Iterator[Line]:
    while line := file.readline():
        if not line.endswith(b"\n"):
            file.seek(-len(line), os.SEEK_CUR)
            return
        found = parse(line)
        if found is not None:
            yield found


def _coming(path: Path, file: BinaryIO, more: Callable[[], bool]) -> Iterator[Line]:
    try:
        while True:
            goes_on = more()  # asked before reading: what was written before the end is read after it
            yield from _lines(file)
            if _is_replaced(path, file):
                yield from _lines(file)  # what came between
                file.close()
                file = path.open("rb")
                continue
            if not goes_on:
                return
            time.sleep(_LOOK_SECONDS)
    finally:
        file.close()


def _is_replaced(path: Path, file: BinaryIO) -> bool:
    """Whether the monitor has begun another file because this one was as long as it may be."""
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _start_of_tail(file: BinaryIO, tail: int) -> int:
    """Where the last *tail* whole lines begin, looking from the end; pieces of a line count as one."""
    end = file.seek(0, os.SEEK_END)
    if tail <= 0:
        return end
    found: deque[int]
    data, at = b"", end
    while at > 0:
        size = min(_BLOCK_BYTES, at)
        at -= size
        file.seek(at)
        data = file.read(size) + data
        found = deque(_ends(data, at), tail + 1)
        if len(found) > tail:
            return found[0]
    return 0


def _ends(data: bytes, offset: int) -> Iterator[int]:
    """Where whole lines end."""
    at = 0
    while (newline := data.find(b"\n", at)) >= 0:
        parts = data[at:newline].split(b" ", 3)
        if len(parts) < 3 or parts[2] != b"P" or newline + 1 == len(data):  # the last piece is a line too
            yield offset + newline + 1
        at = newline + 1
