"""People whom an identity provider vouches for, and their accounts here.

An account belongs to an issuer and a subject. Its name is chosen at the first sign-in and decides nothing: where
that name is somebody else's already, nobody gets in. What the provider says (groups, administrator) is taken
over at each sign-in, and taken back when it is no longer said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from registry.oci.errors import RegistryError
from registry.server.auth.patterns import NameRefused, check_account
from registry.server.index import accounts, audit, credentials, identities, teams
from registry.server.index.accounts import Account
from registry.server.index.engine import Index, Transaction
from registry.server.index.names import now_ms

ORIGIN = "oidc"
_GROUPS_MAX = 10_000
_LAPSE_AT_ONCE = 100


class NotAdmitted(RegistryError):
    """Somebody whom the provider knows and this registry does not let in; the sentence says why."""

    code = "DENIED"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a provider's claims mean here. `teams` is by group: (team, role); an empty `allowed` lets all in."""

    issuer: str
    username_claim: str
    groups_claim: str
    teams: Mapping[str, tuple[str, str]]
    allowed: frozenset[str]
    admin_group: str
    sign_in_every_seconds: float

    @property
    def origin(self) -> str:
        """The origin of its accounts."""
        return f"{ORIGIN}:{hashlib.sha256(self.issuer.encode()).hexdigest()[:12]}"

    def wanted_claims(self) -> tuple[str, ...]:
        """The claims that are read."""
        uses_groups = self.teams or self.allowed or self.admin_group
        return (self.username_claim, self.groups_claim) if uses_groups else (self.username_claim,)


@dataclass(frozen=True, slots=True)
class Person:
    """What the provider says of a person, in this registry's terms."""

    issuer: str
    subject: str
    name: str
    origin: str
    places: Mapping[str, str]
    is_admin: bool
    is_allowed: bool


def person_of(policy: Policy, claims: Mapping[str, Any]) -> Person:
    """A person from verified claims; whatever is not of its form counts as not said."""
    said = claims.get(policy.groups_claim)
    listed = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    groups = {group for group in listed[:_GROUPS_MAX] if isinstance(group, str)}
    name = claims.get(policy.username_claim)
    if policy.username_claim == "email" and claims.get("email_verified") is False:
        name = None  # anybody can write any address there
    return Person(
        policy.issuer,
        str(claims["sub"]),
        name if isinstance(name, str) else "",
        policy.origin,
        places_of(policy, groups),
        bool(policy.admin_group) and policy.admin_group in groups,
        not policy.allowed or bool(policy.allowed & groups),
    )


def places_of(policy: Policy, groups: Collection[str]) -> dict[str, str]:
    """Roles by team: of two in the same team the higher one."""
    found: dict[str, str] = {}
    for group, (team, role) in policy.teams.items():
        if group in groups and found.get(team) != "maintainer":
            found[team] = role
    return found


class SignIn:
    """Brings the accounts here into line with what the provider says."""

    def __init__(self, index: Index, policy: Policy) -> None:
        self._index = index
        self.policy = policy

    async def enter(self, claims: Mapping[str, Any], address: str) -> int:
        """The id of the account of the person of *claims*. Raises NotAdmitted."""
        found = await self._index.write(_enter, person_of(self.policy, claims), address)
        if isinstance(found, str):
            raise NotAdmitted(found)
        return found

    async def lapse(self) -> int:
        """Lock out those who have not signed in for too long; returns how many."""
        if not self.policy.sign_in_every_seconds:
            return 0
        before_ms = now_ms() - int(self.policy.sign_in_every_seconds * 1000)
        return await self._index.write(_lapse, self.policy.issuer, before_ms)


