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
    """Run *step* in *pool*; a caller who is cancelled is told so when it is over, as what it uses is then free."""
    running = asyncio.get_running_loop().run_in_executor(pool, lambda: step(*args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # nobody else will ask for it
        raise
