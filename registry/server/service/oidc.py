"""The way to an identity provider and back: OpenID Connect's authorization code flow with PKCE.

Source: OpenID Connect Core 1.0, 3.1, and Discovery 1.0; RFC 7636, 9207, 9700.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

from registry.oci.errors import RegistryError, TooManyRequests
from registry.server.auth import foreign
from registry.server.auth.tokens import TokenInvalid
from registry.server.service.keysets import FRESH_SECONDS, Keys, KeySet, Remembered
from registry.transfer.fetch import Fetcher, FetchFailed

_NAME = "the identity provider"
_AT_ONCE_MAX = 16
_SUBJECT_MAX_CHARACTERS = 255
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


class SignInFailed(RegistryError):
    """What came back from the provider does not hold; the sentence is for the person, `reason` for the log."""

    code = "UNAUTHORIZED"

    def __init__(self, reason: str) -> None:
        super().__init__("signing in did not work: start again, and ask an administrator if it goes on")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to sign in. All that the provider hands back is derived from a secret of the browser's cookie."""

    secret: str

    @classmethod
    def new(cls) -> Attempt:
        """A new one."""
        return cls(secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, text: str) -> Attempt | None:
        """One from a cookie."""
        return cls(text) if _SECRET.fullmatch(text) else None

    def _derive(self, purpose: str) -> str:
        return _url_safe(hmac.digest(self.secret.encode(), purpose.encode(), hashlib.sha256))

    @property
    def state(self) -> str:
        """Ties the answer to this browser."""
        return self._derive("state")

    @property
    def nonce(self) -> str:
        """Ties the identity token to this attempt."""
        return self._derive("nonce")

    @property
    def verifier(self) -> str:
        """Ties the code to this attempt (PKCE); the provider first sees its hash alone."""
        return self._derive("verifier")

    @property
    def challenge(self) -> str:
        """The verifier's hash."""
        return _url_safe(hashlib.sha256(self.verifier.encode()).digest())


def _url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Description:
    """What a provider says of itself."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    posts_secret: bool


async def discover(issuer: str, fetcher: Fetcher) -> dict[str, Any]:
    """The document that a configured issuer publishes about itself. Raises FetchFailed."""
    document = await fetcher.get(issuer.rstrip("/") + "/.well-known/openid-configuration")
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise FetchFailed(f"{issuer}: its description is of another issuer")
    return document


def keys_of_issuer(issuer: str, fetcher: Fetcher) -> KeySet:
    """The keys of a configured issuer, at the address that it publishes, on its own host."""

    async def load() -> Keys:
        document = await discover(issuer, fetcher)
        return foreign.read_key_set(await fetcher.get(str(document.get("jwks_uri"))))

    return KeySet(Remembered("the CI system", load))


class Provider:
    """The provider of *issuer*, to which this registry is *client_id*."""

    def __init__(
        self, issuer: str, fetcher: Fetcher, client_id: str, client_secret: str, scopes: Sequence[str]
    ) -> None:
        self.issuer = issuer
        self._fetcher = fetcher
        self._client_id = client_id
        self._client_secret = client_secret
        self._scopes = tuple(scopes)
        self._description = Remembered(_NAME, self._describe, fresh=6 * FRESH_SECONDS, stale=24 * FRESH_SECONDS)
        self._keys = KeySet(Remembered(_NAME, self._load_keys))
        self._under_way = 0

    async def _describe(self) -> Description:
        document = await discover(self.issuer, self._fetcher)
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        userinfo = document.get("userinfo_endpoint")
        found = Description(
            str(document.get("authorization_endpoint")),
            str(document.get("token_endpoint")),
            str(document.get("jwks_uri")),
            str(userinfo) if userinfo else None,
            "client_secret_basic" not in methods and "client_secret_post" in methods,
        )
        for address in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
            self._fetcher.require_allowed(address)
        return found

    async def _load_keys(self) -> Keys:
        description = await self._description.get()
        return foreign.read_key_set(await self._fetcher.get(description.jwks_uri))

    async def address(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where to send the browser. Raises Unavailable when the provider does not answer."""
        description = await self._description.get()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(self._scopes),
                "state": attempt.state,
                "nonce": attempt.nonce,
                "code_challenge": attempt.challenge,
                "code_challenge_method": "S256",
            }
        )
        address = description.authorization_endpoint
        return f"{address}{'&' if '?' in address else '?'}{query}"

    async def finish(
        self, attempt: Attempt, code: str, redirect_uri: str, wanted: Collection[str]
    ) -> Mapping[str, Any]:
        """The claims about the person who came back with *code*, verified.

        Those of *wanted* that the identity token lacks are asked for. Raises SignInFailed, Unavailable,
        TooManyRequests.
        """
        if self._under_way >= _AT_ONCE_MAX:
            raise TooManyRequests("too many people sign in at this moment; try again", 2)
        self._under_way += 1
        try:
            return await self._finish(attempt, code, redirect_uri, wanted)
        except FetchFailed as error:
            raise SignInFailed(str(error)) from None
        finally:
            self._under_way -= 1

    async def _finish(
        self, attempt: Attempt, code: str, redirect_uri: str, wanted: Collection[str]
    ) -> Mapping[str, Any]:
        description = await self._description.get()
        answer = await self._redeem(description, attempt, code, redirect_uri)
        claims = await self._verified(str(answer.get("id_token")), attempt)
        access_token = answer.get("access_token")
        if description.userinfo_endpoint and isinstance(access_token, str) and set(wanted) - set(claims):
            more = await self._fetcher.get(description.userinfo_endpoint, bearer=access_token)
            if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
                raise SignInFailed("userinfo is of somebody else")
            claims = {**more, **claims}
        return claims

    async def _redeem(
        self, description: Description, attempt: Attempt, code: str, redirect_uri: str
    ) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": attempt.verifier,
        }
        basic = None
        if self._client_secret and not description.posts_secret:
            basic = (quote_plus(self._client_id), quote_plus(self._client_secret))  # RFC 6749, 2.3.1
        else:
            form["client_id"] = self._client_id
            if self._client_secret:
                form["client_secret"] = self._client_secret
        answer = await self._fetcher.post(description.token_endpoint, form, basic)
        if not isinstance(answer, dict):
            raise SignInFailed("the token endpoint's answer is no object")
        return answer

    async def _verified(self, token: str, attempt: Attempt) -> dict[str, Any]:
        try:
            claims = await self._keys.verify(token, self.issuer, self._client_id, ("iat", "sub", "nonce"))
        except TokenInvalid:
            raise SignInFailed("the identity token does not hold") from None
        # For us alone, or for others too but given to us (OpenID Connect Core, 3.1.3.7).
        party = claims.get("azp")
        is_ours_alone = claims["aud"] in (self._client_id, [self._client_id])
        if party != self._client_id and (party is not None or not is_ours_alone):
            raise SignInFailed("the identity token was given to another client")
        if not hmac.compare_digest(str(claims["nonce"]).encode(), attempt.nonce.encode()):
            raise SignInFailed("the identity token is of another attempt")
        subject: str = claims["sub"]
        if not 0 < len(subject) <= _SUBJECT_MAX_CHARACTERS or not (subject.isascii() and subject.isprintable()):
            raise SignInFailed("the subject is none: 1 to 255 ASCII characters")
        return claims
