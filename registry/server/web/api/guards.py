"""Who may ask for what. A guard raises unless these rights suffice for the things that a path names.

What one may not see looks like what does not exist: a guard of a thing decides by rights alone, before anything
is looked up, and answers Hidden. Denied is for what everybody knows to be there: lists, and what one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from registry.oci.errors import Denied
from registry.server.auth.patterns import is_inside
from registry.server.auth.rights import Rights
from registry.server.web.api.problems import Hidden

Names = Mapping[str, str]
Guard = Callable[[Rights, Names], None]

_ASK = "only an administrator may do this; ask one"


def everyone(rights: Rights, names: Names) -> None:
    """Whoever signed in; what they get is their own, or what they may see."""


def administrators(rights: Rights, names: Names) -> None:
    """Administrators, for what everybody knows to be there."""
    if not rights.is_admin:
        raise Denied(_ASK)


def seen_by_administrators(rights: Rights, names: Names) -> None:
    """Administrators, for what others cannot even see."""
    if not rights.is_admin:
        raise Hidden


def seen_by_maintainers(rights: Rights, names: Names) -> None:
    """The maintainers of `{team}`, and administrators."""
    if not rights.is_admin and not rights.maintains(names["team"]):
        raise Hidden


def administrators_of_what_maintainers_see(rights: Rights, names: Names) -> None:
    """Administrators; maintainers of `{team}` see it and are told so, others see nothing."""
    seen_by_maintainers(rights, names)
    administrators(rights, names)


def maintained(rights: Rights) -> list[str] | None:
    """The teams whose people and grants these rights look after; None for all teams and more."""
    if rights.is_admin:
        return None
    return [place.team for place in rights.memberships if rights.maintains(place.team)]


def may_grant(rights: Rights, pattern: str) -> bool:
    """Whether all that *pattern* can cover is theirs to give away."""
    teams = maintained(rights)
    return teams is None or any(is_inside(pattern, team) for team in teams)
