"""Access tokens: what the token service signs and the registry verifies.

The key is found in our own store by the token's `kid`, and the algorithm is fixed: neither a key, an
address of keys nor an algorithm is ever taken from a token. `iss`, `aud`, `exp`, `nbf`, `iat` and `jti` are
required. Source: docker's token documents, "Docker Registry v2 Bearer token specification".
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt

from registry.oci.errors import Unauthorized
from registry.oci.scope import Scope
from registry.server.auth.keys import ALGORITHM, SigningKey

LEEWAY_SECONDS = 30  # clocks of replicas differ a little
_REQUIRED = ["iss", "aud", "exp", "nbf", "iat", "jti", "sub"]
TOKEN_MAX_CHARACTERS = 32 << 10


class TokenInvalid(Unauthorized):
    """A token that does not hold: forged, expired, for somebody else, or not one at all."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. `account` is None for the anonymous; `credential` made it (a token's id).

    A job's token has `rule`, the name and mark of the rule that let it in, in place of an account; one that
    `is_whole` was made for all that the rule allows.
    """

    subject: str
    access: Mapping[tuple[str, str], frozenset[str]]
    account: int | None = None
    generation: int = 0
    credential: str = ""
    issued_at: float = 0.0
    expires_at: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    rule: tuple[str, str] | None = None
    is_whole: bool = False

    def covers(self, kind: str, name: str, action: str) -> bool:
        """Whether the token was made for *action* on this resource."""
        if self.is_whole:
            return True
        granted = self.access.get((kind, name), frozenset())
        return action in granted or "*" in granted


def issue(
    key: SigningKey,
    issuer: str,
    audience: str,
    claims: Claims,
    now: float,
    lifetime_seconds: float,
) -> str:
    """A signed token for *claims*, good from *now* for *lifetime_seconds*."""
    access = [
        {"type": kind, "name": name, "actions": sorted(actions)}
        for (kind, name), actions in claims.access.items()
        if actions
    ]
    body: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": claims.subject,
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now + lifetime_seconds),
        "jti": secrets.token_hex(8),
        "access": access,
        **claims.extra,
    }
    if claims.account is not None:
        body |= {"acc": claims.account, "gen": claims.generation, "crd": claims.credential}
    if claims.rule is not None:
        body |= {"rule": claims.rule[0], "mark": claims.rule[1], "whole": claims.is_whole}
    return jwt.encode(body, key.private, ALGORITHM, {"kid": key.id})


def verify(token: str, find_key: Callable[[str], SigningKey | None], issuer: str, audience: str) -> Claims:
    """What *token* says, if one of our keys signed it for this registry and it is good now.

    Raises TokenInvalid, always with the same words: a forger learns nothing.
    """
    try:
        if len(token) > TOKEN_MAX_CHARACTERS:
            raise jwt.InvalidTokenError("too long")
        kid = jwt.get_unverified_header(token).get("kid")
        key = find_key(kid) if isinstance(kid, str) else None
        if key is None:
            raise jwt.InvalidTokenError("no such key")
        body = jwt.decode(
            token,
            key.public,
            algorithms=[ALGORITHM],
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_SECONDS,
            options={"require": _REQUIRED, "strict_aud": True},
        )
        return _claims(body)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise TokenInvalid("the token is not valid here, or no longer") from None


def _claims(body: dict[str, Any]) -> Claims:
    account = body.get("acc")
    if account is not None and not (_is_id(account) and _is_id(body["gen"])):
        raise ValueError("account")
    if not all(type(body[name]) in (int, float) for name in ("exp", "nbf", "iat")):
        raise ValueError("time")
    rule = None if "rule" not in body else (str(body["rule"]), str(body["mark"]))
    return Claims(
        subject=str(body["sub"]),
        access=access_of(body.get("access", [])),
        account=account,
        generation=body.get("gen", 0),
        credential=str(body.get("crd", "")),
        issued_at=float(body["iat"]),
        expires_at=float(body["exp"]),
        rule=rule,
        is_whole=rule is not None and body.get("whole") is True,
    )


def _is_id(value: Any) -> bool:
    """Whether it can be a number in the index; True is no 1 here."""
    return type(value) is int and 0 <= value < 1 << 31


def access_of(entries: Sequence[Any]) -> dict[tuple[str, str], frozenset[str]]:
    """The `access` claim as a mapping. Raises ValueError or KeyError when it is malformed."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for entry in entries or ():
        key = (str(entry["type"]), str(entry["name"]))
        actions = entry["actions"]
        if not isinstance(actions, list):
            raise ValueError("actions")
        found[key] = found.get(key, frozenset()) | frozenset(map(str, actions))
    return found


def asked_for(scopes: Sequence[Scope]) -> dict[tuple[str, str], frozenset[str]]:
    """Scopes of one request, those of the same resource joined."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for scope in scopes:
        key = (scope.type, scope.name)
        found[key] = found.get(key, frozenset()) | scope.actions
    return found
