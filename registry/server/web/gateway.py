"""The ASGI application of the distribution API: one request from its path to its log line.

What a request costs before its handler runs: one dictionary look-up for a path seen before, one for its
method, and the gate. The rest of the site (health, pages) is a Starlette application behind it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.oci.errors import RegistryError, Unavailable, Unsupported
from registry.server.auth.caller import Action
from registry.server.index import moment
from registry.server.service.policy import Policy
from registry.server.service.repository import Repositories
from registry.server.service.uploads import Uploads
from registry.server.web import blobs, errors, lists, manifests, routes, uploads
from registry.server.web.context import Context, Gate, Handler
from registry.server.web.endpoints import Area, Endpoints, Renderer
from registry.server.web.http import ClientGone, Reply, Request, Stream, json_reply
from registry.server.web.proxies import Proxies
from registry.server.web.routes import Kind, Route
from registry.server.web.sendfile import SCOPE_KEY, WORTH_BYTES, SendFile
from registry.server.web.throttle import Throttle
from registry.server.web.transfers import Transfers

log = logging.getLogger("hythe.request")

_READING = frozenset(("GET", "HEAD"))
_API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")


async def show_version(context: Context, request: Request, route: Route) -> Reply:
    """`GET /v2/`: this is a registry, and the caller may come in"""
    return json_reply({})


# What each path does, and the right that it needs on its repository. Reading an upload's standing and
# cancelling it are part of pushing.
HANDLERS: dict[Kind, dict[str, tuple[Handler, Action | None]]] = {
    Kind.BASE: {"GET": (show_version, None)},
    Kind.CATALOGUE: {"GET": (lists.list_repositories, None)},
    Kind.MANIFEST: {
        "GET": (manifests.get_manifest, "pull"),
        "PUT": (manifests.put_manifest, "push"),
        "DELETE": (manifests.delete_manifest, "delete"),
    },
    Kind.BLOB: {"GET": (blobs.get_blob, "pull"), "DELETE": (blobs.delete_blob, "delete")},
    Kind.UPLOADS: {"POST": (uploads.begin_upload, "push")},
    Kind.UPLOAD: {
        "GET": (uploads.get_upload, "push"),
        "PATCH": (uploads.patch_upload, "push"),
        "PUT": (uploads.put_upload, "push"),
        "DELETE": (uploads.delete_upload, "push"),
    },
    Kind.TAGS: {"GET": (lists.list_tags, "pull")},
    Kind.REFERRERS: {"GET": (lists.list_referrers, "pull")},
}
for _methods in HANDLERS.values():
    if "GET" in _methods:
        _methods["HEAD"] = _methods["GET"]


Answer = Callable[[Request], Awaitable[Reply | Stream]]


class Gateway:
    """The application. *endpoints* and *areas* are answered like the API, *site* has all the rest."""

    def __init__(
        self,
        repositories: Repositories,
        pushes: Uploads,
        policy: Policy,
        gate: Gate,
        endpoints: Endpoints,
        site: ASGIApp,
        proxies: Proxies,
        throttle: Throttle,
        body_idle_seconds: float,
        transfers: Transfers,
        areas: Sequence[Area] = (),
    ) -> None:
        self._repositories = repositories
        self._uploads = pushes
        self._policy = policy
        self._gate = gate
        self._endpoints = endpoints
        self._site = site
        self._proxies = proxies
        self._throttle = throttle
        self._idle_seconds = body_idle_seconds
        self._transfers = transfers
        self._areas = tuple(areas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if (path + "/").startswith(routes.PREFIX):
                return await self._serve(scope, receive, send, self._route)
            if path in self._endpoints:
                return await self._serve(scope, receive, send, self._endpoint)
            for area in self._areas:
                if (path + "/").startswith(area.prefix):
                    return await self._serve(scope, receive, send, area.answer, area.renderer)
        return await self._site(scope, receive, send)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, answer: Answer, renderer: Renderer = errors
    ) -> None:
        began = time.perf_counter()
        if scope["method"] in _READING:
            moment.begin()
        request = Request(scope, receive, self._idle_seconds, self._proxies.client(scope))
        reply = await self._answer(request, answer, renderer)
        sent = 0
        try:
            with self._transfers.counted(isinstance(reply, Stream)):
                sent = await _send(reply, request, send)
        finally:
            if log.isEnabledFor(logging.INFO):
                log.info("request.done", extra={"fields": _fields(request, reply, sent, began)})

    async def _answer(self, request: Request, answer: Answer, renderer: Renderer) -> Reply | Stream:
        """The reply to *request*, whatever happens."""
        try:
            self._throttle.take(request.client)
            return await answer(request)
        except RegistryError as error:
            return self._refused(request, error, renderer)
        except ClientGone as error:
            request.notes["error"] = str(error)
            return renderer.render_gone(error)
        except asyncio.CancelledError:  # only when the grace of stopping is over
            request.notes["error"] = "the registry stopped"
            return renderer.render(Unavailable("the registry is stopping; go on in a moment"))
        except Exception as error:
            return _fault(request, error, renderer)

    async def _endpoint(self, request: Request) -> Reply | Stream:
        methods = self._endpoints[request.path]
        found = methods.get(request.method)
        if found is None:
            return errors.render(errors.MethodUnknown(request.method, ", ".join(sorted(methods))))
        return await found(request)

    async def _route(self, request: Request) -> Reply | Stream:
        route = routes.find(request.path if request.path != "/v2" else routes.PREFIX)
        if route is None:
            return errors.render(errors.NotFound("no such path in the distribution API"))
        methods = HANDLERS[route.kind]
        found = methods.get(request.method)
        if found is None:
            return errors.render(errors.MethodUnknown(request.method, ", ".join(sorted(methods))))
        handler, action = found
        try:
            return await self._handle(handler, action, request, route)
        except Unsupported as error:  # a setting took this method away
            error.allowed = error.allowed or ", ".join(sorted(set(methods) - {request.method}))
            raise

    async def _handle(
        self, handler: Handler, action: Action | None, request: Request, route: Route
    ) -> Reply | Stream:
        caller = await self._gate.admit(request, action, route.repository if action else None)
        if caller.name:
            request.notes["user"] = caller.name
        if route.repository:
            request.notes["repo"] = route.repository
        context = Context(self._repositories, self._uploads, self._policy, self._transfers.piece_bytes, caller)
        with self._transfers.counted(request.method in ("PATCH", "PUT", "POST")):
            return await handler(context, request, route)

    def _refused(self, request: Request, error: RegistryError, renderer: Renderer) -> Reply:
        request.notes["error"] = error.message
        reply = renderer.render(error)
        if reply.status >= 500:
            fields = {"path": request.path, "error": error.message, "cause": str(error.__cause__ or "")}
            log.error("request.failed", extra={"fields": fields})
        return reply


def _fault(request: Request, error: Exception, renderer: Renderer = errors) -> Reply:
    """A fault of ours: the log gets everything, the client an id to ask about."""
    fault = secrets.token_hex(6)
    request.notes["fault"] = fault
    log.error("request.failed", extra={"fields": {"path": request.path, "fault": fault}}, exc_info=error)
    return renderer.render_fault(fault)


def _fields(request: Request, reply: Reply | Stream, sent: int, began: float) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path,
        "status": reply.status,
        "ms": round((time.perf_counter() - began) * 1000, 1),
        "received": request.received_bytes,
        "sent": sent,
        "client": request.client,
        **request.notes,
    }


async def _send(reply: Reply | Stream, request: Request, send: Send) -> int:
    """Send *reply* and return how many bytes of body went out."""
    headers = [*reply.headers, _API_VERSION]
    if isinstance(reply, Stream):
        headers.append((b"content-length", str(reply.length).encode()))
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            sent = await _send_span(reply, request, send)
            return await _send_pieces(reply, request, send) if sent is None else sent
        finally:
            reply.close()
    body = b"" if request.method == "HEAD" else reply.body
    length = len(reply.body) if reply.length is None else reply.length
    if reply.status not in (204, 304):
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return len(body)


async def _send_span(reply: Stream, request: Request, send: Send) -> int | None:
    """Have the kernel send what lies in a file; None when it cannot."""
    send_file: SendFile | None = request.scope.get(SCOPE_KEY)
    if send_file is None or reply.span is None or reply.length < WORTH_BYTES:
        return None
    try:
        sent = await send_file(reply.span)
    except asyncio.CancelledError:
        request.notes["error"] = "the registry stopped"
        return 0
    if sent is not None and sent < reply.length:
        request.notes["error"] = "the client went away"
    elif sent is not None:
        await send({"type": "http.response.body", "body": b""})
    return sent


async def _send_pieces(reply: Stream, request: Request, send: Send) -> int:
    """Send the pieces of a stream; stop reading when the client is gone, or dropped because it takes nothing."""
    is_gone: Callable[[], bool] = request.scope.get("hythe.is_gone", lambda: False)
    sent = 0
    try:
        async for piece in reply.pieces:
            if sent:
                # A client that reads as fast as the page cache is never waited for: others have their turn here.
                await asyncio.sleep(0)
            if is_gone():
                request.notes["error"] = "the client went away"
                return sent
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += len(piece)
        await send({"type": "http.response.body", "body": b""})
    except asyncio.CancelledError:
        # Returning with the body unfinished makes the server close the connection.
        request.notes["error"] = "the registry stopped"
    except Exception as error:
        _fault(request, error)
    return sent
