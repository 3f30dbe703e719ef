"""Being let in: from a registry's challenge to the header that it wants.

Credentials are those of the registry's own host. A realm elsewhere gets them as docker sends them: when it is an
https address that the registry itself, not a redirect, named. Sources: docker's token documents; RFC 7235.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from registry.oci.errors import Unauthorized
from registry.transfer.errors import AnswerInvalid, printable, read_envelope, refusal
from registry.transfer.http import SYSTEM_TRUST, Http, Trust
from registry.transfer.loopback import is_loopback

CLIENT_ID = "hythe"
_EARLY_SECONDS = 10.0
_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A name and a password, or in its place a refresh token (docker's `identitytoken`)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One `WWW-Authenticate`: its scheme in lower case and its parameters."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Challenge:
        """Read one; what is not understood is left out."""
        scheme, _, rest = text.strip().partition(" ")
        found: dict[str, str] = {}
        place = 0
        while match := _PARAMETER.match(rest, place):
            quoted, plain = match[2], match[3]
            found[match[1].lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            place = match.end()
        return cls(scheme.lower(), found)


@dataclass(slots=True)
class Token:
    """What a token service answered; `good_until` on the monotonic clock."""

    value: str
    good_until: float
    refresh: str = ""


Lookup = Callable[[], Awaitable[Credentials | None]]


class Authority:
    """What one registry host wants to see, remembered: tokens by scopes, or a name and password."""

    def __init__(self, http: Http, base_url: str, lookup: Lookup, trust: Trust = SYSTEM_TRUST) -> None:
        self._http = http
        self._base = urlsplit(base_url)
        self._lookup = lookup
        self._trust = trust
        self._basic = ""
        self._tokens: dict[frozenset[str], Token] = {}
        self._lock = asyncio.Lock()
        self.username = ""  # who we said we are, for error messages

    def header(self, scopes: frozenset[str]) -> str | None:
        """What to send with a request for *scopes*, as far as is known without asking."""
        if self._basic:
            return self._basic
        for known, token in self._tokens.items():
            if scopes <= known and token.good_until > time.monotonic():
                return f"Bearer {token.value}"
        return None

    async def answer(self, challenges: Iterable[str], scopes: frozenset[str], sent: str | None) -> str | None:
        """The header to try after a 401, None when there is nothing better than what was *sent*.

        Raises Unauthorized when the token service refuses the credentials.
        """
        async with self._lock:  # of many requests that are refused at once, one asks for a token
            known = self.header(scopes)
            if known is not None and known != sent:
                return known
            found = {challenge.scheme: challenge for challenge in map(Challenge.parse, challenges)}
            if "bearer" in found:
                challenge = found["bearer"]
                wanted = scopes | frozenset(challenge.parameters.get("scope", "").split())
                token = await self.token(challenge, wanted, await self._credentials())
                self._tokens[wanted] = token
                return f"Bearer {token.value}"
            credentials = await self._credentials()
            if "basic" in found and credentials and credentials.username and credentials.basic() != sent:
                self._basic = credentials.basic()
                return self._basic
            self._basic = ""
            return None

    async def _credentials(self) -> Credentials | None:
        found = await self._lookup()
        self.username = found.username if found else ""
        return found

    async def token(
        self, challenge: Challenge, scopes: Iterable[str], credentials: Credentials | None, offline: bool = False
    ) -> Token:
        """Ask the challenge's realm for a token; *offline* asks for a refresh token too.

        Raises AnswerInvalid for a realm that may not be asked, Unauthorized for refused credentials.
        """
        realm = self.require_realm(challenge.parameters.get("realm", ""))
        service = challenge.parameters.get("service", "")
        if credentials is not None and credentials.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            return await self._post(realm, service, scopes, form)
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in sorted(scopes)]
        headers = {}
        if credentials is not None and credentials.username:
            query += [("account", credentials.username)]
            headers = {"Authorization": credentials.basic()}
        if offline:
            query += [("client_id", CLIENT_ID), ("offline_token", "true")]
        joined = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        status, body = await self._ask("GET", joined, headers)
        if status in (404, 405) and headers and credentials is not None:
            form = {"grant_type": "password", "username": credentials.username, "password": credentials.password}
            form |= {"access_type": "offline"} if offline else {}
            return await self._post(realm, service, scopes, form)
        return self._token_of(realm, status, body)

    async def _post(self, realm: str, service: str, scopes: Iterable[str], form: dict[str, str]) -> Token:
        whole = {**form, "service": service, "client_id": CLIENT_ID, "scope": " ".join(sorted(scopes))}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._token_of(realm, *await self._ask("POST", realm, headers, urlencode(whole).encode()))

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]:
        # An own authority of the registry's host says nothing about another host.
        trust = self._trust if urlsplit(url).hostname == self._base.hostname else SYSTEM_TRUST
        async with self._http.send(method, url, headers, body, trust) as response:
            return response.status, await response.read()

    def require_realm(self, realm: str) -> str:
        """*realm*, if it may be asked by us for this registry. Raises AnswerInvalid."""
        parts = urlsplit(realm)
        if self._may_ask(parts.scheme, parts.hostname or "") and "@" not in parts.netloc and not parts.fragment:
            return realm
        raise AnswerInvalid(
            f"{self._base.netloc}: it sends us for a token to {printable(realm)!r}, where we do not go: "
            "a token service has an https:// address, or is on the registry's own host"
        )

    def _may_ask(self, scheme: str, host: str) -> bool:
        own = self._base.hostname or ""
        if not host or scheme not in ("https", "http"):
            return False
        if scheme == "http" and self._base.scheme != "http":
            return False
        if host == own or (is_loopback(host) and is_loopback(own)):
            return True
        return scheme == "https" and not (_is_private(host) and not _is_private(own))

    def _token_of(self, realm: str, status: int, body: bytes) -> Token:
        place = urlsplit(realm).netloc
        if status in (400, 401, 403):
            said = read_envelope(body)[1] or _oauth_error(body) or "incorrect username or password"
            raise Unauthorized(f"{place}: unauthorized: {said}")
        if status != 200:
            raise refusal(place, status, body)
        try:
            document: Any = json.loads(body)
            value = document.get("token") or document.get("access_token")
            seconds = float(document.get("expires_in") or 60)
            refresh = document.get("refresh_token") or ""
        except (ValueError, AttributeError, TypeError, RecursionError):
            value, seconds, refresh = None, 0.0, ""
        if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value) or not isinstance(refresh, str):
            raise AnswerInvalid(f"{place}: the token service answered without a token")
        seconds = min(max(seconds, 60.0), 86400.0)
        return Token(value, time.monotonic() + seconds - _EARLY_SECONDS, refresh)


def _oauth_error(body: bytes) -> str:
    try:
        document = json.loads(body)
        return printable(document.get("error_description") or document.get("details") or document.get("error"))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _is_private(host: str) -> bool:
    """Whether a host is written as an address inside somebody's network, which a stranger must not name."""
    if host == "localhost":
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
