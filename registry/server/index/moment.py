"""A request that only reads may take one answer to "what is the epoch now?" for all its questions.

What it must see is what was committed before it came. Who it is, what it may do and what it asks for are each kept
under the epoch; one answer, given after it came, is right for all of them.
"""

from __future__ import annotations

from contextvars import ContextVar


class Moment:
    """One request, and whether the epoch was asked since it came."""

    __slots__ = ("is_known",)

    def __init__(self) -> None:
        self.is_known = False


_NOW: ContextVar[Moment | None] = ContextVar("moment", default=None)


def begin() -> None:
    """In the task of a request that only reads: from here on the epoch is asked once."""
    _NOW.set(Moment())


def current() -> Moment | None:
    """The moment of this task's request; None for all others, whose every question is asked anew."""
    return _NOW.get()
