"""Secrets that Hythe makes: shown once, kept as a hash, told apart by their prefix.

    hyt_<id>_<secret>     personal access token and robot token
    hyr_<id>_<secret>     refresh token, for docker's credential store

The secret has 192 random bits, so a plain SHA-256 is enough to keep it: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal

Prefix = Literal["hyt", "hyr"]
_FORM = re.compile(r"(hyt|hyr)_([0-9a-f]{16})_([A-Za-z0-9_-]{32})")


@dataclass(frozen=True, slots=True)
class Secret:
    """One made or presented secret: `id` finds its row, `secret` is compared with the row's hash."""

    prefix: str
    id: str
    secret: str

    def __str__(self) -> str:
        return f"{self.prefix}_{self.id}_{self.secret}"

    def hash(self) -> str:
        """What is stored."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def is_hashed_as(self, stored: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.hash(), stored)


def new(prefix: Prefix) -> Secret:
    """A new secret."""
    return Secret(prefix, secrets.token_hex(8), secrets.token_urlsafe(24))


def parse(text: str) -> Secret | None:
    """A secret of ours from what a client presents, None when it is something else (a password, say)."""
    match = _FORM.fullmatch(text)
    return None if match is None else Secret(match[1], match[2], match[3])


def new_password() -> str:
    """A password for a person who will be told it once: 120 bits, easy to read aloud."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(6)) for _ in range(4))
