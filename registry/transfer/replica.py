"""Bytes of another registry that an operator named, by their digest: to heal what this one lost.

The operator's credentials go to the configured host, and to those hosts that were listed beside it; nobody else is
asked for anything, whatever a challenge or a redirect says. What comes is not trusted: who takes it compares it
with its digest. Source: OCI distribution-spec v1.1, "Pulling blobs"; docker's token authentication specification.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import SplitResult, urlencode, urljoin

from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.transfer.bearer import Challenge, Credentials
from registry.transfer.errors import TransferError
from registry.transfer.fetch import Fetcher, FetchFailed
from registry.transfer.http import Http, Limits, Response

_SECONDS = 30.0  # to connect, and for each piece
_REDIRECTS_MAX = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACCEPT = ", ".join([*sorted(media.MANIFESTS), "*/*"])


class Replica:
    """One registry at *url*, asked as *name* with *password*, or as nobody."""

    def __init__(self, url: str, name: str = "", password: str = "", hosts: Sequence[str] = ()) -> None:
        """*hosts* are others of its own: its token service, its store. Raises ConfigurationError."""
        self.url = url.rstrip("/")
        self._fetcher = Fetcher(url, hosts)
        self._login = (name, password) if name else None

    @asynccontextmanager
    async def open(self, repository: Repository, kind: str, digest: Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a blob (*kind* `blobs`) or a manifest (`manifests`), in pieces. Raises FetchFailed."""
        address = f"{self.url}/v2/{repository}/{kind}/{digest}"
        try:
            async with AsyncExitStack() as stack:
                http = await stack.enter_async_context(Http(Limits(_SECONDS, _SECONDS)))
                answer = await self._get(http, stack, address)
                yield answer.pieces()
        except (TransferError, OSError) as error:
            raise FetchFailed(f"{self.url}: {type(error).__name__}: {error}") from None

    async def _get(self, http: Http, stack: AsyncExitStack, address: str) -> Response:
        """The answer 200 to a request, after a token was fetched and redirects were followed, if need be."""
        authorization: dict[str, str] = {}
        own = _origin(self._fetcher.require_allowed(address))
        for _ in range(_REDIRECTS_MAX + 2):
            url = self._fetcher.require_allowed(address)
            headers = {"Accept": _ACCEPT, **(authorization if _origin(url) == own else {})}
            answer = await stack.enter_async_context(http.send("GET", address, headers))
            if answer.status == 200:
                if answer.headers.get("Content-Encoding", "identity") == "identity":
                    return answer
                raise FetchFailed(f"{url.hostname}: a compressed answer was not asked for")
            if answer.status == 401 and not authorization:
                authorization = await self._authorize(answer.headers.get("WWW-Authenticate", ""))
            elif answer.status in _REDIRECTS and "Location" in answer.headers:
                address = urljoin(address, answer.headers["Location"])
            else:
                raise FetchFailed(f"{url.hostname}: status {answer.status}")
        raise FetchFailed(f"{self.url}: too many redirects")

    async def _authorize(self, challenge: str) -> dict[str, str]:
        """The header that answers a challenge."""
        found = Challenge.parse(challenge)
        said = found.parameters
        if found.scheme == "basic" and self._login is not None:
            return {"Authorization": Credentials(*self._login).basic()}
        if found.scheme != "bearer" or "realm" not in said:
            raise FetchFailed(f"{self.url}: it wants a login")
        asked = {name: said[name] for name in ("service", "scope") if name in said}
        realm = said["realm"]
        if self._login is None:
            document = await self._fetcher.get(f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}")
        else:
            name, password = self._login
            form = {
                "grant_type": "password",
                "username": name,
                "password": password,
                "client_id": "hythe",
                **asked,
            }
            document = await self._fetcher.post(realm, form)
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise FetchFailed(f"{self.url}: its token service gave no token")
        return {"Authorization": f"Bearer {token}"}


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port


async def in_time(pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[bytes]:
    """*pieces*, until there are more than *most_bytes*, or one takes too long. Raises FetchFailed."""
    taken = 0
    iterator = pieces.__aiter__()
    while True:
        try:
            async with asyncio.timeout(_SECONDS):
                piece = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise FetchFailed("the answer stopped to come") from None
        taken += len(piece)
        if taken > most_bytes:
            raise FetchFailed("the answer is longer than it should be")
        yield piece
