"""One registry host as requests see it: its scheme, who we are there, and what is tried again.

Credentials are sent to the host's own origin alone: a redirect, and an upload's address elsewhere, get none.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from registry.oci.errors import Denied, RegistryError, Unauthorized
from registry.transfer.bearer import Authority, Lookup
from registry.transfer.errors import AnswerInvalid, Cut, SpeaksPlainHttp, Unreachable, read_envelope, refusal
from registry.transfer.hosts import Endpoint
from registry.transfer.http import SYSTEM_TRUST, Http, Response

NO_SCOPES: frozenset[str] = frozenset()
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_MAX = 5
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_ORIGIN_HEADERS = {"authorization", "cookie", "proxy-authorization"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is tried, and how long is waited between: doubling from `first_seconds`, with jitter."""

    attempts: int = 5
    first_seconds: float = 0.25
    most_seconds: float = 8.0
    retry_after_max_seconds: float = 60.0

    def seconds(self, attempt: int) -> float:
        """The wait after failure number *attempt*, which counts from 0."""
        most: float = min(self.most_seconds, self.first_seconds * 2**attempt)
        return most * random.uniform(0.5, 1.0)  # noqa: S311 (spread, not secrecy)

    def after(self, answer: Response, attempt: int) -> float:
        """The wait that an answer asks for, or the usual one."""
        stated = retry_after_seconds(answer.headers.get("Retry-After", ""))
        usual = self.seconds(attempt)
        return usual if stated is None else min(max(stated, usual), self.retry_after_max_seconds)


USUAL_PATIENCE = Patience()


