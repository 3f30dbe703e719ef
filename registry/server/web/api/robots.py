"""Robots, which have tokens and no password; for administrators."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from registry.server.index.accounts import Account
from registry.server.web.api import tokens
from registry.server.web.api.call import Call, Moment, moment
from registry.server.web.api.guards import administrators, seen_by_administrators
from registry.server.web.api.operations import PAGING, Operation


class Robot(Struct):
    """A robot."""

    name: str
    enabled: bool
    created_at: Moment


class NewRobot(Struct, forbid_unknown_fields=True):
    """A robot to be added."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]


class RobotChange(Struct, forbid_unknown_fields=True):
    """What shall be different."""

    enabled: bool


def robot_of(account: Account) -> Robot:
    """A robot as it is shown."""
    return Robot(account.name, account.enabled, moment(account.created_ms))


async def list_robots(call: Call) -> list[Robot]:
    """Robots, by name."""
    return call.listed(await call.accounts.page("robot", call.after(), call.limit()), robot_of)


async def add_robot(call: Call) -> Robot:
    """Add a robot. Then make it a token."""
    return robot_of(await call.accounts.add_robot(call.actor, call.read(NewRobot).name))


async def show_robot(call: Call) -> Robot:
    """A robot."""
    return robot_of(await call.account("robot"))


async def change_robot(call: Call) -> Robot:
    """Lock a robot out at once, or let it in again."""
    wanted = call.read(RobotChange)
    account = await call.account("robot")
    await call.accounts.set_enabled(call.actor, account.name, wanted.enabled)
    return robot_of(await call.accounts.get(account.name))


async def remove_robot(call: Call) -> None:
    """Delete a robot with its tokens, grants and places in teams; what it pushed stays."""
    account = await call.account("robot")
    await call.accounts.remove(call.actor, account.name)


OPERATIONS = (
    Operation("GET", "/robots", list_robots, administrators, answer=list[Robot], query=PAGING),
    Operation(
        "POST",
        "/robots",
        add_robot,
        administrators,
        "robot.add",
        body=NewRobot,
        answer=Robot,
        status=201,
        conflict="The name is taken.",
    ),
    Operation("GET", "/robots/{robot}", show_robot, seen_by_administrators, answer=Robot),
    Operation(
        "PATCH",
        "/robots/{robot}",
        change_robot,
        seen_by_administrators,
        "account.change",
        body=RobotChange,
        answer=Robot,
    ),
    Operation("DELETE", "/robots/{robot}", remove_robot, seen_by_administrators, "account.remove", status=204),
    *tokens.operations("/robots/{robot}", "robot"),
)
