"""Blocking steps run in threads to their end, whatever becomes of the request that asked for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run(pool: Executor, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *step* in *pool*. A caller who is cancelled is told so when it is over, or was not begun.

    What the step works with is not in use any more then.
    """
    job = pool.submit(step, *args, **kwargs)
    running = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if not job.cancel():
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # nobody else will ask for it
        raise
