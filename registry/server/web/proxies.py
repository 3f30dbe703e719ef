"""Who the client is and how it reached us, when trusted proxies stand in between.

`X-Forwarded-*` from anybody else is ignored: it is only text that a client wrote.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import Scope

from registry.oci.errors import ConfigurationError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _header(scope: Scope, name: bytes) -> str:
    """The last header of that name: the nearest proxy wrote it."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[-1].decode("latin-1") if found else ""


def _hops(scope: Scope) -> list[str]:
    """Who passed the request on, the nearest last; some proxies add a line of their own to the header."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == b"x-forwarded-for"]
    return [_without_port(part) for part in (part.strip() for part in ",".join(lines).split(",")) if part]


def _without_port(hop: str) -> str:
    """The address alone: some proxies write `192.0.2.1:4711` or `[2001:db8::1]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    address, _, port = hop.partition(":")
    return hop if ":" in port else address


class Proxies:
    """The proxies whose word counts, as addresses or networks; `*` for all."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._all = "*" in trusted
        try:
            self._networks = [ipaddress.ip_network(text, strict=False) for text in trusted if text != "*"]
        except ValueError as error:
            raise ConfigurationError(f"server.trusted_proxies: {error}") from None
        self._trusted = lru_cache(maxsize=4096)(self._is_trusted)

    def _is_trusted(self, address: str) -> bool:
        if self._all:
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address):  # IPv4 seen through a socket that listens on "::"
            parsed = parsed.ipv4_mapped or parsed
        return any(parsed in network for network in self._networks)

    def client(self, scope: Scope) -> str:
        """The client's address: the first one, counted from us, that is no trusted proxy's."""
        peer = scope["client"][0] if scope.get("client") else "local"
        if not (self._all or self._networks) or not self._trusted(peer):
            return peer
        hops = _hops(scope)
        for hop in reversed(hops):
            if self._all or not self._trusted(hop):
                return hop[:64]
        return hops[0][:64] if hops else peer

    def base(self, scope: Scope) -> tuple[str, str]:
        """Scheme and host as the client wrote them: `("https", "registry.example.com")`."""
        scheme, host = scope["scheme"], _header(scope, b"host")
        peer = scope["client"][0] if scope.get("client") else ""
        if (self._all or self._networks) and self._trusted(peer):
            scheme = _header(scope, b"x-forwarded-proto").split(",")[-1].strip() or scheme
            host = _header(scope, b"x-forwarded-host").split(",")[-1].strip() or host
        return ("https" if scheme == "https" else "http"), host
