"""A change of somebody's, in one transaction with its line in the audit log.

Who may make it is decided by the caller: the command line is its operator's, the HTTP API asks `Actor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, Generic, ParamSpec, TypeVar

from registry.oci.errors import RegistryError
from registry.server.index import audit
from registry.server.index.engine import Index, Transaction

P = ParamSpec("P")
T = TypeVar("T")


class Refused(RegistryError):
    """A change that cannot be made; the sentence says why."""

    code = "UNSUPPORTED"


class InTheWay(Refused):
    """A change that would be right at another time: something has to be changed before it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, and from where, for the audit log.

    `confirm` is asked inside the transaction of the change, and raises when the actor may no longer make it.
    """

    name: str
    address: str
    confirm: Callable[[Transaction], None] | None = field(default=None, compare=False)


async def make(
    index: Index,
    actor: Actor,
    action: str,
    target: str,
    function: Callable[Concatenate[Transaction, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run *function* for *actor*, and have the audit log say *action* and *target*, in one transaction."""

    def change(tx: Transaction) -> T:
        if actor.confirm is not None:
            actor.confirm(tx)
        result = function(tx, *args, **kwargs)
        audit.write(tx, actor.name, actor.address, action, target)
        return result

    return await index.write(change)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and where the next one begins; None after the last."""

    items: Sequence[T]
    next_after: str | None


def page_of(found: Sequence[T], limit: int, place: Callable[[T], str]) -> Page[T]:
    """The page of what was found when one more than *limit* was asked for."""
    items = found[:limit]
    return Page(items, place(items[-1]) if len(found) > limit else None)
