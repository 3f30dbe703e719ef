"""The one question that the rest of the registry asks of access: may this caller do that there?"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from registry.oci.errors import Denied
from registry.oci.reference import Repository

Action = Literal["pull", "push", "overwrite", "delete", "admin"]
ACTIONS: tuple[Action, ...] = get_args(Action)


class Caller(Protocol):
    """Somebody who makes a request."""

    @property
    def name(self) -> str:
        """Who it is, in logs and as the owner of uploads."""
        ...

    @property
    def address(self) -> str:
        """Where the request came from, for the audit log."""
        ...

    def may(self, action: Action, repository: Repository) -> bool:
        """Whether a grant allows it."""
        ...

    def may_list(self) -> bool:
        """Whether the catalogue may be asked for at all."""
        ...


class Everybody:
    """The caller of a registry without accounts: may do everything."""

    name = "anonymous"

    def __init__(self, address: str = "local") -> None:
        self.address = address

    def may(self, action: Action, repository: Repository) -> bool:
        return True

    def may_list(self) -> bool:
        return True


class Operator:
    """Somebody at the keyboard of this machine, who may do everything."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def may(self, action: Action, repository: Repository) -> bool:
        return True

    def may_list(self) -> bool:
        return True


def require(caller: Caller, action: Action, repository: Repository) -> None:
    """Raise Denied unless *caller* may do *action* there."""
    if not caller.may(action, repository):
        raise Denied(f"{caller.name} may not {action} here", {"repository": repository, "action": action})
