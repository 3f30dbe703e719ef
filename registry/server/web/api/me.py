"""Self-service: who one is, one's password, one's sessions. One's tokens are in tokens.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from registry.oci.errors import Denied, Unauthorized
from registry.server.index.accounts import Kind
from registry.server.index.credentials import Credential
from registry.server.web.api.call import Call, Moment, moment, moment_or_none
from registry.server.web.api.guards import everyone
from registry.server.web.api.operations import PAGING, Operation
from registry.server.web.api.tokens import Allowed, allowed_of


class Place(Struct):
    """A team that one is in."""

    name: str
    role: str


class CameWith(Struct):
    """The token that a caller came with, and what it is limited to; an empty list is no limit."""

    id: str
    allow: list[Allowed]
    expires_at: Moment | None


class Me(Struct):
    """Who is asking. `may` says in words what is allowed and why; `token` is null after a login by password."""

    name: str
    kind: Kind
    origin: str
    is_admin: bool
    teams: list[Place]
    may: list[str]
    token: CameWith | None


class PasswordChange(Struct, forbid_unknown_fields=True):
    """One's password, and the one that it shall be."""

    old_password: Annotated[str, Meta(max_length=1024)]
    new_password: Annotated[str, Meta(max_length=1024)]


class Session(Struct):
    """A refresh token that docker or another client keeps. `client` is what it calls itself."""

    id: str
    client: str
    made_by: str | None
    created_at: Moment
    expires_at: Moment | None
    used_at: Moment | None


async def show_me(call: Call) -> Me:
    """Who I am, and what I may do.

    With a limited token this is all that can be asked.
    """
    login = call.login
    token = None
    if login.credential:
        token = CameWith(login.credential, allowed_of(login.limits), moment_or_none(login.expires_ms))
    return Me(
        name=call.me,
        kind=login.account.kind,
        origin=login.account.origin,
        is_admin=login.account.is_admin,
        teams=[Place(place.team, place.role) for place in call.rights.memberships],
        may=[str(grant) for grant in call.rights.reasons()],
        token=token,
    )


async def change_password(call: Call) -> None:
    """Change my password.

    Docker and other clients have to log in again afterwards; tokens stay good.
    """
    wanted = call.read(PasswordChange)
    try:
        proof = await call.access.login(call.me, wanted.old_password, call.request.client)
    except Unauthorized:
        proof = None
    # A token is taken for a password at a login, but is no proof that one knows the password.
    if proof is None or proof.credential:
        raise Denied("old_password is not your password now; type it again, or ask an administrator for a new one")
    await call.accounts.set_password(call.actor, call.me, wanted.new_password)


async def list_sessions(call: Call) -> list[Session]:
    """My sessions: the refresh tokens that clients keep for me, oldest first."""
    page = await call.accounts.tokens.page(call.me, "refresh", call.after(), call.limit())
    return call.listed(page, session_of)


def session_of(stored: Credential) -> Session:
    """A refresh token as it is shown."""
    return Session(
        stored.id,
        stored.label,
        stored.parent,
        moment(stored.created_ms),
        moment_or_none(stored.expires_ms),
        moment_or_none(stored.used_ms),
    )


async def end_sessions(call: Call) -> None:
    """Log me out everywhere.

    Browsers, docker and other clients have to log in again at once; my password and my own tokens stay good.
    """
    await call.accounts.tokens.remove_sessions(call.actor, call.me)


async def end_session(call: Call) -> None:
    """End one of my sessions, at once."""
    await call.accounts.tokens.remove_session(call.actor, call.me, call.names["session"])


OPERATIONS = (
    Operation("GET", "/me", show_me, everyone, answer=Me, for_limited_tokens=True),
    Operation(
        "PUT",
        "/me/password",
        change_password,
        everyone,
        "user.password",
        body=PasswordChange,
        status=204,
        conflict="This account has no password of this registry's.",
    ),
    Operation("GET", "/me/sessions", list_sessions, everyone, answer=list[Session], query=PAGING),
    Operation("DELETE", "/me/sessions", end_sessions, everyone, "session.remove", status=204),
    Operation("DELETE", "/me/sessions/{session}", end_session, everyone, "session.remove", status=204),
)
