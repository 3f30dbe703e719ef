"""Long walks in groups: few enough to be held and asked for at once, enough to be worth a question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def of(items: AsyncIterator[T], size: int) -> AsyncIterator[list[T]]:
    """*items* in lists of up to *size*."""
    group: list[T] = []
    async for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


async def gather(step: Callable[[T], Awaitable[R]], items: Iterable[T], at_once: int) -> list[R]:
    """What *step* returns for each of *items*, in their order; *at_once* of them are under way together."""
    done: list[R] = []
    waiting = iter(items)
    while some := list(islice(waiting, at_once)):
        done += await asyncio.gather(*map(step, some))
    return done
