"""The pages: signing in, one's account, its tokens and its password."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from registry.oci.errors import Denied, ParameterInvalid, RegistryError, TooManyRequests, Unauthorized, Unavailable
from registry.server.auth.passwords import PasswordRefused
from registry.server.service.access import Access
from registry.server.service.administration.accounts import Accounts
from registry.server.service.administration.changes import Actor
from registry.server.service.administration.words import limit_of
from registry.server.service.oidc import Attempt, Provider, SignInFailed
from registry.server.service.sessions import Sessions, SignedIn, form_token, is_secret, new_secret, still_holds
from registry.server.service.signin import NotAdmitted, SignIn
from registry.server.web.endpoints import Endpoint, Endpoints
from registry.server.web.errors import status_of
from registry.server.web.forms import read_form
from registry.server.web.http import Headers, Reply, Request
from registry.server.web.ui import cookies, pages
from registry.server.web.ui.pages import LIFETIMES, POLICY, AccountView

log = logging.getLogger("hythe.pages")

CALLBACK = "/login/callback"
_HOME = "/account"
_FORM_SECONDS = 12 * 3600
_LIMITS_MAX = 100
# One slash, and then neither a second one nor a backslash, which browsers take for one; nothing that they drop.
_NEXT = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@%?-][A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,500})?")
_PROVIDER_ERROR = re.compile(r"[a-z_]{1,40}")

_HEADERS: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


def safe_next(text: str) -> str:
    """*text* if it is a path of this site, else that of the account's page."""
    return text if _NEXT.fullmatch(text) else _HOME


@dataclass(frozen=True, slots=True)
class Door:
    """The identity provider, what the button calls it, and what its word means here."""

    provider: Provider
    title: str
    sign_in: SignIn


