"""One call of the API: who makes it, what came with it, and what they may do at the moment when it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

from registry.oci.errors import RegistryError
from registry.server.auth.rights import Rights
from registry.server.index.accounts import Account, AccountUnknown, Kind
from registry.server.index.engine import Transaction
from registry.server.service.access import Access
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor, Page
from registry.server.service.callers import Login, rights_still
from registry.server.service.history import History
from registry.server.service.quotas import Quotas
from registry.server.web.api.problems import FieldInvalid
from registry.server.web.http import Headers, Request

T = TypeVar("T")
U = TypeVar("U")
Moment = Annotated[datetime, Meta(tz=True)]  # as JSON: RFC 3339, in UTC

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
_AFTER_MAX_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Care:
    """The services that look after what repositories hold."""

    history: History
    quotas: Quotas


class Call:
    """A request whose caller is known. `target` is what the audit log says it was about, when it is denied."""

    def __init__(
        self,
        request: Request,
        body: bytes,
        names: Mapping[str, str],
        login: Login,
        access: Access,
        accounts: Accounts,
        care: Care,
    ) -> None:
        self.request = request
        self.names = names
        self.login = login
        self.access = access
        self.accounts = accounts
        self.history = care.history
        self.quotas = care.quotas
        self.headers: Headers = []
        self.target = "/".join(names.values()) or request.path
        self._body = body
        self._checks: list[Callable[[Rights], None]] = []

    # --- who

    @property
    def rights(self) -> Rights:
        """What the caller may do."""
        return self.login.standing.rights

    @property
    def me(self) -> str:
        """The caller's name."""
        return self.login.account.name

    def require(self, check: Callable[[Rights], None]) -> None:
        """Let *check* raise unless the caller's rights suffice: now, and again in the transaction of a change."""
        check(self.rights)
        self._checks.append(check)

    @property
    def actor(self) -> Actor:
        """The caller, for a change: what was required is asked again inside its transaction."""
        checks = tuple(self._checks)

        def confirm(tx: Transaction) -> None:
            rights = rights_still(tx, self.login)
            for check in checks:
                check(rights)

        return Actor(self.me, self.request.client, confirm)

    async def account(self, kind: Kind) -> Account:
        """The account that the path names, if it is of this *kind*. Raises AccountUnknown."""
        name = self.names[kind]
        found = await self.accounts.get(name)
        if found.kind != kind:
            raise AccountUnknown(f"there is no account {name!r}")
        return found

    # --- what came

    def read(self, kind: type[T]) -> T:
        """The body as *kind*. Raises FieldInvalid, which names the field."""
        try:
            return msgspec.json.decode(self._body or b"{}", type=kind)
        except msgspec.ValidationError as error:
            raise _field_invalid(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise FieldInvalid("the body is not JSON") from None

    def parameter(self, name: str) -> str:
        """A query parameter, "" when it is not there. Raises FieldInvalid for text that nothing can be called."""
        text = self.request.parameter(name) or ""
        if len(text) > _AFTER_MAX_CHARACTERS or not text.isprintable():
            raise FieldInvalid(f"the parameter {name} is too long or has characters that no name has", name)
        return text

    def required(self, name: str) -> str:
        """A query parameter that has to be there. Raises FieldInvalid."""
        text = self.parameter(name)
        if not text:
            raise FieldInvalid(f"the parameter {name} is missing: add ?{name}=…", name)
        return text

    # --- pages

    def limit(self) -> int:
        """How many entries a page shall have. Raises FieldInvalid."""
        text = self.parameter("limit") or str(LIMIT_DEFAULT)
        if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= LIMIT_MAX):
            raise FieldInvalid(f"limit is a number from 1 to {LIMIT_MAX}", "limit")
        return int(text)

    def after(self) -> str:
        """Where a page begins, "" for the first one."""
        return self.parameter("after")

    def after_number(self) -> int:
        """The same for lists whose places are numbers. Raises FieldInvalid."""
        text = self.after() or "0"
        if not (text.isascii() and text.isdigit() and len(text) < 18):
            raise FieldInvalid("after is no place in this list; take it from the Link of the page before", "after")
        return int(text)

    def listed(self, page: Page[T], show: Callable[[T], U], filters: Sequence[str] = ()) -> list[U]:
        """The entries of a page as *show* makes them; the reply gets a Link to the next one."""
        if page.next_after is not None:
            kept = {name: self.parameter(name) for name in ("limit", *filters) if self.parameter(name)}
            query = urlencode({**kept, "after": page.next_after})
            self.headers.append((b"link", f'<{quote(self.request.path)}?{query}>; rel="next"'.encode()))
        return [show(item) for item in page.items]


def _field_invalid(message: str) -> FieldInvalid:
    """msgspec's sentence with the place in front: "Expected `str`, got `int` - at `$.label`"."""
    reason, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    marker = "Object contains unknown field `"
    if reason.startswith(marker):
        unknown = ".".join(part for part in (path, reason.removeprefix(marker).rstrip("`")) if part)
        return FieldInvalid(f"{unknown!r} is not a field of this request; leave it out", unknown)
    reason = reason.replace("`", "'")
    return FieldInvalid(f"{path}: {reason}" if path else f"the body: {reason}", path)


def named(error: RegistryError, field: str) -> FieldInvalid:
    """An error about a name that stood in the body and not in the path: the request is wrong."""
    hint = "; add it first, or check the name" if isinstance(error, AccountUnknown) else ""
    return FieldInvalid(f"{field}: {error.message}{hint}", field)


def moment(milliseconds: int) -> datetime:
    """A time of the index."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def moment_or_none(milliseconds: int | None) -> datetime | None:
    """The same for what has no time yet, or none at all."""
    return None if milliseconds is None else moment(milliseconds)
