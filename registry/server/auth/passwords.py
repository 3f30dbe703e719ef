"""Password hashes: argon2id for ours, bcrypt for those that come from an htpasswd file.

A verification costs 50 ms and 64 MiB on purpose; `Verifier` sees to it that nobody can use that as a lever.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
import bcrypt

from registry.oci.errors import ConfigurationError, RegistryError, TooManyRequests

T = TypeVar("T")

PASSWORD_MIN_CHARACTERS = 8
PASSWORD_MAX_BYTES = 1024
_hasher = argon2.PasswordHasher()  # argon2id with the library's present defaults (RFC 9106, low memory)
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")


class PasswordRefused(RegistryError):
    """A password that is too short or too long."""

    code = "UNSUPPORTED"


def hash_password(password: str) -> str:
    """The stored form. Raises PasswordRefused."""
    if len(password) < PASSWORD_MIN_CHARACTERS:
        raise PasswordRefused(f"a password has at least {PASSWORD_MIN_CHARACTERS} characters")
    try:
        size_bytes = len(password.encode())
    except UnicodeEncodeError:  # half of a pair, as JSON and some terminals can bring it
        raise PasswordRefused("a password is made of whole characters, in UTF-8") from None
    if size_bytes > PASSWORD_MAX_BYTES:
        raise PasswordRefused(f"a password has at most {PASSWORD_MAX_BYTES} bytes")
    return hash_verified(password)


def hash_verified(password: str) -> str:
    """The stored form of a password that is in use already, whatever its length."""
    return _hasher.hash(password)


def verify(stored: str, password: str) -> bool:
    """Whether *password* is the one of which *stored* is the hash. Slow on purpose."""
    data = password.encode("utf-8", "surrogatepass")
    if len(data) > PASSWORD_MAX_BYTES:
        return False
    if _BCRYPT.fullmatch(stored):
        return bcrypt.checkpw(data[:72], stored.encode())  # bcrypt reads 72 bytes, as htpasswd's does
    try:
        return _hasher.verify(stored, data)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def is_weaker_than_ours(stored: str) -> bool:
    """Whether a hash should be made anew when its password is next seen."""
    return bool(_BCRYPT.fullmatch(stored)) or _hasher.check_needs_rehash(stored)


def read_htpasswd(text: str) -> dict[str, str]:
    """Names and bcrypt hashes of an htpasswd file. Raises ConfigurationError, which names the line."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, stored = line.strip().partition(":")
        if not colon or not _BCRYPT.fullmatch(stored):
            raise ConfigurationError(f"line {number}: only bcrypt entries are read (htpasswd -B)")
        found[name] = stored
    return found


class Bounded:
    """Runs slow work in threads: *at_once* of it, and no more than *waiting_max* together with what waits."""

    def __init__(self, at_once: int = 2, waiting_max: int = 64) -> None:
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="password")
        self._waiting = 0
        self._waiting_max = waiting_max

    async def run(self, function: Callable[..., T], *args: str) -> T:
        """The result of *function*. Raises TooManyRequests when too many are waiting."""
        if self._waiting >= self._waiting_max:
            raise TooManyRequests("too many passwords at once; try again", 2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        finally:
            self._waiting -= 1


class Verifier:
    """Verifies passwords with bounds: few at a time, few waiting, and the same right one only once in a while.

    What it remembers is a keyed hash of the password with the stored hash, so a changed password is a
    different question, and nothing in memory can be turned back into a password.
    """

    def __init__(self, at_once: int = 2, waiting_max: int = 64, remember_seconds: float = 300.0) -> None:
        self._bounded = Bounded(at_once, waiting_max)
        self._remember_seconds = remember_seconds
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        # Verified when there is no such account, so that both cases take as long.
        self._nobody = _hasher.hash(secrets.token_urlsafe(16))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether *password* is right; *stored* is None for an account that has none, or is not there.

        Raises TooManyRequests when too many are waiting.
        """
        question = hmac.digest(self._key, f"{stored}\0{password}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        if stored is not None and self._known.get(question, 0.0) > time.monotonic():
            return True
        right = await self._bounded.run(verify, stored or self._nobody, password)
        if not right and stored is not None and _BCRYPT.fullmatch(stored):
            await self._bounded.run(verify, self._nobody, password)  # a bcrypt hash is often a fast one
        if stored is None or not right:
            return False
        self._known[question] = time.monotonic() + self._remember_seconds
        if len(self._known) > 10_000:
            self._known.popitem(last=False)
        return True
