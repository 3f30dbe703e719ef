"""Small JSON documents of services that an operator named: key sets, an identity provider's answers.

Nothing that a stranger writes decides where a request goes: an address that a document names is asked only when
its host is the configured one, or was listed beside it. Redirects are not followed, and time and size are bounded.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

from registry.oci.errors import ConfigurationError, HytheError
from registry.transfer.errors import TransferError
from registry.transfer.http import Http
from registry.transfer.loopback import is_loopback

SIZE_MAX_BYTES = 512 << 10
SECONDS_MAX = 10.0
# What two parsers could read as two hosts is no address: a backslash, a space, a name and password, a percent.
_ADDRESS = re.compile(r"(?i:https?)://[A-Za-z0-9.:\[\]_-]+(?:[/?][!-\[\]-~]*)?")


class FetchFailed(HytheError):
    """A document that could not be had. The text is for the operator's log: it names hosts."""


class Fetcher:
    """Asks one configured service, whose documents may name addresses on its own host and on *more_hosts* alone.

    HTTPS only; plain HTTP when the configured address is this machine's. Hosts are `name` or `name:port`.
    """

    def __init__(self, configured: str, more_hosts: Sequence[str] = (), seconds: float = SECONDS_MAX) -> None:
        """Raises ConfigurationError when *configured* is no address that may be asked."""
        url = _parse(configured)
        self._is_local = url is not None and url.scheme == "http" and is_loopback(url.hostname or "")
        if url is None or not (url.scheme == "https" or self._is_local):
            raise ConfigurationError(
                f"{configured!r} is no address to ask: https://…, or http:// on a loopback address"
            )
        others = [_parse(f"{url.scheme}://{host}") for host in more_hosts]
        if any(other is None or other.path not in ("", "/") for other in others):
            raise ConfigurationError(f"{', '.join(more_hosts)!r}: 'name' and 'name:port' are hosts")
        self._hosts = {_place(url), *(_place(other) for other in others if other is not None)}
        self._seconds = seconds

    def require_allowed(self, address: str) -> SplitResult:
        """*address*, parsed, if it may be asked. Raises FetchFailed."""
        url = _parse(address)
        schemes = ("https", "http") if self._is_local else ("https",)
        if url is None or url.scheme not in schemes or _place(url) not in self._hosts:
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
        url = self.require_allowed(address)
        try:
            async with asyncio.timeout(self._seconds):
                status, body = await self._exchange(method, url, headers, form, basic)
        except (TransferError, OSError, TimeoutError) as error:
            raise FetchFailed(f"{url.hostname}: {type(error).__name__}: {error}") from None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise FetchFailed(f"{url.hostname}: the answer ({status}) is not JSON") from None
        if status != 200:
            said = document.get("error") if isinstance(document, dict) else None
            raise FetchFailed(f"{url.hostname}: status {status}, {str(said)[:100]!r}")
        return document

    async def _exchange(
        self,
        method: str,
        url: SplitResult,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None,
        basic: tuple[str, str] | None,
    ) -> tuple[int, bytes]:
        sent = {"Accept": "application/json", **headers}
        if basic is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if form is None else urlencode(form).encode()
        async with Http() as http, http.send(method, url.geturl(), sent, body) as answer:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise FetchFailed(f"{url.hostname}: a compressed answer was not asked for")
            found = await answer.read(SIZE_MAX_BYTES + 1)
            if len(found) > SIZE_MAX_BYTES:
                raise FetchFailed(f"{url.hostname}: the answer is larger than {SIZE_MAX_BYTES} bytes")
            return answer.status, found


def _parse(text: str) -> SplitResult | None:
    """An address of HTTP with a host, None for anything else."""
    try:
        url = urlsplit(text) if isinstance(text, str) and _ADDRESS.fullmatch(text) else None
        return url if url is not None and url.hostname and url.port != 0 else None
    except ValueError:
        return None


def _place(url: SplitResult) -> str:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"