class Pages:
    """Answers browsers. *base_url* is this registry's address as a request reached it."""

    def __init__(
        self,
        access: Access,
        accounts: Accounts,
        sessions: Sessions,
        base_url: Callable[[Request], str],
        door: Door | None,
    ) -> None:
        self._access = access
        self._accounts = accounts
        self._sessions = sessions
        self._base_url = base_url
        self._door = door

    def endpoints(self) -> Endpoints:
        """By path and method; errors are pages too."""
        found: dict[str, dict[str, Page]] = {
            "/login": {"GET": self.show_login, "POST": self.log_in},
            "/login/start": {"GET": self.start},
            CALLBACK: {"GET": self.come_back},
            "/account": {"GET": self.show_account},
            "/account/tokens": {"POST": self.add_token},
            "/account/tokens/delete": {"POST": self.remove_token},
            "/account/password": {"POST": self.change_password},
            "/account/sign-out": {"POST": self.sign_out},
        }
        for methods in found.values():
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]
        return {
            path: {method: _as_page(page) for method, page in methods.items()} for path, methods in found.items()
        }

    # --- who is there

    def _is_tls(self, request: Request) -> bool:
        return self._base_url(request).startswith("https://")

    async def _signed_in(self, request: Request) -> SignedIn | None:
        found = await self._sessions.find(cookies.read(request, cookies.SESSION, self._is_tls(request)))
        if found is not None:
            request.notes["user"] = found.account.name
        return found

    async def _posted(self, request: Request) -> tuple[SignedIn, dict[str, str]]:
        """Who posted a form, and what is in it. Raises SignedOut, or Denied for a form of elsewhere."""
        signed_in = await self._signed_in(request)
        if signed_in is None:
            raise SignedOut("you are signed out; sign in again")
        return signed_in, await _form_from_here(request, signed_in.secret)

    def _actor(self, request: Request, signed_in: SignedIn) -> Actor:
        return Actor(signed_in.account.name, request.client, lambda tx: still_holds(tx, signed_in))

    async def _begin(self, request: Request, account_id: int, to: str) -> Reply:
        """Sign somebody in and send them on."""
        is_tls = self._is_tls(request)
        before = cookies.read(request, cookies.SESSION, is_tls)
        secret = await self._sessions.begin(account_id, before if is_secret(before) else None)
        cookie = cookies.write(cookies.SESSION, secret, int(self._sessions.lifetime_seconds), is_tls)
        return _redirect(to, [cookie, *(cookies.drop(one, is_tls) for one in (cookies.FORM, cookies.ATTEMPT))])

    # --- signing in

    async def show_login(self, request: Request) -> Reply:
        """`GET /login?next=…`"""
        to = safe_next(request.parameter("next") or "")
        if await self._signed_in(request) is not None:
            return _redirect(to)
        return self._login_form(request, to)

    def _login_form(self, request: Request, to: str, note: str = "", name: str = "", status: int = 200) -> Reply:
        is_tls = self._is_tls(request)
        secret = cookies.read(request, cookies.FORM, is_tls)
        secret = secret if is_secret(secret) else new_secret()
        title = None if self._door is None else self._door.title
        body = pages.login_page(title, to, form_token(secret), note, name)
        return _html(body, status, [cookies.write(cookies.FORM, secret, _FORM_SECONDS, is_tls)])

    async def log_in(self, request: Request) -> Reply:
        """`POST /login`, with a name and its password; a token opens no pages."""
        form = await _form_from_here(request, cookies.read(request, cookies.FORM, self._is_tls(request)))
        to, name = safe_next(form.get("next", "")), form.get("name", "")[:200]
        try:
            login = await self._access.login(name, form.get("password", ""), request.client)
            if login.credential:
                raise Unauthorized("a token is for docker login; here your password is asked for")
        except Unauthorized as error:
            request.notes["error"] = error.message
            return self._login_form(request, to, error.message, name, 403)
        request.notes["user"] = login.account.name
        return await self._begin(request, login.account.id, to)

    async def start(self, request: Request) -> Reply:
        """`GET /login/start`: on to the identity provider."""
        door = self._require_door()
        attempt = Attempt.new()
        address = await door.provider.address(attempt, self._redirect_uri(request))
        to = base64.urlsafe_b64encode(safe_next(request.parameter("next") or "").encode()).decode()
        kept = f"{attempt.secret}.{to.rstrip('=')}"
        cookie = cookies.write(cookies.ATTEMPT, kept, cookies.ATTEMPT_SECONDS, self._is_tls(request))
        return _redirect(address, [cookie])

    async def come_back(self, request: Request) -> Reply:
        """`GET /login/callback`: back from the identity provider."""
        door = self._require_door()
        await self._access.slowing.require_address(request.client)
        secret, _, kept = cookies.read(request, cookies.ATTEMPT, self._is_tls(request)).partition(".")
        attempt = Attempt.parse(secret)
        try:
            if attempt is None or not _is_same(request.parameter("state") or "", attempt.state):
                raise SignInFailed("the state is none of this browser's")
            code = _code(request, door.provider.issuer)
            policy = door.sign_in.policy
            claims = await door.provider.finish(attempt, code, self._redirect_uri(request), policy.wanted_claims())
        except SignInFailed as error:
            log.warning("signin.failed", extra={"fields": {"client": request.client, "reason": error.reason}})
            await self._access.slowing.address_failed(request.client)
            raise
        account_id = await door.sign_in.enter(claims, request.client)
        return await self._begin(request, account_id, safe_next(_decoded(kept)))

    def _require_door(self) -> Door:
        if self._door is None:
            raise Denied("this registry has no identity provider; sign in with a name and a password")
        return self._door

    def _redirect_uri(self, request: Request) -> str:
        return self._base_url(request) + CALLBACK

    # --- one's account

    async def show_account(self, request: Request) -> Reply:
        """`GET /account`"""
        signed_in = await self._signed_in(request)
        if signed_in is None:
            return _redirect(f"/login?next={quote(_HOME, safe='')}")
        return await self._account(request, signed_in)

    async def _account(
        self,
        request: Request,
        signed_in: SignedIn,
        note: str = "",
        status: int = 200,
        headers: Headers | None = None,
    ) -> Reply:
        account = signed_in.account
        view = AccountView(
            account,
            await self._accounts.teams.of(account.name),
            await self._accounts.tokens.of(account.name),
            form_token(signed_in.secret),
            self._base_url(request).partition("://")[2],
        )
        return _html(pages.account_page(view, note), status, headers or [])

    async def add_token(self, request: Request) -> Reply:
        """`POST /account/tokens`: a new token, shown this once."""
        signed_in, form = await self._posted(request)
        account, label, days = signed_in.account, form.get("label", "").strip(), form.get("days", "90")
        try:
            if days not in LIFETIMES:
                raise ParameterInvalid("that is no time after which a token can expire")
            limits = [limit_of(text) for text in form.get("allow", "").split()[:_LIMITS_MAX]]
            seconds = float(days) * 86_400 if days else None
            secret = await self._accounts.tokens.add(
                self._actor(request, signed_in), account.name, label, limits, seconds
            )
        except (Unauthorized, TooManyRequests, Unavailable):
            raise
        except RegistryError as error:
            return await self._account(request, signed_in, error.message, 400)
        host = self._base_url(request).partition("://")[2]
        return _html(pages.token_page(account, host, str(secret), label))

    async def remove_token(self, request: Request) -> Reply:
        """`POST /account/tokens/delete`: a token of one's own."""
        signed_in, form = await self._posted(request)
        await self._accounts.tokens.remove(
            self._actor(request, signed_in), signed_in.account.name, form.get("id", "")
        )
        return _redirect(_HOME)

    async def change_password(self, request: Request) -> Reply:
        """`POST /account/password`: all other browsers and docker's refresh tokens are signed out."""
        signed_in, form = await self._posted(request)
        account = signed_in.account
        try:
            if form.get("new", "") != form.get("again", ""):
                raise PasswordRefused("the two new passwords differ")
            login = await self._access.login(account.name, form.get("password", ""), request.client)
            if login.credential:
                raise Unauthorized("this is a token; your password is asked for")
            await self._accounts.set_password(self._actor(request, signed_in), account.name, form.get("new", ""))
        except (PasswordRefused, Unauthorized) as error:
            return await self._account(request, signed_in, error.message, 400)
        return await self._begin(request, account.id, _HOME)

    async def sign_out(self, request: Request) -> Reply:
        """`POST /account/sign-out`"""
        signed_in, _ = await self._posted(request)
        await self._sessions.end(signed_in.secret)
        return _redirect("/login", [cookies.drop(cookies.SESSION, self._is_tls(request))])


