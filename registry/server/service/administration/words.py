"""What people write for whom, what and how long: subjects, actions, limits and times."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from registry.server.auth import patterns
from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.rights import Limit
from registry.server.index import accounts, teams
from registry.server.index.engine import Transaction
from registry.server.index.grants import SubjectKind
from registry.server.service.administration.changes import Refused


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a grant is for: `user:NAME`, `team:NAME`, `everyone` (who signed in) or `anonymous`."""

    kind: SubjectKind
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Read one; a bare name is an account's. Raises Refused."""
        if text == "everyone":
            return cls("everyone")
        if text == "anonymous":
            return cls("anonymous")
        kind, colon, name = text.rpartition(":")
        if (colon and kind not in ("user", "robot", "team")) or not name.isprintable():
            raise Refused(f"{text[:100]!r} is no subject: user:NAME, team:NAME, everyone and anonymous are")
        return cls("team" if kind == "team" else "account", name)

    def __str__(self) -> str:
        return {"account": f"user:{self.name}", "team": f"team:{self.name}"}.get(self.kind, self.kind)

    def id(self, tx: Transaction) -> int:
        """Its id in the index. Raises AccountUnknown."""
        if self.kind == "account":
            return accounts.get(tx, self.name).id
        return teams.id_of(tx, self.name) if self.kind == "team" else 0


def actions_of(words: Iterable[str]) -> frozenset[Action]:
    """Actions from a person's words. Raises Refused."""
    wanted = [word.strip() for text in words for word in text.split(",") if word.strip()]
    unknown = [word for word in wanted if word not in ACTIONS]
    if unknown or not wanted:
        raise Refused(f"{', '.join(unknown) or 'nothing'} is no action; {', '.join(ACTIONS)} are")
    return frozenset(action for action in ACTIONS if action in wanted)


def limit_of(text: str) -> Limit:
    """A token's limit from `pull,push:team/*`. Raises Refused or NameRefused."""
    actions, colon, pattern = text.partition(":")
    if not colon:
        raise Refused(f"{text[:100]!r} is no limit: 'pull:team/*' and 'pull,push:team/web' are")
    return Limit(patterns.check_pattern(pattern), actions_of([actions]))


def lifetime_of(text: str) -> float:
    """Seconds from `90d`, `12h`, `30m`, `45s`. Raises Refused."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isascii() or not number.isdigit():
        raise Refused(f"{text[:40]!r} is no time; 90d, 12h, 30m and 45s are")
    return float(number) * units[unit]


def since_ms_of(text: str) -> int:
    """The moment that lies so long ago, for lists."""
    return int(max(0.0, time.time() - lifetime_of(text)) * 1000)
