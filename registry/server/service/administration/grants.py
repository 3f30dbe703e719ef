"""Grants, and what they come to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from registry.oci.reference import Repository
from registry.server.auth import patterns
from registry.server.auth.caller import Action
from registry.server.auth.rights import Grant
from registry.server.index import accounts, grants, standings
from registry.server.index.engine import Index, Transaction
from registry.server.index.grants import StoredGrant
from registry.server.service.administration import changes
from registry.server.service.administration.changes import Actor, Page, Refused, page_of
from registry.server.service.administration.words import Subject


class Grants:
    """Reads and changes of grants. *public* are those that the settings make."""

    def __init__(self, index: Index, public: Sequence[Grant] = ()) -> None:
        self._index = index
        self._public = tuple(public)

    async def list(self) -> Sequence[StoredGrant]:
        """All grants, by pattern."""
        return await self._index.read(grants.everything)

    async def page(self, after: int, limit: int, inside: Collection[str] | None = None) -> Page[StoredGrant]:
        """Grants, in the order in which they were made; with *inside*, in these teams' namespaces alone."""
        found = await self._index.read(grants.page, after, limit + 1, inside)
        return page_of(found, limit, lambda grant: str(grant.id))

    async def add(self, actor: Actor, subject: Subject, pattern: str, actions: frozenset[Action]) -> None:
        """Grant actions on a pattern, in place of what was granted there. Raises NameRefused, AccountUnknown."""
        pattern = patterns.check_pattern(pattern)
        if subject.kind == "anonymous" and actions != {"pull"}:
            raise Refused("whoever has not signed in can be granted 'pull' alone")

        def change(tx: Transaction) -> None:
            grants.put(tx, subject.kind, subject.id(tx), pattern, actions)

        words = ",".join(sorted(actions))
        await changes.make(self._index, actor, "grant.add", f"{subject} {words} {pattern}", change)

    async def remove(self, actor: Actor, subject: Subject, pattern: str) -> None:
        """Take back what was granted on exactly this pattern. Raises AccountUnknown."""

        def change(tx: Transaction) -> None:
            grants.remove(tx, subject.kind, subject.id(tx), pattern)

        await changes.make(self._index, actor, "grant.remove", f"{subject} {pattern}", change)

    async def decide(self, name: str, action: Action, repository: Repository) -> Grant | None:
        """The grant that lets an account (or `anonymous`) do *action*; None when none does."""

        def read(tx: Transaction) -> Grant | None:
            if name == "anonymous":
                rights = standings.anonymous(tx)
            else:
                account = accounts.get(tx, name)
                if not account.enabled:
                    return None
                rights = standings.rights(tx, account)
            return rights.with_grants(self._public).decide(action, repository)

        return await self._index.read(read)
