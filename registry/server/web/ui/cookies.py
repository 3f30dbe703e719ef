"""Cookies of the pages: no script reads them, no other site sends them, and under TLS no other host sets them."""

from __future__ import annotations

from registry.server.web.http import Request

SESSION, FORM, ATTEMPT = "session", "form", "attempt"
ATTEMPT_SECONDS = 600
_HEADER_MAX_CHARACTERS = 16 << 10


def _name(purpose: str, is_tls: bool) -> str:
    # A name that begins so is taken by browsers from this very host over TLS alone (RFC 6265bis, 4.1.3.2).
    return f"{'__Host-' if is_tls else ''}hythe-{purpose}"


def read(request: Request, purpose: str, is_tls: bool) -> str:
    """What a cookie of ours says, "" when it is not there."""
    name, header = _name(purpose, is_tls), request.header(b"cookie") or ""
    for part in header[:_HEADER_MAX_CHARACTERS].split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""


def write(purpose: str, value: str, seconds: int, is_tls: bool) -> tuple[bytes, bytes]:
    """The header that sets a cookie, whose *value* is of URL-safe letters."""
    secure = "; Secure" if is_tls else ""
    text = f"{_name(purpose, is_tls)}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    return b"set-cookie", text.encode("ascii")


def drop(purpose: str, is_tls: bool) -> tuple[bytes, bytes]:
    """The header that takes a cookie away."""
    return write(purpose, "", 0, is_tls)
