"""Scopes of docker's token protocol: `repository:team/web:pull,push`.

Source: docker's token documents, "Requesting a Token" and the scope grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TEXT_MAX = 1024
_TYPE = re.compile(r"[a-z0-9]+(?:\([a-z0-9]+\))?")
_NAME = re.compile(r"[A-Za-z0-9._:/-]+")
_ACTION = re.compile(r"[a-z]+|\*")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a client asks to do with one resource: its type, its name, and actions in the client's words."""

    type: str
    name: str
    actions: frozenset[str]

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(sorted(self.actions))}"

    @classmethod
    def parse(cls, text: str) -> Scope | None:
        """Read one scope; None for what is none, since a client that asks for nonsense is granted nothing.

        A name may have a host with a port in front, so the type ends at the first colon and the actions begin
        after the last. A class, `repository(plugin)`, is read and dropped.
        """
        kind, first, rest = text.partition(":")
        name, second, actions = rest.rpartition(":")
        wanted = frozenset(action for action in actions.split(",") if action)
        if len(text) > _TEXT_MAX or not (first and second and _TYPE.fullmatch(kind) and _NAME.fullmatch(name)):
            return None
        if not all(_ACTION.fullmatch(action) for action in wanted):
            return None
        return cls(kind.partition("(")[0], name, wanted)


def parse_all(texts: Iterable[str], limit: int = 100) -> list[Scope]:
    """The scopes of repeated parameters, each of which may hold several, separated by spaces; up to *limit*."""
    words = [word for text in texts for word in text.split()]
    return [scope for word in words[:limit] if (scope := Scope.parse(word)) is not None]
