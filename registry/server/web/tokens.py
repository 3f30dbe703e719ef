"""The token service over HTTP: `GET` and `POST /token`, and the key set.

Source: docker's token documents, "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import time
from urllib.parse import parse_qsl

from registry.oci.errors import RegistryError, Unauthorized
from registry.oci.scope import parse_all
from registry.server.service.access import Access, KeyRing, Login
from registry.server.service.tokens import Issued, Tokens
from registry.server.web.gate import basic
from registry.server.web.http import Reply, Request, json_reply

_FORM_MAX_BYTES = 64 << 10
_FORM_FIELDS_MAX = 200
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
        issued = await self._issuing.issue(
            login,
            parse_all(request.parameters("scope")),
            request.client,
            offline=request.parameter("offline_token") == "true",
            client=request.parameter("client_id") or "",
        )
        return _reply(issued)

    async def _basic(self, request: Request) -> Login | None:
        header = request.header(b"authorization")
        if not header:
            return None
        scheme, _, value = header.partition(" ")
        found = basic(value.strip()) if scheme.lower() == "basic" else None
        if found is None:
            raise _challenged(Unauthorized("the Authorization header cannot be read; Basic is understood"))
        try:
            login = await self._access.login(*found, request.client)
        except Unauthorized as error:
            raise _challenged(error) from None
        request.notes["user"] = login.account.name
        return login

    async def post(self, request: Request) -> Reply:
        """`POST /token` with a form: `grant_type` is password or refresh_token."""
        form = await _form(request)
        login = await self._login_of(form, request)
        request.notes["user"] = login.account.name
        kept = form.get("refresh_token") if form.get("grant_type") == "refresh_token" else None
        issued = await self._issuing.issue(
            login,
            parse_all([form.get("scope", "")]),
            request.client,
            offline=form.get("access_type") == "offline" and kept is None,
            client=form.get("client_id", ""),
        )
        return _reply(issued, kept)

    async def _login_of(self, form: dict[str, str], request: Request) -> Login:
        kind = form.get("grant_type")
        if kind == "refresh_token":
            return await self._access.refresh(form.get("refresh_token", ""))
        if kind == "password":
            return await self._access.login(form.get("username", ""), form.get("password", ""), request.client)
        raise GrantUnsupported("grant_type is neither 'password' nor 'refresh_token'")

    async def key_set(self) -> Reply:
        """The keys whose signatures hold now (RFC 7517)."""
        ring = await self._keys.verifying()
        return json_reply({"keys": [key.jwk() for key in ring.values()]}, headers=[_MINUTES])


_MINUTES = (b"cache-control", b"public, max-age=300")


def _challenged(error: Unauthorized) -> Unauthorized:
    error.challenge = 'Basic realm="Hythe"'
    return error


async def _form(request: Request) -> dict[str, str]:
    body = await request.whole_body(_FORM_MAX_BYTES)
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_FORM_FIELDS_MAX)
    except ValueError:
        raise GrantUnsupported("the body is not a form") from None
    return dict(fields)


def _reply(issued: Issued, refresh_token: str | None = None) -> Reply:
    answer = {
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in_seconds,
        "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(issued.issued_at)),
        "scope": " ".join(map(str, issued.scopes)),
        "token_type": "Bearer",
    }
    refresh = issued.refresh_token or refresh_token
    if refresh:
        answer["refresh_token"] = refresh
    return json_reply(answer, headers=[_NO_STORE])
