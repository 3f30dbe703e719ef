"""Trying credentials at a registry before they are kept. Source: docker's token documents."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from registry.oci.errors import Unauthorized
from registry.transfer.bearer import Challenge, Credentials
from registry.transfer.errors import read_envelope, refusal
from registry.transfer.host import Host
from registry.transfer.http import Response

_PATH = "/v2/"


async def log_in(host: Host, credentials: Credentials) -> Credentials:
    """What to keep: the credentials, or the refresh token that the registry gives for them.

    Raises Unauthorized when they are no good.
    """
    async with _ping(host) as answer:
        if answer.status == 200:
            return credentials  # a registry that lets everybody in cannot tell
        if answer.status != 401:
            raise refusal(host.name, answer.status, await answer.read())
        found = {each.scheme: each for each in map(Challenge.parse, answer.all("WWW-Authenticate"))}
    kept = credentials
    if "bearer" in found:
        authority = await host.authority()
        token = await authority.token(found["bearer"], (), credentials, offline=True)
        authorization = f"Bearer {token.value}"
        if token.refresh:
            kept = Credentials(credentials.username, "", token.refresh)
    elif "basic" in found:
        authorization = credentials.basic()
    else:
        raise Unauthorized(f"{host.name}: it asks for {', '.join(found) or 'nothing'}, which is not known here")
    async with _ping(host, authorization) as answer:
        if answer.status != 200:
            said = read_envelope(await answer.read())[1] or "incorrect username or password"
            raise Unauthorized(f"{host.name}: unauthorized: {said}")
    return kept


@contextlib.asynccontextmanager
async def _ping(host: Host, authorization: str = "") -> AsyncGenerator[Response, None]:
    """The registry's word on who may come in, without what is stored for it."""
    headers = {"Authorization": authorization} if authorization else {}
    async with host.bare("GET", _PATH, headers) as answer:
        yield answer
