"""Pieces from one thread to another, a few at a time; either end may give up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator

DEPTH = 8


class Channel:
    """A bounded queue of one producer and one consumer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def fill(self, pieces: Iterable[bytes]) -> None:
        """Producer: hand over all *pieces*, their error as well; stops early when the consumer has closed."""
        error: BaseException | None = None
        try:
            for piece in pieces:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._pieces) < DEPTH or self._closed)
                    if self._closed:
                        break
                    self._pieces.append(piece)
                    self._changed.notify_all()
        except BaseException as caught:  # it is the consumer's to raise
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        """Consumer: the pieces; raises what the producer raised."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended)
                if not self._pieces:
                    break
                piece = self._pieces.popleft()
                self._changed.notify_all()
            yield piece
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Consumer: no more is wanted."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._changed.notify_all()
