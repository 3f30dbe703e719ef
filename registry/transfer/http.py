"""HTTP as a client: connections that are kept, TLS that is checked, proxies, and errors in sentences.

Nothing is followed, repeated or authorised here; `host.py` does that. aiohttp is imported with the first request:
0.1 s that no local verb waits for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry import __version__
from registry.oci.errors import ConfigurationError
from registry.transfer.faults import told
from registry.transfer.loopback import is_loopback

if TYPE_CHECKING:
    import aiohttp

BODY_MAX_BYTES = 1 << 20
_READ_BUFFER_BYTES = 1 << 20
USER_AGENT = f"hythe/{__version__}"


@dataclass(frozen=True, slots=True)
class Trust:
    """How a server proves who it is: by the system's authorities, by `authorities` (PEM files) too, or not at all.

    `client_pairs` are certificates and keys with which we prove who we are.
    """

    verify: bool = True
    authorities: tuple[Path, ...] = ()
    client_pairs: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of patience: for a connection, and between two pieces of an answer."""

    connect_seconds: float = 15.0
    idle_seconds: float = 60.0


SYSTEM_TRUST = Trust()
USUAL_LIMITS = Limits()


class Response:
    """An answer whose body is still to come; its bytes are exactly those that were sent."""

    def __init__(self, inner: aiohttp.ClientResponse, place: str) -> None:
        self._inner = inner
        self._place = place
        self.status = inner.status
        self.headers: Mapping[str, str] = inner.headers

    @property
    def url(self) -> str:
        """Where the answer came from."""
        return str(self._inner.url)

    def all(self, name: str) -> list[str]:
        """Every value of a header that may come several times."""
        return list(self._inner.headers.getall(name, []))

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises Cut when it ends too early."""
        with told(self._place):
            async for piece in self._inner.content.iter_any():
                yield piece

    async def read(self, limit_bytes: int = BODY_MAX_BYTES) -> bytes:
        """The body, of which more than *limit_bytes* are cut off."""
        found = bytearray()
        async with contextlib.aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                found += piece
                if len(found) > limit_bytes:
                    break
        return bytes(found[:limit_bytes])


class Http:
    """Connections to any number of servers, kept for as long as it is open. Use it as `async with`."""

    def __init__(self, limits: Limits = USUAL_LIMITS, environment: Mapping[str, str] = os.environ) -> None:
        self._limits = limits
        self._environment = environment
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None = None,
        trust: Trust = SYSTEM_TRUST,
    ) -> AsyncGenerator[Response, None]:
        """Send one request; the answer's body is there as long as the context. Raises Unreachable or Cut."""
        from yarl import URL

        place = urlsplit(url).netloc
        session = self._open()
        with told(place):
            inner = await session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                ssl=tls_context(trust) if url.startswith("https:") else True,
                proxy=proxy_for(url, self._environment),
                allow_redirects=False,
            )
        try:
            yield Response(inner, place)
        finally:
            inner.release()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=16),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_READ_BUFFER_BYTES,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self._limits.connect_seconds,
                    sock_read=self._limits.idle_seconds,
                ),
            )
        return self._session


@functools.lru_cache(maxsize=64)
def tls_context(trust: Trust) -> ssl.SSLContext:
    """The TLS settings for a kind of trust. Raises ConfigurationError for files that cannot be used."""
    context = ssl.create_default_context()
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in trust.authorities:
        with _usable(path):
            context.load_verify_locations(path)
    for certificate, key in trust.client_pairs:
        with _usable(certificate):
            context.load_cert_chain(certificate, key)
    return context


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError among them
        raise ConfigurationError(f"{path}: no certificate that can be used: {error.strerror or error}") from None


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy of *environment* for a URL: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, less what NO_PROXY lists."""
    import urllib.request

    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return None
    low = {name.lower(): value for name, value in environment.items() if name.lower().endswith("_proxy")}
    if not low or urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
        parts.netloc, {"no": low.get("no_proxy", "")}
    ):
        return None
    found = low.get(f"{parts.scheme}_proxy") or low.get("all_proxy")
    return (found if "://" in found else f"http://{found}") if found else None
