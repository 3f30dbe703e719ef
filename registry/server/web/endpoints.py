"""Endpoints beside the distribution API that answer with the same requests and replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from registry.oci.errors import RegistryError
from registry.server.service.repository import Repositories
from registry.server.web.context import Gate
from registry.server.web.http import ClientGone, Reply, Request, json_reply
from registry.server.web.tokens import TokenEndpoint

Endpoint = Callable[[Request], Awaitable[Reply]]
Endpoints = dict[str, dict[str, Endpoint]]


class Renderer(Protocol):
    """How a part of the site tells of errors; `web/errors.py` is the distribution API's."""

    def render(self, error: RegistryError) -> Reply:
        """The reply that tells a client of an error."""
        ...

    def render_gone(self, error: ClientGone) -> Reply:
        """For a client whose body broke off."""
        ...

    def render_fault(self, fault: str) -> Reply:
        """For a fault of ours; the log has the rest under the same id."""
        ...


@dataclass(frozen=True, slots=True)
class Area:
    """All paths under a prefix, which ends with a slash: who answers them, and how errors look there."""

    prefix: str
    answer: Endpoint
    renderer: Renderer


def token_endpoints(tokens: TokenEndpoint) -> Endpoints:
    """The token service: by path and method."""

    async def key_set(request: Request) -> Reply:
        return await tokens.key_set()

    return {
        "/token": {"GET": tokens.get, "POST": tokens.post},
        "/.well-known/jwks.json": {"GET": key_set},
    }


_STANDALONE = (b"x-docker-registry-standalone", b"true")
_SEARCH_MAX = 100


def search_endpoints(repositories: Repositories, gate: Gate) -> Endpoints:
    """What `docker search HOST/TERM` asks: the first version of the API lives on in this alone."""

    async def ping(request: Request) -> Reply:
        return json_reply(True, headers=[_STANDALONE])

    async def search(request: Request) -> Reply:
        caller = await gate.admit(request, None, None)
        term = (request.parameter("q") or "")[:200]
        text = request.parameter("n") or ""
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 25
        found = await repositories.lists.search(caller, term, max(1, min(limit, _SEARCH_MAX)))
        results = [
            {"name": name, "description": "", "star_count": 0, "is_official": False, "is_automated": False}
            for name in found
        ]
        answer = {"query": term, "num_results": len(results), "num_pages": 1, "page": 1, "results": results}
        return json_reply({**answer, "page_size": limit}, headers=[_STANDALONE])

    return {"/v1/_ping": {"GET": ping}, "/v1/search": {"GET": search}}
