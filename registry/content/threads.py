"""What is begun runs to its end, whatever becomes of the request that asked for it.

A caller that went on while a thread works for it would close a file in the thread's hands, and the number of a
closed file is soon another's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run(pool: Executor, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *step* in *pool*. A caller who is cancelled is told so when it is over, or was not begun."""
    job = pool.submit(step, *args, **kwargs)
    return await to_its_end(asyncio.wrap_future(job), job.cancel)


async def clean_up(pool: Executor, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `run`, for a step that lets go of something: it is not left out when its caller is cancelled."""
    return await to_its_end(asyncio.wrap_future(pool.submit(step, *args, **kwargs)))


async def acquire(pool: Executor, take: Callable[[], T], release: Callable[[T], object]) -> T:
    """As `run`, for a step whose result has to be let go of: a caller who is cancelled never learns of it."""
    taken: list[T] = []
    try:
        await run(pool, lambda: taken.append(take()))
    except asyncio.CancelledError:
        for each in taken:
            release(each)
        raise
    return taken[0]


async def aside(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *step* in the loop's own threads, to its end."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, partial(step, *args, **kwargs)))


@contextlib.asynccontextmanager
async def holding(take: Callable[[], T], release: Callable[[T], object]) -> AsyncGenerator[T, None]:
    """What *take* makes in a thread of the loop; *release* has it in the end, be the caller cancelled or not."""
    taken: list[T] = []
    try:
        await aside(lambda: taken.append(take()))
        yield taken[0]
    finally:
        for each in taken:
            release(each)


async def to_its_end(work: asyncio.Future[T], call_off: Callable[[], bool] = lambda: False) -> T:
    """The result of *work*. A caller who is cancelled, be it again and again, is told so when it is over.

    *call_off* is asked first, and says whether *work* was not begun and will not be.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not (work.done() or call_off()):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if work.done() and not work.cancelled():
            work.exception()  # nobody else will ask for it
        raise
