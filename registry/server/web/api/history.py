"""The history of tags, and how what was moved or deleted comes back. Whoever may pull reads it, whoever may push
restores; a repository that one may not pull looks like one that does not exist.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from registry.oci.digest import Digest
from registry.oci.errors import Denied, NameUnknown
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Action
from registry.server.auth.rights import Rights, within
from registry.server.index.history import Entry
from registry.server.service.administration.changes import Page
from registry.server.service.history import Wanted, moment_of
from registry.server.web.api.call import Call, Moment, moment, moment_or_none
from registry.server.web.api.guards import everyone
from registry.server.web.api.operations import PAGING, Operation, Parameter
from registry.server.web.api.problems import FieldInvalid, Hidden

_REPOSITORY = "The repository, for example team/web."
_TIME = "A time such as 2026-11-20T12:00:00Z; or how long ago: 2d, 12h, 30m."


class HistoryEntry(Struct):
    """Where a tag pointed for a time that is over, and who ended that, how. Without a tag: a deleted manifest."""

    id: int
    tag: str | None
    digest: str
    since: Moment
    until: Moment
    ended_by: str
    how: str
    is_served: bool


class TagMoment(Struct):
    """Where a tag pointed at a time: since when, and until when; null while it still does."""

    digest: str
    since: Moment
    until: Moment | None


class Restore(Struct, forbid_unknown_fields=True):
    """What shall come back: a tag (to where it pointed before, or at a time, or to a digest) or a manifest."""

    repository: Annotated[str, Meta(min_length=1, max_length=255, description=_REPOSITORY)]
    tag: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    digest: Annotated[str, Meta(min_length=1, max_length=200, description="Needed without a tag.")] | None = None
    at: Annotated[str, Meta(min_length=1, max_length=60, description=_TIME)] | None = None


class RestoreDone(Struct):
    """Where it points now, where before, and which deleted manifests are served again."""

    digest: str
    was: str | None
    manifests: list[str]
    is_changed: bool


class Forgotten(Struct):
    """How many entries were forgotten."""

    entries: int


def _entry_of(stored: Entry) -> HistoryEntry:
    return HistoryEntry(
        stored.id,
        stored.name or None,
        str(stored.digest),
        moment(stored.from_ms),
        moment(stored.until_ms),
        stored.actor,
        stored.action,
        stored.is_served,
    )


def _require(call: Call, repository: Repository, *actions: Action) -> None:
    """Raise Hidden unless the caller may pull, Denied unless they may do *actions* too; now and in the change."""
    limits = call.login.limits

    def check(rights: Rights) -> None:
        def may(action: Action) -> bool:
            return within(limits, action, repository) and rights.may(action, repository)

        if not may("pull"):
            raise Hidden
        for action in actions:
            if not may(action):
                raise Denied(f"you may not {action} in {repository}; ask a maintainer")

    call.require(check)


async def list_history(call: Call) -> list[HistoryEntry]:
    """Where the tags of a repository, or one of them, pointed before: the latest entry first."""
    repository = Repository.parse(call.required("repository"))
    tag = call.parameter("tag")
    _require(call, repository)
    limit = call.limit()
    of = str(Tag.parse(tag)) if tag else None
    try:
        found = await call.history.entries(repository, of, call.after_number(), limit + 1)
    except NameUnknown:
        raise Hidden from None
    page = Page(found[:limit], str(found[limit - 1].id) if len(found) > limit else None)
    return call.listed(page, _entry_of, ["repository", "tag"])


async def forget_history(call: Call) -> Forgotten:
    """Forget the history of a repository, or of one tag, so that what it keeps may be collected.

    It needs the right to delete.
    """
    repository = Repository.parse(call.required("repository"))
    tag = call.parameter("tag")
    call.target = f"{repository}:{tag}" if tag else str(repository)
    _require(call, repository, "delete")
    actor = call.actor
    of = str(Tag.parse(tag)) if tag else None
    try:
        count = await call.history.forget((actor.name, actor.address), repository, of, actor.confirm)
    except NameUnknown:
        raise Hidden from None
    return Forgotten(count)


async def find_moment(call: Call) -> TagMoment:
    """Where a tag pointed at a time."""
    repository = Repository.parse(call.required("repository"))
    _require(call, repository)
    tag, at_ms = Tag.parse(call.required("tag")), moment_of(call.required("at"))
    try:
        found = await call.history.at(repository, tag, at_ms)
    except NameUnknown:
        raise Hidden from None
    return TagMoment(str(found.digest), moment(found.from_ms), moment_or_none(found.until_ms))


async def restore(call: Call) -> RestoreDone:
    """Bring back a tag that was moved or deleted, or a manifest that was deleted by its digest.

    With a tag alone: to where it pointed before. Everything that the manifest lists comes back with it. It needs
    the right to push, and to overwrite when the tag exists.
    """
    body = call.read(Restore)
    repository = Repository.parse(body.repository)
    call.target = f"{repository}:{body.tag}" if body.tag else f"{repository}@{body.digest}"
    _require(call, repository, "push")
    if not body.tag and (not body.digest or body.at):
        raise FieldInvalid("tag: name a tag, or the digest of a deleted manifest alone", "tag")
    if body.digest and body.at:
        raise FieldInvalid("at: say either where to or which time", "at")
    wanted = Wanted(
        Tag.parse(body.tag) if body.tag else None,
        Digest.parse(body.digest) if body.digest else None,
        moment_of(body.at) if body.at else None,
    )
    caller = call.access.caller(call.login, call.request.client)
    try:
        done = await call.history.restore(caller, repository, wanted, call.actor.confirm)
    except NameUnknown:
        raise Hidden from None
    was = None if done.was is None else str(done.was)
    return RestoreDone(str(done.digest), was, [str(each) for each in done.manifests], done.is_changed)


_WHERE = (
    Parameter("repository", _REPOSITORY, {"type": "string"}, required=True),
    Parameter("tag", "One tag of it.", {"type": "string"}),
)
_WHEN = (
    _WHERE[0],
    Parameter("tag", "The tag.", {"type": "string"}, required=True),
    Parameter("at", _TIME, {"type": "string"}, required=True),
)
_MISSING = "Something that it names was deleted too; push the image again."
OPERATIONS = (
    Operation(
        "GET",
        "/history",
        list_history,
        everyone,
        answer=list[HistoryEntry],
        query=(*PAGING, *_WHERE),
        for_limited_tokens=True,
    ),
    Operation(
        "DELETE",
        "/history",
        forget_history,
        everyone,
        "history.forget",
        answer=Forgotten,
        query=_WHERE,
        for_limited_tokens=True,
    ),
    Operation("GET", "/history/at", find_moment, everyone, answer=TagMoment, query=_WHEN, for_limited_tokens=True),
    Operation(
        "POST",
        "/restore",
        restore,
        everyone,
        "tag.restore",
        body=Restore,
        answer=RestoreDone,
        conflict=_MISSING,
        for_limited_tokens=True,
        may_be_missing=True,
    ),
)