def _enter(tx: Transaction, person: Person, address: str) -> int | str:
    """The account's id, or the reason why there is none for this person, which is no error: it is written down."""
    known = identities.find(tx, person.issuer, person.subject)
    account = None if known is None else accounts.by_id(tx, known.account_id)
    if not person.is_allowed:
        if account is not None:
            _shut_out(tx, account, address, "account.shut-out")
        return "your groups at the identity provider do not let you in here; ask an administrator"
    if known is None or account is None:
        made = _first_time(tx, person, address)
        if isinstance(made, str):
            return made
        account, is_provider_admin, is_shut_out = made, False, False
    else:
        is_provider_admin, is_shut_out = known.is_admin, known.is_shut_out
    if not account.enabled and not is_shut_out:
        return f"the account {account.name!r} is locked; ask an administrator"
    if not account.enabled:
        accounts.change(tx, account.id, revoke=True, enabled=True)
        audit.write(tx, account.name, address, "account.enable", account.name, by=person.origin)
    _follow_teams(tx, account, person.places, address)
    _follow_admin(tx, account, person.is_admin, is_provider_admin, address)
    identities.change(tx, account.id, is_admin=person.is_admin, is_shut_out=False, seen_ms=now_ms())
    audit.write(tx, account.name, address, "sign-in", account.name, by=person.origin)
    return account.id


def _first_time(tx: Transaction, person: Person, address: str) -> Account | str:
    if not person.name:
        return "the identity provider does not say your name here (accounts.oidc.username_claim)"
    try:
        name = check_account(person.name)
    except NameRefused:
        return f"the identity provider calls you {person.name[:100]!r}, which cannot be a name here"
    if accounts.find(tx, name) is not None:
        audit.write(tx, person.origin, address, "sign-in", name, "denied", subject=person.subject)
        return f"there is an account {name!r} here already that is not yours to sign in to; ask an administrator"
    account = accounts.add(tx, name, "user", None, origin=person.origin)
    identities.add(tx, person.issuer, person.subject, account.id)
    audit.write(tx, name, address, "user.add", name, by=person.origin, subject=person.subject)
    return account


def _follow_teams(tx: Transaction, account: Account, wanted: Mapping[str, str], address: str) -> None:
    """Make memberships what the provider lists; those that somebody made here by hand stay as they are."""
    present = {team: (role, origin) for team, role, origin in teams.of(tx, account.id)}
    for team, (_, origin) in present.items():
        if origin == ORIGIN and team not in wanted:
            teams.leave(tx, team, account)
            audit.write(tx, account.name, address, "team.leave", f"{team}/{account.name}", by=account.origin)
    for team, role in wanted.items():
        role_now, origin = present.get(team, ("", ORIGIN))
        if origin != ORIGIN or role_now == role:
            continue
        if not teams.exists(tx, team):
            teams.add(tx, team)
            audit.write(tx, account.name, address, "team.add", team, by=account.origin)
        teams.join(tx, team, account, role, ORIGIN)
        audit.write(tx, account.name, address, "team.join", f"{team}/{account.name}", by=account.origin, role=role)


def _follow_admin(tx: Transaction, account: Account, wanted: bool, was_wanted: bool, address: str) -> None:
    """Make an administrator of whom the provider calls one; take back what it once gave, and nothing else."""
    if wanted != account.is_admin and (wanted or was_wanted):
        accounts.change(tx, account.id, revoke=not wanted, is_admin=wanted)
        action = "user.admin" if wanted else "user.no-admin"
        audit.write(tx, account.name, address, action, account.name, by=account.origin)


def _shut_out(tx: Transaction, account: Account, address: str, action: str) -> None:
    """Lock an account until the provider vouches for its person again, and take back what came from there."""
    if not account.enabled:
        return
    known = identities.of_account(tx, account.id)
    _follow_teams(tx, account, {}, address)
    _follow_admin(tx, account, False, known is not None and known.is_admin, address)
    accounts.change(tx, account.id, revoke=True, enabled=False)
    credentials.remove_all(tx, account.id, "refresh")
    identities.change(tx, account.id, is_admin=False, is_shut_out=True)
    audit.write(tx, account.name, address, action, account.name, by=account.origin)


def _lapse(tx: Transaction, issuer: str, before_ms: int) -> int:
    lapsed = identities.unseen_since(tx, issuer, before_ms, _LAPSE_AT_ONCE)
    for person in lapsed:
        account = accounts.by_id(tx, person.account_id)
        if account is not None:
            _shut_out(tx, account, "local", "account.lapse")
    return len(lapsed)
