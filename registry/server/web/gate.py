"""The gate of a registry with accounts: reads Authorization, and tells clients how to come in.

What one may not see looks like what does not exist: whether a request may go on is decided by rights alone,
before anything is looked up.

Source: docker's token documents; RFC 6750; OCI distribution-spec, "Determining Support".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable

from registry.oci.errors import Denied, Unauthorized
from registry.oci.reference import Repository
from registry.server.auth.caller import Action, Caller
from registry.server.auth.tokens import TokenInvalid
from registry.server.service.access import Access
from registry.server.service.callers import AccountCaller
from registry.server.web.http import Request
from registry.server.web.proxies import Proxies

TOKEN_PATH = "/token"  # noqa: S105 - a path
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](?::[0-9]{1,5})?")
_CREDENTIALS_MAX = 36 << 10
_WRITES = frozenset({"push", "overwrite", "delete"})

Recorder = Callable[[str, str, str, str], Awaitable[None]]


def basic(header: str) -> tuple[str, str] | None:
    """Name and password of a Basic header's value; None when it is malformed."""
    try:
        text = base64.b64decode(header, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    name, colon, password = text.partition(":")
    return (name, password) if colon else None


class AccountsGate:
    """Admits those whom a grant lets in. *record* notes denied writes: actor, address, action, target.

    *external* is the realm of a token service in place of ours, and what it calls this registry.
    """

    def __init__(
        self,
        access: Access,
        proxies: Proxies,
        service: str,
        public_url: str,
        record: Recorder,
        external: tuple[str, str] | None = None,
    ) -> None:
        self._access = access
        self._proxies = proxies
        self._service = service
        self._public_url = public_url.rstrip("/")
        self._record = record
        self._external = external

    async def admit(self, request: Request, action: Action | None, repository: Repository | None) -> Caller:
        """The caller, who may do *action* on *repository*; without an action, who is known at all."""
        try:
            caller, is_bearer = await self._identify(request)
        except TokenInvalid as error:
            raise self._challenged(error, request, action, repository, "invalid_token") from None
        except Unauthorized as error:
            raise self._challenged(error, request, action, repository, None) from None
        if action is None or repository is None:
            return self._admit_to_base(caller, is_bearer, request)
        if caller.may(action, repository):
            return caller
        # Whoever has not said who they are is only on the way in, and could fill the log without end.
        if action in _WRITES and not caller.is_anonymous:
            await self._record(caller.name, caller.address, f"repository.{action}", repository)
        if caller.is_anonymous:
            refusal: Unauthorized = Unauthorized("log in to do this", _detail(action, repository))
            reason = "insufficient_scope" if is_bearer else None
            raise self._challenged(refusal, request, action, repository, reason)
        if is_bearer:
            refusal = InsufficientScope("requested access to the resource is denied", _detail(action, repository))
            raise self._challenged(refusal, request, action, repository, "insufficient_scope")
        raise Denied("requested access to the resource is denied", _detail(action, repository))

    async def _identify(self, request: Request) -> tuple[AccountCaller, bool]:
        header = request.header(b"authorization")
        if not header:
            return await self._access.anonymous(request.client), False
        scheme, _, value = header.partition(" ")
        if len(header) <= _CREDENTIALS_MAX and scheme.lower() == "bearer":
            return await self._access.bearer(value.strip(), request.client), True
        found = basic(value.strip()) if len(header) <= _CREDENTIALS_MAX and scheme.lower() == "basic" else None
        if found is None:
            raise Unauthorized("the Authorization header cannot be read; Basic and Bearer are understood")
        if self._access.takes_job_tokens_of(found[0]):
            job = await self._access.job(found[1], request.client)
            return await self._access.job_caller(job, request.client), False
        login = await self._access.login(*found, request.client)
        return self._access.caller(login, request.client), False

    def _admit_to_base(self, caller: AccountCaller, is_bearer: bool, request: Request) -> Caller:
        # Docker never sends credentials to a registry that answers 200 here without them.
        if caller.is_anonymous and not is_bearer and request.path.rstrip("/") == "/v2":
            raise self._challenged(Unauthorized("log in"), request, None, None, None)
        if request.path == "/v2/_catalog" and not caller.may_list():
            refusal = InsufficientScope("the catalogue needs a login") if is_bearer else Unauthorized("log in")
            error = "insufficient_scope" if is_bearer else None
            raise self._challenged(refusal, request, None, None, error)
        # `docker search` asks for a token to search with.
        return caller.listing("search" if request.path == "/v1/search" else "*")

    def _challenged(
        self,
        error: Unauthorized,
        request: Request,
        action: Action | None,
        repository: Repository | None,
        reason: str | None,
    ) -> Unauthorized:
        realm, service = self._external or (self.realm(request), self._service)
        parts = [f'realm="{realm}"', f'service="{service}"']
        scope = _scope(request, action, repository)
        if scope:
            parts.append(f'scope="{scope}"')
        if reason:
            parts.append(f'error="{reason}"')
        error.challenge = "Bearer " + ",".join(parts)
        return error

    def realm(self, request: Request) -> str:
        """Our token service's address as this client can reach it."""
        return self.base_url(request) + TOKEN_PATH

    def base_url(self, request: Request) -> str:
        """This registry's address: the operator's setting, else as the request (or a trusted proxy) says."""
        if self._public_url:
            return self._public_url
        scheme, host = self._proxies.base(request.scope)
        if not _HOST.fullmatch(host):
            address, port = request.scope.get("server") or ("localhost", 0)
            host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        return f"{scheme}://{host}"


class InsufficientScope(Unauthorized):
    """A good token that was not made for this: the client may ask for one that is."""

    code = "DENIED"


def _detail(action: Action, repository: Repository) -> list[dict[str, str]]:
    return [{"Type": "repository", "Name": repository, "Action": action}]


def _scope(request: Request, action: Action | None, repository: Repository | None) -> str:
    if action is None or repository is None:
        return "registry:catalog:*" if request.path == "/v2/_catalog" else ""
    words = {"pull": "pull", "push": "pull,push", "delete": "delete"}[action]
    scope = f"repository:{repository}:{words}"
    source = request.parameter("from") if request.method == "POST" else None
    if source and re.fullmatch(r"[a-z0-9._/-]{1,255}", source):
        scope += f" repository:{source}:pull"
    return scope
