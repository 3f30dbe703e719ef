"""The token service over HTTP: `GET` and `POST /token`, and the key set.

Source: docker's token documents, "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from registry.oci.errors import RegistryError, Unauthorized
from registry.oci.scope import parse_all
from registry.server.auth.jobs import Job
from registry.server.service.access import Access
from registry.server.service.callers import Login
from registry.server.service.keyring import KeyRing
from registry.server.service.tokens import Issued, Tokens
from registry.server.web.forms import read_form
from registry.server.web.gate import basic
from registry.server.web.http import Reply, Request, json_reply

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name, RFC 8693
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105
_NO_STORE = (b"cache-control", b"no-store")


class GrantUnsupported(RegistryError):
    """A way to ask for a token that is not understood."""

    code = "UNSUPPORTED"


class TokenEndpoint:
    """Answers what docker's clients ask the token service."""

    def __init__(self, access: Access, issuing: Tokens, keys: KeyRing) -> None:
        self._access = access
        self._issuing = issuing
        self._keys = keys

    async def get(self, request: Request) -> Reply:
        """`GET /token?service=…&scope=…` with Basic credentials, or with none for the anonymous."""
        login = await self._basic(request)
        scopes = parse_all(request.parameters("scope"))
        if isinstance(login, Job):
            return _reply(await self._issuing.issue_for_job(login, scopes, request.client))
        issued = await self._issuing.issue(
            login,
            scopes,
            request.client,
            offline=request.parameter("offline_token") == "true",
            client=request.parameter("client_id") or "",
        )
        return _reply(issued)

    async def _basic(self, request: Request) -> Login | Job | None:
        header = request.header(b"authorization")
        if not header:
            return None
        scheme, _, value = header.partition(" ")
        found = basic(value.strip()) if scheme.lower() == "basic" else None
        if found is None:
            raise _challenged(Unauthorized("the Authorization header cannot be read; Basic is understood"))
        try:
            login = await self._login(*found, request)
        except Unauthorized as error:
            raise _challenged(error) from None
        request.notes["user"] = _name(login)
        return login

    async def _login(self, name: str, password: str, request: Request) -> Login | Job:
        if self._access.takes_job_tokens_of(name):
            return await self._access.job(password, request.client)
        return await self._access.login(name, password, request.client)

    async def post(self, request: Request) -> Reply:
        """`POST /token` with a form: `grant_type` is password, refresh_token or RFC 8693's token exchange."""
        form = await read_form(request)
        if form.get("grant_type") == TOKEN_EXCHANGE:
            return await self._exchange(form, request)
        try:
            login = await self._login_of(form, request)
        except Unauthorized as error:
            raise _challenged(error) from None
        request.notes["user"] = _name(login)
        scopes = parse_all([form.get("scope", "")])
        if isinstance(login, Job):
            return _reply(await self._issuing.issue_for_job(login, scopes, request.client))
        kept = form.get("refresh_token") if form.get("grant_type") == "refresh_token" else None
        issued = await self._issuing.issue(
            login,
            scopes,
            request.client,
            offline=form.get("access_type") == "offline" and kept is None,
            client=form.get("client_id", ""),
        )
        return _reply(issued, kept)

    async def _login_of(self, form: dict[str, str], request: Request) -> Login | Job:
        kind = form.get("grant_type")
        if kind == "refresh_token":
            return await self._access.refresh(form.get("refresh_token", ""))
        if kind == "password":
            return await self._login(form.get("username", ""), form.get("password", ""), request)
        raise GrantUnsupported("grant_type is none of 'password', 'refresh_token' and RFC 8693's token exchange")

    async def _exchange(self, form: dict[str, str], request: Request) -> Reply:
        """A job's token for one of ours; an error is OAuth's (RFC 6749, 5.2) beside the registry's own."""
        try:
            _require_understood(form)
            job = await self._access.job(form.get("subject_token", ""), request.client)
        except (GrantUnsupported, Unauthorized) as error:
            request.notes["error"] = error.message
            said = {"error": "invalid_request", "error_description": error.message, "errors": [error.entry()]}
            return json_reply(said, 400, [_NO_STORE])
        request.notes["user"] = _name(job)
        scopes = parse_all([form["scope"]]) if form.get("scope") else None
        issued = await self._issuing.exchange(job, scopes, request.client)
        return _reply(issued, more={"issued_token_type": _TOKEN_TYPE + "access_token"})

    async def key_set(self) -> Reply:
        """The keys whose signatures hold now (RFC 7517)."""
        ring = await self._keys.verifying()
        return json_reply({"keys": [key.jwk() for key in ring.values()]}, headers=[_MINUTES])


_MINUTES = (b"cache-control", b"public, max-age=300")


def _challenged(error: Unauthorized) -> Unauthorized:
    error.challenge = 'Basic realm="Hythe"'
    return error


def _name(login: Login | Job) -> str:
    return login.rule.caller if isinstance(login, Job) else login.account.name


def _require_understood(form: dict[str, str]) -> None:
    """Raise GrantUnsupported for an exchange of something else."""
    kinds = {"subject_token_type": ("jwt", "id_token"), "requested_token_type": ("access_token", "jwt", "")}
    for name, known in kinds.items():
        if form.get(name, "").removeprefix(_TOKEN_TYPE) not in known:
            raise GrantUnsupported(f"{name} is not understood; {_TOKEN_TYPE}{known[0]} is")
    if form.get("actor_token"):
        raise GrantUnsupported("nobody can act for another here: actor_token is not understood")


def _reply(issued: Issued, refresh_token: str | None = None, more: Mapping[str, str] | None = None) -> Reply:
    answer: dict[str, Any] = {
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in_seconds,
        "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(issued.issued_at)),
        "scope": " ".join(map(str, issued.scopes)),
        "token_type": "Bearer",
        **(more or {}),
    }
    refresh = issued.refresh_token or refresh_token
    if refresh:
        answer["refresh_token"] = refresh
    return json_reply(answer, headers=[_NO_STORE])
