"""Rights: grants, and the one that decides. Pure values; nothing here reads a database.

There are only permissions, never prohibitions, so their order changes no answer; it only says which grant
is named as the reason. Nearest first: administrator, the namespace's team, the account's own grants, its
teams' grants, everyone's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from registry.oci.reference import Repository
from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.patterns import check_pattern, matches

TeamRole = Literal["member", "maintainer"]

# What a team's people may do in its own namespace.
ROLE_ACTIONS: dict[str, frozenset[Action]] = {
    "member": frozenset({"pull", "push", "overwrite"}),
    "maintainer": frozenset(ACTIONS),
}


@dataclass(frozen=True, slots=True)
class Grant:
    """Who (`subject`) may do what on which repositories. `origin` is how the caller came by it, in words."""

    subject: str
    pattern: str
    actions: frozenset[Action]
    origin: str

    def allows(self, action: Action, repository: str) -> bool:
        """Whether it covers *action* on *repository*."""
        return action in self.actions and matches(self.pattern, repository)

    def __str__(self) -> str:
        words = ",".join(action for action in ACTIONS if action in self.actions)
        return f"{self.origin}: {self.subject} may {words} on {self.pattern}"


@dataclass(frozen=True, slots=True)
class Membership:
    """An account's place in a team, whose namespace is the team's name."""

    team: str
    role: str

    def grants(self) -> Grant:
        """What it brings in the team's namespace."""
        return Grant(
            f"team:{self.team}", f"{self.team}/*", ROLE_ACTIONS[self.role], f"{self.role} of the owning team"
        )


@dataclass(frozen=True, slots=True)
class Rights:
    """All that one account may do, in the order in which grants are named."""

    is_admin: bool
    grants: tuple[Grant, ...]
    memberships: tuple[Membership, ...] = ()

    def decide(self, action: Action, repository: Repository) -> Grant | None:
        """The first grant that allows it, None when none does."""
        if self.is_admin:
            return _ADMINISTRATOR
        return next((grant for grant in self.grants if grant.allows(action, repository)), None)

    def with_grants(self, more: Sequence[Grant]) -> Rights:
        """These rights and *more*, which are named last."""
        return replace(self, grants=(*self.grants, *more)) if more else self

    def reasons(self) -> tuple[Grant, ...]:
        """Every grant, the nearest first: each says in words what may be done, and why."""
        return (_ADMINISTRATOR, *self.grants) if self.is_admin else self.grants

    def maintains(self, team: str) -> bool:
        """Whether it looks after a team: its people, and the grants inside of its namespace."""
        return any(place.team == team and place.role == "maintainer" for place in self.memberships)

    def may(self, action: Action, repository: Repository) -> bool:
        """Whether some grant allows it."""
        return self.decide(action, repository) is not None


def public_pull(patterns: Iterable[str]) -> tuple[Grant, ...]:
    """The grants of the setting that lets everybody pull."""
    return tuple(
        Grant("anonymous", check_pattern(pattern), frozenset({"pull"}), "accounts.anonymous_pull")
        for pattern in patterns
    )


_ADMINISTRATOR = Grant("administrator", "*", frozenset(ACTIONS), "administrator")


def collect(
    is_admin: bool,
    memberships: Sequence[Membership],
    own: Iterable[Grant],
    of_teams: Iterable[Grant],
    of_everyone: Iterable[Grant],
) -> Rights:
    """The rights of an account from everything that it was given."""

    def ordered() -> Iterator[Grant]:
        yield from (membership.grants() for membership in memberships)
        yield from own
        yield from of_teams
        yield from of_everyone

    return Rights(is_admin, tuple(ordered()), tuple(memberships))


@dataclass(frozen=True, slots=True)
class Limit:
    """What a token is confined to: actions on a pattern. No limit at all is an empty tuple of these."""

    pattern: str
    actions: frozenset[Action]

    def allows(self, action: Action, repository: str) -> bool:
        """Whether the token may be used for it."""
        return action in self.actions and matches(self.pattern, repository)


def within(limits: Sequence[Limit], action: Action, repository: Repository) -> bool:
    """Whether a token with *limits* may be used for *action* on *repository*."""
    return not limits or any(limit.allows(action, repository) for limit in limits)
