"""Tokens: one's own, and for administrators those of every person and robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from registry.oci.errors import Denied
from registry.server.auth.caller import ACTIONS, Action
from registry.server.auth.patterns import check_pattern
from registry.server.auth.rights import Limit
from registry.server.index.accounts import Kind
from registry.server.index.credentials import Credential
from registry.server.index.names import now_ms
from registry.server.service.administration.tokens import TOKEN_LIFETIME_MAX_SECONDS, TOKENS_PER_ACCOUNT_MAX
from registry.server.web.api.call import Call, Moment, moment, moment_or_none
from registry.server.web.api.guards import everyone, seen_by_administrators
from registry.server.web.api.operations import PAGING, Operation

_FULL = f"The account has {TOKENS_PER_ACCOUNT_MAX} tokens already."


class Allowed(Struct, forbid_unknown_fields=True):
    """Actions on the repositories of a pattern: `team/web`, `team/*`, `*`."""

    actions: Annotated[list[Action], Meta(min_length=1, max_length=len(ACTIONS))]
    pattern: Annotated[str, Meta(min_length=1, max_length=255)]


class NewToken(Struct, forbid_unknown_fields=True):
    """A token to be made. Without `allow` it is not limited, without `expires_in_seconds` it does not expire."""

    label: Annotated[str, Meta(min_length=1, max_length=100)]
    allow: Annotated[list[Allowed], Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    expires_in_seconds: Annotated[int, Meta(ge=1, le=TOKEN_LIFETIME_MAX_SECONDS)] | UnsetType = UNSET


class Token(Struct):
    """A token without its secret. An empty `allow` is no limit; `made_by` is the token with which it goes."""

    id: str
    label: str
    allow: list[Allowed]
    made_by: str | None
    created_at: Moment
    expires_at: Moment | None
    used_at: Moment | None


class MadeToken(Token, kw_only=True):
    """A new token; `token` is its text, which is shown this once."""

    token: str


def allowed_of(limits: Sequence[Limit]) -> list[Allowed]:
    """A token's limits as they are shown."""
    return [Allowed([action for action in ACTIONS if action in one.actions], one.pattern) for one in limits]


def token_of(stored: Credential) -> Token:
    """A token as it is shown."""
    return Token(
        stored.id,
        stored.label,
        allowed_of(stored.limits),
        stored.parent,
        moment(stored.created_ms),
        moment_or_none(stored.expires_ms),
        moment_or_none(stored.used_ms),
    )


# --- for whichever account


async def _list(call: Call, owner: str) -> list[Token]:
    page = await call.accounts.tokens.page(owner, "token", call.after(), call.limit())
    return call.listed(page, token_of)


async def _add(call: Call, owner: str) -> MadeToken:
    wanted = call.read(NewToken)
    allow = [] if wanted.allow is UNSET else wanted.allow
    limits = [Limit(check_pattern(one.pattern), frozenset(one.actions)) for one in allow]
    lifetime = None if wanted.expires_in_seconds is UNSET else wanted.expires_in_seconds
    maker = None
    if owner == call.me and call.login.credential:
        _require_no_wider(call.login.expires_ms, lifetime)
        maker = call.login.credential
    secret = await call.accounts.tokens.add(call.actor, owner, wanted.label, limits, lifetime, maker)
    made = token_of(await call.accounts.tokens.get(owner, secret.id))
    return MadeToken(**asdict(made), token=str(secret))


def _require_no_wider(expires_ms: int | None, lifetime_seconds: int | None) -> None:
    """A token cannot make one for its own account that outlives it. Raises Denied."""
    if expires_ms is None:
        return
    left = (expires_ms - now_ms()) // 1000
    if lifetime_seconds is None or lifetime_seconds > left:
        raise Denied(
            f"the token that you came with expires in {left} s, and one that it makes cannot outlive it: "
            "say so in expires_in_seconds, or log in with your password"
        )


async def _remove(call: Call, owner: str) -> None:
    await call.accounts.tokens.remove(call.actor, owner, call.names["token"])


# --- one's own


async def list_my_tokens(call: Call) -> list[Token]:
    """My tokens, oldest first."""
    return await _list(call, call.me)


async def add_my_token(call: Call) -> MadeToken:
    """Make a token for me; its text is shown this once.

    A token that was made with a token cannot outlive that one, and goes when that one is deleted.
    """
    return await _add(call, call.me)


async def show_my_token(call: Call) -> Token:
    """One of my tokens."""
    return token_of(await call.accounts.tokens.get(call.me, call.names["token"]))


async def remove_my_token(call: Call) -> None:
    """Delete one of my tokens, and those that it made; they stop to work at once."""
    await _remove(call, call.me)


MINE = (
    Operation("GET", "/me/tokens", list_my_tokens, everyone, answer=list[Token], query=PAGING),
    Operation(
        "POST",
        "/me/tokens",
        add_my_token,
        everyone,
        "token.add",
        body=NewToken,
        answer=MadeToken,
        status=201,
        conflict=_FULL,
    ),
    Operation("GET", "/me/tokens/{token}", show_my_token, everyone, answer=Token),
    Operation("DELETE", "/me/tokens/{token}", remove_my_token, everyone, "token.remove", status=204),
)


# --- of every account


def operations(path: str, kind: Kind) -> tuple[Operation, ...]:
    """The same for administrators, under the path of an account of this *kind*."""

    async def owner(call: Call) -> str:
        account = await call.account(kind)
        return account.name

    async def list_tokens(call: Call) -> list[Token]:
        return await _list(call, await owner(call))

    async def add_token(call: Call) -> MadeToken:
        return await _add(call, await owner(call))

    async def show_token(call: Call) -> Token:
        return token_of(await call.accounts.tokens.get(await owner(call), call.names["token"]))

    async def remove_token(call: Call) -> None:
        await _remove(call, await owner(call))

    list_tokens.__doc__ = f"The tokens of a {kind}, oldest first."
    add_token.__doc__ = f"Make a token for a {kind}; its text is shown this once."
    show_token.__doc__ = f"A token of a {kind}."
    remove_token.__doc__ = f"Delete a token of a {kind}, and those that it made; they stop to work at once."
    sees = seen_by_administrators
    return (
        Operation("GET", f"{path}/tokens", list_tokens, sees, answer=list[Token], query=PAGING),
        Operation(
            "POST",
            f"{path}/tokens",
            add_token,
            sees,
            "token.add",
            body=NewToken,
            answer=MadeToken,
            status=201,
            conflict=_FULL,
        ),
        Operation("GET", f"{path}/tokens/{{token}}", show_token, sees, answer=Token),
        Operation("DELETE", f"{path}/tokens/{{token}}", remove_token, sees, "token.remove", status=204),
    )