class SignedOut(Unauthorized):
    """A form came from a browser whose session is over."""


Page = Callable[[Request], Awaitable[Reply]]


def _as_page(page: Page) -> Endpoint:
    """An endpoint that tells of errors in HTML."""

    async def answer(request: Request) -> Reply:
        try:
            return await page(request)
        except SignedOut:
            return _redirect("/login")
        except RegistryError as error:
            request.notes["error"] = error.message
            return _refusal(error)

    return answer


def _refusal(error: RegistryError) -> Reply:
    titles: dict[type[RegistryError], str] = {
        TooManyRequests: "Wait a moment",
        Unavailable: "Not now",
        NotAdmitted: "You cannot come in",
        SignInFailed: "That did not work",
    }
    title = next((words for kind, words in titles.items() if isinstance(error, kind)), "That cannot be done")
    status = 403 if isinstance(error, Unauthorized | SignInFailed | NotAdmitted) else status_of(error)
    wait = getattr(error, "retry_after_seconds", None)
    headers: Headers = [] if wait is None else [(b"retry-after", str(wait).encode())]
    return _html(pages.message_page(title, _sentence(error.message)), status, headers)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _html(body: bytes, status: int = 200, headers: Headers | None = None) -> Reply:
    return Reply(status, [*_HEADERS, *(headers or [])], body)


def _redirect(to: str, headers: Headers | None = None) -> Reply:
    """Send the browser on: to a path of ours, or to the provider's address."""
    common = [header for header in _HEADERS if header[0] != b"content-type"]
    return Reply(303, [*common, (b"location", to.encode("ascii", "replace")), *(headers or [])])


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


async def _form_from_here(request: Request, secret: str) -> dict[str, str]:
    """The fields of a form that a page of ours showed to this very browser. Raises Denied for every other."""
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    site = request.header(b"sec-fetch-site") or "same-origin"
    form = await read_form(request)
    is_ours = is_secret(secret) and _is_same(form.get("form_token", ""), form_token(secret))
    if not is_ours or kind != "application/x-www-form-urlencoded" or site not in ("same-origin", "none"):
        raise Denied("this form is too old, or came from elsewhere: go back, load the page again, and repeat it")
    return form


def _code(request: Request, issuer: str) -> str:
    """The code that the provider sent. Raises SignInFailed, or NotAdmitted when it did not let somebody in."""
    said = request.parameter("iss")
    if said is not None and said != issuer:  # RFC 9207
        raise SignInFailed("the answer is another issuer's")
    error = request.parameter("error")
    if error is not None:
        reason = error if _PROVIDER_ERROR.fullmatch(error) else "an error"
        raise NotAdmitted(f"the identity provider did not let you in; it said {reason!r}")
    code = request.parameter("code") or ""
    if not 0 < len(code) <= 4096:
        raise SignInFailed("there is no code in the answer")
    return code


def _decoded(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
