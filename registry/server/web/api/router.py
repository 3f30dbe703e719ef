"""From a path to its operation, and from Authorization to the one who calls it.

There are no cookies, and what changes something is DELETE or has a body that says it is JSON: somebody else's page
can make no browser send either of them with the password that it was once told for us.
"""

from __future__ import annotations

from typing import Any

import msgspec

from registry.oci.errors import Denied, Unauthorized
from registry.server.auth.rights import Limit
from registry.server.service.access import Access
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor
from registry.server.service.callers import Login
from registry.server.web.api import grants, history, me, openapi, quotas, registry, robots, teams, tokens, users
from registry.server.web.api.call import Call, Care
from registry.server.web.api.operations import Operation
from registry.server.web.api.problems import PRIVATE, Hidden, MediaTypeUnsupported
from registry.server.web.errors import MethodUnknown, NotFound
from registry.server.web.gate import basic
from registry.server.web.http import Reply, Request

PREFIX = "/api/v1/"
DESCRIPTION = "/openapi.json"
OPERATIONS: tuple[Operation, ...] = (
    *me.OPERATIONS,
    *tokens.MINE,
    *users.OPERATIONS,
    *robots.OPERATIONS,
    *teams.OPERATIONS,
    *grants.OPERATIONS,
    *registry.OPERATIONS,
    *history.OPERATIONS,
    *quotas.OPERATIONS,
)

_BODY_MAX_BYTES = 64 << 10
_CREDENTIALS_MAX = 8 << 10
_NAME_MAX_CHARACTERS = 255

Methods = dict[str, Operation]


def _table() -> list[tuple[tuple[str, ...], Methods]]:
    found: dict[tuple[str, ...], Methods] = {}
    for operation in OPERATIONS:
        found.setdefault(tuple(operation.path.split("/")[1:]), {})[operation.method] = operation
    return list(found.items())


_TABLE = _table()


def find(path: str) -> tuple[Methods, dict[str, str]]:
    """The methods of *path*, which begins after the prefix, and the names in it. Raises NotFound."""
    parts = path.split("/")
    if all(part.isprintable() and 0 < len(part) <= _NAME_MAX_CHARACTERS for part in parts):
        for pattern, methods in _TABLE:
            names = _match(pattern, parts)
            if names is not None:
                return methods, names
    raise NotFound("there is no such path in this API")


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    names: dict[str, str] = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            names[wanted.strip("{}")] = part
        elif wanted != part:
            return None
    return names


class Router:
    """Answers everything under PREFIX."""

    def __init__(self, access: Access, accounts: Accounts, care: Care) -> None:
        self._access = access
        self._accounts = accounts
        self._care = care
        self._description = openapi.document(PREFIX, OPERATIONS)

    async def answer(self, request: Request) -> Reply:
        """The reply to *request*."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path.removeprefix(PREFIX)
        if path == DESCRIPTION[1:]:
            return self._describe(request, method)
        methods, names = find(path)
        operation = methods.get(method)
        if operation is None:
            raise MethodUnknown(request.method, ", ".join(sorted(methods)))
        if request.header(b"authorization") is None:
            raise Unauthorized("log in to do this")
        # The body may take its time; who somebody is and what they may do counts when it is here.
        body = await _body(request) if operation.body is not None else b""
        login = await self._identify(request)
        request.notes["user"] = login.account.name
        call = Call(request, body, names, login, self._access, self._accounts, self._care)
        return await self._run(operation, call)

    def _describe(self, request: Request, method: str) -> Reply:
        if method != "GET":
            raise MethodUnknown(request.method, "GET")
        return _reply(200, self._description, [])

    async def _identify(self, request: Request) -> Login:
        header = request.header(b"authorization") or ""
        scheme, _, value = header.partition(" ")
        if len(header) <= _CREDENTIALS_MAX and scheme.lower() == "bearer":
            return await self._access.token(value.strip())
        found = basic(value.strip()) if len(header) <= _CREDENTIALS_MAX and scheme.lower() == "basic" else None
        if found is None:
            raise Unauthorized("the Authorization header cannot be read")
        return await self._access.login(*found, request.client)

    async def _run(self, operation: Operation, call: Call) -> Reply:
        try:
            if call.login.limits and not operation.for_limited_tokens:
                raise Denied(f"your token is limited to {_words(call.login.limits)}; use one without limits")
            call.require(lambda rights: operation.guard(rights, call.names))
            value = await operation.handler(call)
        except (Denied, Hidden):
            if operation.action:
                actor = Actor(call.me, call.request.client)
                await self._accounts.record(actor, operation.action, call.target[:300], "denied")
            raise
        return _reply(operation.status, value, call.headers)


def _words(limits: tuple[Limit, ...]) -> str:
    return " and ".join(f"{','.join(sorted(one.actions))} on {one.pattern}" for one in limits[:3])


async def _body(request: Request) -> bytes:
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeUnsupported
    return await request.whole_body(_BODY_MAX_BYTES)


def _reply(status: int, value: Any, headers: list[tuple[bytes, bytes]]) -> Reply:
    if value is None:
        return Reply(status, [*PRIVATE, *headers])
    return Reply(status, [(b"content-type", b"application/json"), *PRIVATE, *headers], msgspec.json.encode(value))
