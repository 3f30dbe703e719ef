"""Grants: who may do what where. A team's maintainers look after those inside of its namespace.

A grant is known by whom it is for and its pattern, and has no number of its own: a number may be another grant's
tomorrow.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from registry.oci.errors import Denied
from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.rights import Rights
from registry.server.index.accounts import AccountUnknown
from registry.server.index.grants import StoredGrant
from registry.server.service.administration.words import Subject
from registry.server.web.api.call import Call, named
from registry.server.web.api.guards import everyone, maintained, may_grant
from registry.server.web.api.operations import PAGING, Operation, Parameter
from registry.server.web.api.problems import Hidden

_SUBJECT = "Whom it is for: user:NAME (also of a robot), team:NAME, everyone (who signed in) or anonymous."
_PATTERN = "Where it counts: team/web, team/*, *"


class Grant(Struct, forbid_unknown_fields=True):
    """What somebody may do on the repositories of a pattern."""

    subject: Annotated[str, Meta(min_length=1, max_length=140, description=_SUBJECT)]
    pattern: Annotated[str, Meta(min_length=1, max_length=255, description=_PATTERN)]
    actions: Annotated[list[Action], Meta(min_length=1, max_length=len(ACTIONS))]


def grant_of(stored: StoredGrant) -> Grant:
    """A grant as it is shown."""
    return Grant(stored.subject, stored.pattern, [action for action in ACTIONS if action in stored.actions])


async def list_grants(call: Call) -> list[Grant]:
    """Grants: all for an administrator, for others those inside of the namespaces of teams that they maintain."""
    page = await call.accounts.grants.page(call.after_number(), call.limit(), maintained(call.rights))
    return call.listed(page, grant_of)


async def add_grant(call: Call) -> Grant:
    """Grant actions on a pattern, in place of what the same subject was granted on the same pattern."""
    wanted = call.read(Grant)
    subject = Subject.parse(wanted.subject.lower())
    call.target = f"{subject} {','.join(sorted(wanted.actions))} {wanted.pattern}"

    def may(rights: Rights) -> None:
        if not may_grant(rights, wanted.pattern):
            raise Denied(
                f"you cannot grant anything on {wanted.pattern!r}; choose a pattern inside of TEAM/ of yours"
            )

    call.require(may)
    actions = frozenset(wanted.actions)
    try:
        await call.accounts.grants.add(call.actor, subject, wanted.pattern, actions)
    except AccountUnknown as error:
        raise named(error, "subject") from None
    return Grant(str(subject), wanted.pattern, [action for action in ACTIONS if action in actions])


async def remove_grant(call: Call) -> None:
    """Take back what a subject was granted on exactly this pattern."""
    subject, pattern = Subject.parse(call.required("subject").lower()), call.required("pattern")
    call.target = f"{subject} {pattern}"

    def may(rights: Rights) -> None:
        if not may_grant(rights, pattern):
            raise Hidden

    call.require(may)
    await call.accounts.grants.remove(call.actor, subject, pattern)


_WHICH = (
    Parameter("subject", _SUBJECT, {"type": "string"}, required=True),
    Parameter("pattern", _PATTERN, {"type": "string"}, required=True),
)
OPERATIONS = (
    Operation("GET", "/grants", list_grants, everyone, answer=list[Grant], query=PAGING),
    Operation("POST", "/grants", add_grant, everyone, "grant.add", body=Grant, answer=Grant),
    Operation("DELETE", "/grants", remove_grant, everyone, "grant.remove", status=204, query=_WHICH),
)
