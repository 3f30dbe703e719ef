"""Rules for CI: which jobs' tokens are let in, by who signed them and what they say, and what they may do.

A rule is all there is: a job has no account. Source: RFC 8693; the OpenID Connect tokens of GitHub Actions and
GitLab CI.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.server.auth.rights import Grant, Limit, Rights

USER_NAME = "oidc"  # the name of `docker login` with a job's token
TOKEN_LIFETIME_MAX_SECONDS = 3600
# A job's token counts until it expires, and never for longer than this, whatever its issuer thinks.
JOB_TOKEN_AGE_MAX_SECONDS = 86_400
_VALUE_MAX_CHARACTERS = 1024
_SEPARATOR = re.compile("([/:])")  # kept by a split


@dataclass(frozen=True, slots=True)
class Rule:
    """Jobs of *issuer* whose tokens are for *audience* and whose claims all match may do what *limits* say.

    In a claim's pattern `*` stands for any characters but `/` and `:`.
    """

    name: str
    issuer: str
    audience: str
    claims: Mapping[str, str]
    limits: tuple[Limit, ...]
    lifetime_seconds: float

    @property
    def caller(self) -> str:
        """Who its jobs are, in logs and as owners of uploads; no account has such a name."""
        return f"ci:{self.name}"

    def mark(self) -> str:
        """What tells this rule from another of the same name: who is let in by it."""
        parts = [self.name, self.issuer, self.audience, sorted(self.claims.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def lets_in(self, claims: Mapping[str, Any]) -> bool:
        """Whether a verified token's claims are those of its jobs."""
        return bool(self.claims) and all(
            _matches(pattern, claims.get(name)) for name, pattern in self.claims.items()
        )

    def rights(self, of_everybody: Sequence[Grant]) -> Rights:
        """What its jobs may do: the rule's limits, and what everybody may without signing in."""
        own = (Grant(self.caller, limit.pattern, limit.actions, "accounts.ci") for limit in self.limits)
        return Rights(False, (*own, *of_everybody))


def _matches(pattern: str, value: object) -> bool:
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or len(value) > _VALUE_MAX_CHARACTERS:
        return False
    # No star reaches over a separator, so those of both stand opposite each other.
    wanted, said = _SEPARATOR.split(pattern), _SEPARATOR.split(value)
    return len(wanted) == len(said) and all(map(_part_matches, wanted, said))


def _part_matches(pattern: str, text: str) -> bool:
    """Whether a part without separators matches; in one pass, however many stars there are."""
    first, *others = pattern.split("*")
    if not others:
        return text == first
    at, end = len(first), len(text) - len(others[-1])
    if at > end or not text.startswith(first) or not text.endswith(others[-1]):
        return False
    for piece in others[:-1]:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def is_open(claims: Mapping[str, str]) -> bool:
    """Whether claims such as these would let in strangers: none of them begins with anything definite."""
    return all(pattern.startswith("*") for pattern in claims.values())


@dataclass(frozen=True, slots=True)
class Job:
    """A job that proved who it is. What it is given holds until `expires_at` at most, in seconds since 1970."""

    rule: Rule
    subject: str
    expires_at: float
