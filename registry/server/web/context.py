"""What a handler works with: the services, the limits of the edge, and who is asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from registry.oci.reference import Repository
from registry.server.auth.caller import Action, Caller, Everybody
from registry.server.service.policy import Policy
from registry.server.service.repository import Repositories
from registry.server.service.uploads import Uploads
from registry.server.web.http import Reply, Request, Stream
from registry.server.web.routes import Route


@dataclass(frozen=True, slots=True)
class Context:
    """One request's surroundings."""

    repositories: Repositories
    uploads: Uploads
    policy: Policy
    piece_bytes: Callable[[], int]
    caller: Caller


Handler = Callable[[Context, Request, Route], Awaitable[Reply | Stream]]


class Gate(Protocol):
    """Who may come in. Accounts implement this; without them everybody may."""

    async def admit(self, request: Request, action: Action | None, repository: Repository | None) -> Caller:
        """The caller of *request*, who may do *action* there. Raises Unauthorized or Denied."""
        ...


class OpenGate:
    """The gate of a registry without accounts."""

    async def admit(self, request: Request, action: Action | None, repository: Repository | None) -> Caller:
        return Everybody(request.client)
