"""Repository patterns of grants, and names of accounts and teams.

`team/web` is that repository, `team/*` everything under team/, `*` everything. Anywhere else `*` stands for
any characters of one component: `team/web-*`, `*/base`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from registry.oci.errors import RegistryError

_PATTERN = re.compile(r"[a-z0-9*](?:[a-z0-9._/*-]*[a-z0-9*])?")
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,126}[a-z0-9]|[a-z0-9]")
_TEAM = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
RESERVED_NAMES = frozenset({"anonymous", "everyone", "admin-api", "oidc", "token"})


class NameRefused(RegistryError):
    """A name or pattern that cannot be used; the sentence says what can."""

    code = "NAME_INVALID"


def check_pattern(text: str) -> str:
    """*text* if it is a pattern. Raises NameRefused."""
    if len(text) > 255 or not _PATTERN.fullmatch(text) or "//" in text or "**" in text:
        raise NameRefused(f"{text[:100]!r} is no repository pattern; 'team/web', 'team/*' and '*' are")
    return text


def is_inside(pattern: str, team: str) -> bool:
    """Whether all that *pattern* can cover is in the namespace of *team*."""
    return pattern.startswith(team + "/")


def check_account(text: str) -> str:
    """*text* in lower case if it can name an account. Raises NameRefused."""
    name = text.lower()
    if not _ACCOUNT.fullmatch(name) or name in RESERVED_NAMES:
        raise NameRefused(
            f"{text[:100]!r} cannot name an account: letters, digits, '.', '_', '-', '+' and '@', up to 128"
        )
    return name


def check_team(text: str) -> str:
    """*text* if it can name a team, whose namespace has the same name. Raises NameRefused."""
    if len(text) > 128 or not _TEAM.fullmatch(text) or text in RESERVED_NAMES:
        raise NameRefused(
            f"{text[:100]!r} cannot name a team: lower-case letters and digits, separated by '.', '_' or '-'"
        )
    return text


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    head, tail = (pattern[:-1], ".+") if pattern == "*" or pattern.endswith("/*") else (pattern, "")
    return re.compile("/".join(map(_component, head.split("/"))) + tail)


def _component(text: str) -> str:
    """One component as a regular expression that never goes back over a star, so that many of them cost no more.

    The first place where the text after a star fits is as good as any other, except for the last such text.
    """
    first, *rest = text.split("*")
    if not rest:
        return re.escape(first)
    *middle, last = rest
    inner = "".join(f"(?>[^/]*?{re.escape(part)})" for part in middle if part)
    return f"{re.escape(first)}{inner}[^/]*{re.escape(last)}"


def matches(pattern: str, repository: str) -> bool:
    """Whether *pattern* covers *repository*."""
    return _compiled(pattern).fullmatch(repository) is not None
