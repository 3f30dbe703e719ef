"""Teams, and who is in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from registry.server.auth import patterns
from registry.server.auth.rights import ROLE_ACTIONS
from registry.server.index import accounts, teams
from registry.server.index.engine import Index, Transaction
from registry.server.index.teams import Member, Team, TeamSize
from registry.server.service.administration import changes
from registry.server.service.administration.changes import Actor, Page, Refused, page_of


class Teams:
    """Reads and changes of teams."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def list(self) -> Sequence[Team]:
        """All teams with their people."""
        return await self._index.read(teams.everything)

    async def page(self, after: str, limit: int, among: Collection[str] | None = None) -> Page[TeamSize]:
        """Teams, by name; with *among*, those of these names alone."""
        found = await self._index.read(teams.page, after, limit + 1, among)
        return page_of(found, limit, lambda team: team.name)

    async def get(self, name: str) -> TeamSize:
        """One team. Raises AccountUnknown."""
        return await self._index.read(teams.get, name)

    async def members(self, team: str, after: str, limit: int) -> Page[Member]:
        """A team's people and robots, by name. Raises AccountUnknown."""
        found = await self._index.read(teams.members, team, after, limit + 1)
        return page_of(found, limit, lambda member: member.name)

    async def add(self, actor: Actor, name: str) -> None:
        """Add a team, to which the namespace of its name belongs. Raises NameRefused, AccountExists."""
        await changes.make(self._index, actor, "team.add", name, teams.add, patterns.check_team(name))

    async def remove(self, actor: Actor, name: str) -> None:
        """Delete a team; its repositories stay. Raises AccountUnknown."""
        await changes.make(self._index, actor, "team.remove", name, teams.remove, name)

    async def join(self, actor: Actor, team: str, member: str, role: str) -> None:
        """Put an account into a team, or give it another role there. Raises AccountUnknown, Refused."""
        if role not in ROLE_ACTIONS:
            raise Refused(f"{role!r} is no role; {' and '.join(ROLE_ACTIONS)} are")

        def change(tx: Transaction) -> None:
            teams.join(tx, team, accounts.get(tx, member), role)

        await changes.make(self._index, actor, "team.join", f"{team}/{member}", change)

    async def leave(self, actor: Actor, team: str, member: str) -> None:
        """Take an account out of a team. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            teams.leave(tx, team, accounts.get(tx, member))

        await changes.make(self._index, actor, "team.leave", f"{team}/{member}", change)

    async def of(self, name: str) -> Sequence[tuple[str, str, str]]:
        """The teams that an account is in: (team, role, origin) of each. Raises AccountUnknown."""

        def read(tx: Transaction) -> Sequence[tuple[str, str, str]]:
            return teams.of(tx, accounts.get(tx, name).id)

        return await self._index.read(read)
