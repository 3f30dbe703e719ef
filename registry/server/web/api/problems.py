"""Errors as problem details: what is wrong, and what to do about it.

Source: RFC 9457.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from registry.oci import errors
from registry.server.auth.tokens import TokenInvalid
from registry.server.index.accounts import AccountExists, AccountUnknown
from registry.server.service.administration.changes import InTheWay
from registry.server.service.history import Incomplete, NothingToRestore
from registry.server.web.errors import NotFound, status_of
from registry.server.web.http import ClientGone, Headers, Reply

MEDIA_TYPE = "application/problem+json"
CHALLENGE = b'Basic realm="Hythe"'
PRIVATE: Headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Problem(Struct):
    """An error (RFC 9457): `detail` is a sentence that says what to do."""

    title: str
    status: int
    detail: str
    type: Literal["about:blank"] = "about:blank"
    field: str | UnsetType = UNSET
    fault: str | UnsetType = UNSET


class Hidden(errors.RegistryError):
    """What is not there, or not for this caller: nobody can tell which."""

    def __init__(self) -> None:
        super().__init__("there is no such thing here that you may see")


class FieldInvalid(errors.RegistryError):
    """A body or a parameter that is not as described; `field` is its place, "" for the whole."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class MediaTypeUnsupported(errors.RegistryError):
    """A body that does not say that it is JSON."""

    def __init__(self) -> None:
        super().__init__("a request with a body says Content-Type: application/json, and has JSON in it")


# Of errors that the distribution API has not, or answers in another way: the status, and what to do.
_OURS: tuple[tuple[type[errors.RegistryError], int, str], ...] = (
    (Hidden, 404, "check the path, or ask an administrator"),
    (AccountUnknown, 404, "the lists of this API say what there is"),
    (AccountExists, 409, "choose another name"),
    (InTheWay, 409, ""),
    (NothingToRestore, 404, ""),
    (Incomplete, 409, ""),
    (MediaTypeUnsupported, 415, ""),
    (errors.ManifestTooLarge, 413, "send less at once"),
    (TokenInvalid, 401, "send a token that begins with hyt_, or your name and password"),
    (errors.Unauthorized, 401, "send your name with your password or a token (Basic), or a token alone (Bearer)"),
    (NotFound, 404, "/api/v1/openapi.json says what there is"),
)


def render(error: errors.RegistryError) -> Reply:
    """The reply that tells a client of an error."""
    status, hint = next(((status, hint) for kind, status, hint in _OURS if isinstance(error, kind)), (0, ""))
    status = status or status_of(error)
    headers: Headers = []
    retry_after = getattr(error, "retry_after_seconds", None)
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", CHALLENGE))
    if isinstance(error, errors.Unsupported) and error.allowed:
        headers.append((b"allow", error.allowed.encode()))
    field = getattr(error, "field", "") or UNSET
    return _reply(status, sentence(error.message, hint), headers, field=field)


def render_gone(error: ClientGone) -> Reply:
    """For a client that may still listen: its body stood still or broke off."""
    return _reply(408, sentence(str(error), "send it again"), [(b"connection", b"close")])


def render_fault(fault: str) -> Reply:
    """A fault of ours; the log has the rest under the same id."""
    detail = f"The registry failed to answer. Its log says why, under {fault}: tell its operator."
    return _reply(500, detail, [], fault=fault)


def sentence(message: str, hint: str = "") -> str:
    """A message of deep code as a sentence, with what to do."""
    text = f"{message.rstrip('.')}; {hint}" if hint else message
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def _reply(status: int, detail: str, headers: Headers, **more: Any) -> Reply:
    body = msgspec.json.encode(Problem(HTTPStatus(status).phrase, status, detail, **more))
    return Reply(status, [(b"content-type", MEDIA_TYPE.encode()), *PRIVATE, *headers], body)
