"""Small JSON documents of services that an operator named: key sets, an identity provider's answers.

Nothing that a stranger writes decides where a request goes: an address that a document names is asked only when
its host is the configured one, or was listed beside it. Redirects are not followed, and time and size are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from registry.oci.errors import ConfigurationError, HytheError

if TYPE_CHECKING:
    import httpx  # a third of a second: the command line does without

SIZE_MAX_BYTES = 512 << 10
SECONDS_MAX = 10.0


class FetchFailed(HytheError):
    """A document that could not be had. The text is for the operator's log: it names hosts."""


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, by its name alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Fetcher:
    """Asks one configured service, whose documents may name addresses on its own host and on *more_hosts* alone.

    HTTPS only; plain HTTP when the configured address is this machine's. Hosts are `name` or `name:port`.
    """

    def __init__(self, configured: str, more_hosts: Sequence[str] = (), seconds: float = SECONDS_MAX) -> None:
        """Raises ConfigurationError when *configured* is no address that may be asked."""
        url = _parse(configured)
        self._is_local = url is not None and url.scheme == "http" and is_loopback(url.host)
        if url is None or not url.host or not (url.scheme == "https" or self._is_local):
            raise ConfigurationError(
                f"{configured!r} is no address to ask: https://…, or http:// on a loopback address"
            )
        others = [_parse(f"{url.scheme}://{host}") for host in more_hosts]
        if any(other is None or not other.host or other.path not in ("", "/") for other in others):
            raise ConfigurationError(f"{', '.join(more_hosts)!r}: 'name' and 'name:port' are hosts")
        self._hosts = {_place(url), *(_place(other) for other in others if other is not None)}
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None

    def require_allowed(self, address: str) -> httpx.URL:
        """*address*, parsed, if it may be asked. Raises FetchFailed."""
        url = _parse(address)
        schemes = ("https", "http") if self._is_local else ("https",)
        if url is None or url.scheme not in schemes or url.userinfo or _place(url) not in self._hosts:
            raise FetchFailed(f"{address[:200]!r} is not on a configured host")
        return url

    async def get(self, address: str, bearer: str | None = None) -> Any:
        """The JSON document there. Raises FetchFailed."""
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        return await self._fetch("GET", address, headers)

    async def post(self, address: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Any:
        """What is answered to a form, which must be JSON. Raises FetchFailed."""
        return await self._fetch("POST", address, {}, form, basic)

    async def _fetch(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None = None,
        basic: tuple[str, str] | None = None,
    ) -> Any:
        import httpx

        url = self.require_allowed(address)
        try:
            async with asyncio.timeout(self._seconds):
                status, body = await self._exchange(method, url, headers, form, basic)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            raise FetchFailed(f"{url.host}: {type(error).__name__}: {error}") from None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise FetchFailed(f"{url.host}: the answer ({status}) is not JSON") from None
        if status != 200:
            said = document.get("error") if isinstance(document, dict) else None
            raise FetchFailed(f"{url.host}: status {status}, {str(said)[:100]!r}")
        return document

    async def _exchange(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None,
        basic: tuple[str, str] | None,
    ) -> tuple[int, bytes]:
        import httpx

        if self._tls is None:
            self._tls = ssl.create_default_context()
        client = httpx.AsyncClient(
            verify=self._tls,
            follow_redirects=False,
            trust_env=not self._is_local,  # a company's proxy
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "hythe"},
        )
        async with client, client.stream(method, url, headers=headers, data=form, auth=basic) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchFailed(f"{url.host}: a compressed answer was not asked for")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > SIZE_MAX_BYTES:
                    raise FetchFailed(f"{url.host}: the answer is larger than {SIZE_MAX_BYTES} bytes")
            return response.status_code, bytes(body)


def _parse(text: str) -> httpx.URL | None:
    import httpx

    try:
        return httpx.URL(text)
    except (httpx.InvalidURL, ValueError, TypeError):
        return None


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _place(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{_port(url)}"
