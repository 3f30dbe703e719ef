"""What the API can do, as plain data: each family's file declares its operations beside their handlers.

The router runs by these declarations and the description is made from them, so neither can have what the other
has not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from registry.server.web.api.call import LIMIT_DEFAULT, LIMIT_MAX, Call
from registry.server.web.api.guards import Guard

Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, its schema as plain data."""

    name: str
    description: str
    schema: dict[str, Any]
    required: bool = False


PAGING = (
    Parameter(
        "limit",
        "How many entries to list at most.",
        {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    ),
    Parameter("after", "Where to go on: what the Link of the page before says.", {"type": "string"}),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    The *handler*'s docstring describes it, and what it returns is sent as JSON, None as nothing. The *guard* is
    asked before the handler runs, and again in the transaction of the change that it makes. A denied call is in
    the audit log as *action*, if it has one. *body* is the type of the request's body, *answer* of the reply's.
    """

    method: str
    path: str
    handler: Handler
    guard: Guard
    action: str = ""
    body: type | None = None
    answer: Any = None
    status: int = 200
    query: tuple[Parameter, ...] = ()
    conflict: str = ""  # what 409 means
    for_limited_tokens: bool = False
    may_be_missing: bool = False  # what the body names, so that 404 is an answer

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        """The rest of it."""
        _, _, rest = (self.handler.__doc__ or "").partition("\n")
        return " ".join(rest.split())
