"""Tokens of a token service that is not ours: what it grants is what may be done.

Source: docker's token documents, "Docker Registry v2 Bearer token specification".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from registry.server.auth import foreign
from registry.server.auth.caller import ACTIONS
from registry.server.auth.rights import Grant, Rights
from registry.server.auth.tokens import Claims, TokenInvalid, access_of
from registry.server.service.callers import AccountCaller
from registry.server.service.keysets import KeySet

_NAME_MAX_CHARACTERS = 200
# Its claims alone decide: here everything is allowed, but to be an administrator.
_EVERYTHING = Rights(False, (Grant("external", "*", frozenset(ACTIONS), "the external token service"),))


class ExternalTokens:
    """Verifies what the token service of *issuer* signed for *service*; *required* claims have to be there."""

    def __init__(self, keys: KeySet, issuer: str, service: str, required: Collection[str]) -> None:
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._required = tuple(required)

    async def caller(self, token: str, address: str) -> AccountCaller:
        """The caller that a token describes. Raises TokenInvalid, or Unavailable without any keys."""
        body = await self._keys.verify(token, self._issuer, self._service, self._required)
        try:
            claims = _claims(body)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise TokenInvalid("the token is not valid here, or no longer") from None
        return AccountCaller(f"external:{claims.subject}", address, _EVERYTHING, claims=claims)


def _claims(body: dict[str, Any]) -> Claims:
    subject = foreign.printable(body.get("sub") or "anonymous", _NAME_MAX_CHARACTERS)
    return Claims(subject, access_of(body.get("access") or []))
