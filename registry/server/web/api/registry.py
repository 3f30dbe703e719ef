"""What concerns the whole registry: why somebody may do something, the audit log, the signing keys."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from registry.oci.reference import Repository
from registry.server.auth.caller import ACTIONS
from registry.server.index.audit import Entry
from registry.server.service.administration.changes import Page
from registry.server.service.administration.words import actions_of, since_ms_of
from registry.server.web.api.call import Call, Moment, moment
from registry.server.web.api.guards import administrators, everyone
from registry.server.web.api.operations import PAGING, Operation, Parameter
from registry.server.web.api.problems import FieldInvalid, Hidden


class Decision(Struct):
    """Whether it is allowed, and the grant that allows it."""

    allowed: bool
    because: str | None


class AuditEntry(Struct):
    """Who did what to which thing, from where, and what came of it: `done` or `denied`."""

    id: int
    at: Moment
    actor: str
    address: str
    action: str
    target: str
    result: str
    detail: dict[str, Any]


class Key(Struct):
    """A signing key; its public half is at /.well-known/jwks.json."""

    id: str


class Nothing(Struct, forbid_unknown_fields=True):
    """An empty object."""


def entry_of(stored: Entry) -> AuditEntry:
    """An entry of the audit log as it is shown."""
    return AuditEntry(
        stored.id,
        moment(stored.at_ms),
        stored.actor,
        stored.address,
        stored.action,
        stored.target,
        stored.result,
        stored.detail,
    )


async def may(call: Call) -> Decision:
    """Whether somebody may do something, and by which grant.

    Everybody can ask this for themselves, administrators for all.
    """
    name = (call.parameter("account") or call.me).lower()
    if name != call.me and not call.rights.is_admin:
        raise Hidden
    action, *more = actions_of([call.required("action")])
    if more:
        raise FieldInvalid("ask for one action at a time", "action")
    grant = await call.accounts.grants.decide(name, action, Repository.parse(call.required("repository")))
    return Decision(grant is not None, None if grant is None else str(grant))


async def list_audit(call: Call) -> list[AuditEntry]:
    """The audit log, oldest first."""
    since, limit = call.parameter("since"), call.limit()
    found = await call.accounts.audit(since_ms_of(since) if since else 0, call.after_number(), limit + 1)
    page = Page(found[:limit], str(found[limit - 1].id) if len(found) > limit else None)
    return call.listed(page, entry_of, ["since"])


async def rotate_key(call: Call) -> Key:
    """Sign access tokens with a new key from now on; nobody is logged out."""
    call.read(Nothing)
    return Key(await call.accounts.rotate_key(call.actor))


_QUESTION = (
    Parameter("account", "Whom it is about; yourself when it is left out. Or anonymous.", {"type": "string"}),
    Parameter("action", "What they want to do.", {"type": "string", "enum": list(ACTIONS)}, required=True),
    Parameter("repository", "Where, for example team/web.", {"type": "string"}, required=True),
)
_SINCE = Parameter(
    "since", "Entries of the last 30d, 12h or 30m.", {"type": "string", "pattern": "^[0-9]+[smhd]$"}
)
OPERATIONS = (
    Operation("GET", "/may", may, everyone, answer=Decision, query=_QUESTION),
    Operation("GET", "/audit", list_audit, administrators, answer=list[AuditEntry], query=(*PAGING, _SINCE)),
    Operation("POST", "/keys", rotate_key, administrators, "key.rotate", body=Nothing, answer=Key, status=201),
)
