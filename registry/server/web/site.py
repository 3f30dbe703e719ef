"""What is not the distribution API: health, and a word for those who come with a browser."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

log = logging.getLogger("hythe.site")

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]
Check = Callable[[], Awaitable[None]]


def make_site(checks: dict[str, Check], lifespan: Lifespan) -> Starlette:
    """The site. *checks* are asked by `/readyz`, each raising when its part cannot work."""

    async def healthz(request: Request) -> Response:
        """This process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Everything that a request needs is there."""
        results = {name: await _outcome(name, check) for name, check in checks.items()}
        ready = all(result == "ok" for result in results.values())
        return JSONResponse({"status": "ok" if ready else "unavailable", **results}, 200 if ready else 503)

    async def root(request: Request) -> Response:
        return PlainTextResponse("This is a container registry (Hythe). Its API is under /v2/.\n")

    routes = [Route("/", root), Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _outcome(name: str, check: Check) -> str:
    try:
        await check()
    except Exception as error:
        log.warning("check.failed", extra={"fields": {"check": name, "error": str(error)}})
        return "unavailable"
    return "ok"
