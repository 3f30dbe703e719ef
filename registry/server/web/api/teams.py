"""Teams, and who is in them. A team's maintainers look after its people."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from registry.server.auth.rights import TeamRole
from registry.server.index.accounts import Kind
from registry.server.index.teams import Member, TeamSize
from registry.server.web.api.call import Call, Moment, moment
from registry.server.web.api.guards import (
    administrators,
    administrators_of_what_maintainers_see,
    everyone,
    maintained,
    seen_by_maintainers,
)
from registry.server.web.api.operations import PAGING, Operation


class Team(Struct):
    """A team, to which the namespace of its name belongs."""

    name: str
    members: int
    created_at: Moment


class NewTeam(Struct, forbid_unknown_fields=True):
    """A team to be added."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class TeamMember(Struct):
    """Somebody in a team; `origin` says who put them there."""

    name: str
    kind: Kind
    role: str
    origin: str


class Membership(Struct, forbid_unknown_fields=True):
    """As what somebody shall be in a team."""

    role: TeamRole = "member"


def team_of(stored: TeamSize) -> Team:
    """A team as it is shown."""
    return Team(stored.name, stored.members, moment(stored.created_ms))


def member_of(stored: Member) -> TeamMember:
    """A member as they are shown."""
    return TeamMember(stored.name, stored.kind, stored.role, stored.origin)


async def list_teams(call: Call) -> list[Team]:
    """Teams, by name: all for an administrator, for others those that they maintain."""
    return call.listed(
        await call.accounts.teams.page(call.after(), call.limit(), maintained(call.rights)), team_of
    )


async def add_team(call: Call) -> Team:
    """Add a team."""
    name = call.read(NewTeam).name
    await call.accounts.teams.add(call.actor, name)
    return team_of(await call.accounts.teams.get(name))


async def show_team(call: Call) -> Team:
    """A team."""
    return team_of(await call.accounts.teams.get(call.names["team"]))


async def remove_team(call: Call) -> None:
    """Delete a team and what was granted to it; its repositories stay."""
    await call.accounts.teams.remove(call.actor, call.names["team"])


async def list_members(call: Call) -> list[TeamMember]:
    """Who is in a team, by name."""
    return call.listed(
        await call.accounts.teams.members(call.names["team"], call.after(), call.limit()), member_of
    )


async def put_member(call: Call) -> None:
    """Put a person or a robot into a team, or give them another role there."""
    role = call.read(Membership).role
    await call.accounts.teams.join(call.actor, call.names["team"], call.names["member"].lower(), role)


async def remove_member(call: Call) -> None:
    """Take a person or a robot out of a team."""
    await call.accounts.teams.leave(call.actor, call.names["team"], call.names["member"].lower())


_MEMBER = "/teams/{team}/members/{member}"
OPERATIONS = (
    Operation("GET", "/teams", list_teams, everyone, answer=list[Team], query=PAGING),
    Operation(
        "POST",
        "/teams",
        add_team,
        administrators,
        "team.add",
        body=NewTeam,
        answer=Team,
        status=201,
        conflict="The name is taken.",
    ),
    Operation("GET", "/teams/{team}", show_team, seen_by_maintainers, answer=Team),
    Operation(
        "DELETE", "/teams/{team}", remove_team, administrators_of_what_maintainers_see, "team.remove", status=204
    ),
    Operation(
        "GET", "/teams/{team}/members", list_members, seen_by_maintainers, answer=list[TeamMember], query=PAGING
    ),
    Operation("PUT", _MEMBER, put_member, seen_by_maintainers, "team.join", body=Membership, status=204),
    Operation("DELETE", _MEMBER, remove_member, seen_by_maintainers, "team.leave", status=204),
)
