"""People, for administrators."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from registry.oci.errors import Denied
from registry.server.auth import secrets
from registry.server.index.accounts import Account
from registry.server.web.api import tokens
from registry.server.web.api.call import Call, Moment, moment
from registry.server.web.api.guards import administrators, seen_by_administrators
from registry.server.web.api.operations import PAGING, Operation
from registry.server.web.api.problems import FieldInvalid

_LAST = "It is the last administrator."
Password = Annotated[str, Meta(max_length=1024)]


class User(Struct):
    """A person. `origin` says who knows the password: `local` is this registry."""

    name: str
    origin: str
    is_admin: bool
    enabled: bool
    created_at: Moment


class NewUser(Struct, forbid_unknown_fields=True):
    """A person to be added; without a password the registry makes one, and shows it this once."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    password: Password | UnsetType = UNSET
    is_admin: bool = False


class MadeUser(User, kw_only=True):
    """A new person, with the password when the registry made it."""

    password: str | UnsetType = UNSET


class UserChange(Struct, forbid_unknown_fields=True):
    """What shall be different; all of it at once, or nothing."""

    enabled: bool | UnsetType = UNSET
    is_admin: bool | UnsetType = UNSET


class NewPassword(Struct, forbid_unknown_fields=True):
    """A password; without one the registry makes it, and shows it this once."""

    password: Password | UnsetType = UNSET


class MadePassword(Struct):
    """The password, when the registry made it."""

    name: str
    password: str | UnsetType = UNSET


def user_of(account: Account) -> User:
    """A person as they are shown."""
    return User(account.name, account.origin, account.is_admin, account.enabled, moment(account.created_ms))


async def list_users(call: Call) -> list[User]:
    """People, by name."""
    return call.listed(await call.accounts.page("user", call.after(), call.limit()), user_of)


async def add_user(call: Call) -> MadeUser:
    """Add a person."""
    wanted = call.read(NewUser)
    password = secrets.new_password() if wanted.password is UNSET else wanted.password
    account = await call.accounts.add_user(call.actor, wanted.name, password, wanted.is_admin)
    return MadeUser(
        account.name,
        account.origin,
        account.is_admin,
        account.enabled,
        moment(account.created_ms),
        password=password if wanted.password is UNSET else UNSET,
    )


async def show_user(call: Call) -> User:
    """A person."""
    return user_of(await call.account("user"))


async def change_user(call: Call) -> User:
    """Lock a person out or let them in again, make them an administrator or no longer one.

    What was signed for them stops to hold at once.
    """
    wanted = call.read(UserChange)
    values = {
        name: value
        for name, value in (("enabled", wanted.enabled), ("is_admin", wanted.is_admin))
        if value is not UNSET
    }
    if not values:
        raise FieldInvalid("say what to change: enabled, is_admin or both")
    account = await call.account("user")
    await call.accounts.change(call.actor, account.name, values)
    return user_of(await call.accounts.get(account.name))


async def remove_user(call: Call) -> None:
    """Delete a person with their tokens, grants and places in teams; what they pushed stays."""
    account = await call.account("user")
    await call.accounts.remove(call.actor, account.name)


async def set_password(call: Call) -> MadePassword:
    """Give a person another password; docker and other clients have to log in again."""
    wanted = call.read(NewPassword)
    account = await call.account("user")
    if account.name == call.me:
        raise Denied("change your own password at /api/v1/me/password, which asks for the old one")
    password = secrets.new_password() if wanted.password is UNSET else wanted.password
    await call.accounts.set_password(call.actor, account.name, password)
    return MadePassword(account.name, password if wanted.password is UNSET else UNSET)


OPERATIONS = (
    Operation("GET", "/users", list_users, administrators, answer=list[User], query=PAGING),
    Operation(
        "POST",
        "/users",
        add_user,
        administrators,
        "user.add",
        body=NewUser,
        answer=MadeUser,
        status=201,
        conflict="The name is taken.",
    ),
    Operation("GET", "/users/{user}", show_user, seen_by_administrators, answer=User),
    Operation(
        "PATCH",
        "/users/{user}",
        change_user,
        seen_by_administrators,
        "account.change",
        body=UserChange,
        answer=User,
        conflict=_LAST,
    ),
    Operation(
        "DELETE",
        "/users/{user}",
        remove_user,
        seen_by_administrators,
        "account.remove",
        status=204,
        conflict=_LAST,
    ),
    Operation(
        "PUT",
        "/users/{user}/password",
        set_password,
        seen_by_administrators,
        "user.password",
        body=NewPassword,
        answer=MadePassword,
        conflict="The person has no password of this registry's.",
    ),
    *tokens.operations("/users/{user}", "user"),
)
