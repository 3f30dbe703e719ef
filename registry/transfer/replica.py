"""Bytes of another registry that an operator named, by their digest: to heal what this one lost.

The operator's credentials go to the configured host, and to those hosts that were listed beside it; nobody else is
asked for anything, whatever a challenge or a redirect says. What comes is not trusted: who takes it compares it
with its digest. Source: OCI distribution-spec v1.1, "Pulling blobs"; docker's token authentication specification.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from registry.oci import media
from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.transfer.fetch import Fetcher, FetchFailed, is_loopback

if TYPE_CHECKING:
    import httpx

_SECONDS = 30.0  # to connect, and for each piece
_REDIRECTS_MAX = 3
_PARAMETER = re.compile(r'(\w+)="([^"\\]{0,1000})"')


class Replica:
    """One registry at *url*, asked as *name* with *password*, or as nobody."""

    def __init__(self, url: str, name: str = "", password: str = "", hosts: Sequence[str] = ()) -> None:
        """*hosts* are others of its own: its token service, its store. Raises ConfigurationError."""
        self.url = url.rstrip("/")
        self._fetcher = Fetcher(url, hosts)
        self._login = (name, password) if name else None
        self._tls: ssl.SSLContext | None = None

    @asynccontextmanager
    async def open(self, repository: Repository, kind: str, digest: Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a blob (*kind* `blobs`) or a manifest (`manifests`), in pieces. Raises FetchFailed."""
        import httpx

        address = f"{self.url}/v2/{repository}/{kind}/{digest}"
        try:
            async with self._client() as client:
                response = await self._get(client, address)
                try:
                    yield response.aiter_raw(1 << 20)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise FetchFailed(f"{self.url}: {type(error).__name__}: {error}") from None

    def _client(self) -> httpx.AsyncClient:
        import httpx

        if self._tls is None:
            self._tls = ssl.create_default_context()
        accept = ", ".join([*sorted(media.MANIFESTS), "*/*"])
        headers = {"accept": accept, "accept-encoding": "identity", "user-agent": "hythe"}
        return httpx.AsyncClient(
            verify=self._tls,
            follow_redirects=False,
            trust_env=not is_loopback(httpx.URL(self.url).host),  # a company's proxy
            headers=headers,
            timeout=_SECONDS,
        )

    async def _get(self, client: httpx.AsyncClient, address: str) -> httpx.Response:
        """The answer 200 to a request, after a token was fetched and redirects were followed, if need be."""
        authorization: dict[str, str] = {}
        own = _origin(self._fetcher.require_allowed(address))
        for _ in range(_REDIRECTS_MAX + 2):
            url = self._fetcher.require_allowed(address)
            headers = authorization if _origin(url) == own else {}
            response = await client.send(client.build_request("GET", url, headers=headers), stream=True)
            if response.status_code == 200:
                if response.headers.get("content-encoding", "identity") == "identity":
                    return response
                await response.aclose()
                raise FetchFailed(f"{url.host}: a compressed answer was not asked for")
            await response.aclose()
            if response.status_code == 401 and not authorization:
                authorization = await self._authorize(response.headers.get("www-authenticate", ""))
            elif response.has_redirect_location:
                address = str(url.join(response.headers["location"]))
            else:
                raise FetchFailed(f"{url.host}: status {response.status_code}")
        raise FetchFailed(f"{self.url}: too many redirects")

    async def _authorize(self, challenge: str) -> dict[str, str]:
        """The header that answers a challenge."""
        import httpx

        scheme, _, rest = challenge.partition(" ")
        said = dict(_PARAMETER.findall(rest))
        if scheme.lower() == "basic" and self._login is not None:
            request = httpx.Request("GET", self.url)
            flow = httpx.BasicAuth(*self._login).auth_flow(request)
            return {"authorization": next(flow).headers["authorization"]}
        if scheme.lower() != "bearer" or "realm" not in said:
            raise FetchFailed(f"{self.url}: it wants a login")
        asked = {name: said[name] for name in ("service", "scope") if name in said}
        if self._login is None:
            document = await self._fetcher.get(str(httpx.URL(said["realm"]).copy_merge_params(asked)))
        else:
            name, password = self._login
            form = {
                "grant_type": "password",
                "username": name,
                "password": password,
                "client_id": "hythe",
                **asked,
            }
            document = await self._fetcher.post(said["realm"], form)
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise FetchFailed(f"{self.url}: its token service gave no token")
        return {"authorization": f"Bearer {token}"}


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


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