def retry_after_seconds(text: str) -> float | None:
    """A Retry-After: seconds or a date; None when it is neither."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


class Host:
    """Requests to one endpoint. Several repositories of the same host share it, and its tokens."""

    def __init__(
        self, http: Http, endpoint: Endpoint, lookup: Lookup, patience: Patience = USUAL_PATIENCE
    ) -> None:
        self._http = http
        self.endpoint = endpoint
        self._lookup = lookup
        self.patience = patience
        self._authority: Authority | None = None
        self._settling = asyncio.Lock()
        self.base_url = ""  # once `authority` has found it out
        self._was_reached = False
        self.takes_single_posts = True  # until it ignores the body of one (uploads)

    @property
    def name(self) -> str:
        """What people call it: `docker.io`, `127.0.0.1:5000`."""
        return self.endpoint.host

    async def has_login(self) -> bool:
        """Whether there are credentials for it."""
        return await self._lookup() is not None

    async def authority(self) -> Authority:
        """Who decides here; the first call finds out whether it speaks TLS, where that is not certain."""
        async with self._settling:
            if self._authority is None:
                base = await self._settle()
                self._authority = Authority(self._http, base, self._lookup, self.endpoint.trust)
                self.base_url = base
            return self._authority

    async def _settle(self) -> str:
        """The first scheme that is answered. One that is certain is not asked."""
        schemes = self.endpoint.schemes
        for scheme in schemes[:-1]:
            if await self._speaks(scheme):
                return self._base(scheme)
        return self._base(schemes[-1])

    def _base(self, scheme: str) -> str:
        return f"{scheme}://{self.endpoint.address}"

    async def _speaks(self, scheme: str) -> bool:
        try:
            async with self._http.send(
                "GET", f"{self._base(scheme)}{self.endpoint.api}/", {}, None, self.endpoint.trust
            ) as answer:
                # A TLS server may answer plain HTTP with a 400 of HTTP.
                return not (scheme == "http" and answer.status == 400)
        except (SpeaksPlainHttp, Cut):
            return False
        except Unreachable:
            if scheme == "https":  # the port of the other scheme may be open
                return False
            raise

    @contextlib.asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        *,
        scopes: frozenset[str] = NO_SCOPES,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expects: Collection[int] = (200,),
        place: str = "",
    ) -> AsyncGenerator[Response, None]:
        """Send a request that may be repeated, until an answer is among *expects*; its body is still to be read.

        *path* begins with a slash, or is an address that the registry gave. Raises Unreachable, Cut, and the
        RegistryError that another answer stands for, *place* being named in it.
        """
        attempt, is_answered = 0, False
        while True:
            last = attempt + 1 >= self.patience.attempts
            try:
                async with self.once(method, path, scopes, headers or {}, body) as answer:
                    if answer.status in expects:
                        is_answered = True  # what is raised now comes from whoever reads the answer
                        yield answer
                        return
                    if answer.status not in _AGAIN or last:
                        raise await self.error(answer, place or self.name)
                    pause = self.patience.after(answer, attempt)
            except (Cut, Unreachable) as error:
                # One that was there a moment ago may be starting again; one that never was is not waited for.
                if last or is_answered or (isinstance(error, Unreachable) and not self._was_reached):
                    raise
                pause = self.patience.seconds(attempt)
            attempt += 1
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def once(
        self,
        method: str,
        path: str,
        scopes: frozenset[str],
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncGenerator[Response, None]:
        """Send a request, once more with credentials if they are asked for; GET and HEAD follow redirects.

        A *body* that streams is sent once: a 401 is then returned as it is.
        """
        authority = await self.authority()
        url = self.url(path)
        sent = authority.header(scopes) if self.is_own(url) else None
        for is_last in (False, True):
            async with self._follow(method, url, self._headers(url, headers, sent), body) as answer:
                may_answer = answer.status == 401 and self.is_own(answer.url) and not is_last
                better = (
                    await authority.answer(answer.all("WWW-Authenticate"), scopes, sent) if may_answer else None
                )
                if better is None or not (body is None or isinstance(body, bytes)):
                    yield answer
                    return
            sent = better

    @contextlib.asynccontextmanager
    async def bare(self, method: str, path: str, headers: Mapping[str, str]) -> AsyncGenerator[Response, None]:
        """Send a request as it is, without credentials of ours, following nothing."""
        await self.authority()
        async with self._http.send(method, self.url(path), headers, None, self.endpoint.trust) as answer:
            yield answer

    def _headers(self, url: str, headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
        found = {**(dict(self.endpoint.headers) if self.is_own(url) else {}), **headers}
        return {**found, "Authorization": authorization} if authorization else found

    @contextlib.asynccontextmanager
    async def _follow(
        self, method: str, url: str, headers: dict[str, str], body: bytes | AsyncIterator[bytes] | None
    ) -> AsyncGenerator[Response, None]:
        for _ in range(_REDIRECTS_MAX):
            trust = self.endpoint.trust if self._is_same_host(url) else SYSTEM_TRUST
            async with self._http.send(method, url, headers, body, trust) as answer:
                self._was_reached = True
                if answer.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                    yield answer
                    return
                target = self._redirected(url, answer.headers.get("Location", ""))
            if not _is_same_origin(url, target):
                own = {name.lower() for name, _ in self.endpoint.headers} | _ORIGIN_HEADERS
                headers = {name: value for name, value in headers.items() if name.lower() not in own}
            url = target
        raise AnswerInvalid(f"{self.name}: more than {_REDIRECTS_MAX} redirects, one after the other")

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if not location or parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise AnswerInvalid(f"{self.name}: a redirect to no address")
        if parts.scheme == "http" and url.startswith("https:"):
            raise AnswerInvalid(
                f"{self.name}: a redirect from HTTPS to plain HTTP ({parts.netloc}) is not followed"
            )
        return target

    def url(self, path: str) -> str:
        """The address of *path*; of an absolute one on our host, with the scheme that we came by.

        A registry behind a proxy that ends TLS often believes that it is reached by plain HTTP.
        """
        api = self.endpoint.api + path.removeprefix("/v2") if path.startswith("/v2/") else path
        absolute = urljoin(self.base_url + "/", api)
        parts = urlsplit(absolute)
        own = urlsplit(self.base_url)
        if parts.scheme == "http" and own.scheme == "https":
            if parts.hostname == own.hostname:
                return parts._replace(scheme="https", netloc=own.netloc).geturl()
            raise AnswerInvalid(f"{self.name}: it sends us on to plain HTTP on {parts.netloc}; not followed")
        if parts.scheme not in ("http", "https") or parts.username:
            raise AnswerInvalid(f"{self.name}: it sends us on to no address")
        return absolute

    def is_own(self, url: str) -> bool:
        """Whether an address is the host's own origin, which may see credentials."""
        return _is_same_origin(url, self.base_url)

    def _is_same_host(self, url: str) -> bool:
        return urlsplit(url).hostname == urlsplit(self.base_url).hostname

    async def error(self, answer: Response, place: str) -> RegistryError:
        """What a refusal means, with what to do about it."""
        body = await answer.read(64 << 10)
        user = self._authority.username if self._authority else ""
        if answer.status not in (401, 403):
            return refusal(place, answer.status, body)
        said = read_envelope(body)[1]
        said = f": {said}" if said else ""  # an answer to HEAD says nothing
        if user:
            return Denied(f"{place}: {user} may not do this, or it does not exist{said}")
        kind = Unauthorized if answer.status == 401 else Denied
        return kind(
            f"{place}: not allowed without a login, or it does not exist{said}; try: hythe login {self.name}"
        )


def _is_same_origin(one: str, other: str) -> bool:
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
