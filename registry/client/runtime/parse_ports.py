"""`-p` and `--expose`: ports and ranges of them. Pure; raises OptionInvalid."""

from __future__ import annotations

import ipaddress

from registry.client.runtime.errors import OptionInvalid
from registry.client.runtime.spec import Port

_PROTOCOLS = ("tcp", "udp", "sctp")


def port(text: str) -> tuple[Port, ...]:
    """`80`, `8080:80`, `127.0.0.1:8080:80/udp`, `127.0.0.1::80`, `[::1]:8000-8009:80-89`."""
    rest, slash, protocol = text.partition("/")
    protocol = (protocol if slash else "tcp").lower()
    if protocol not in _PROTOCOLS:
        raise OptionInvalid(f"invalid proto: {protocol}")
    address = ""
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]:")
    parts = rest.split(":")
    if len(parts) > 3 or (address and len(parts) > 2):
        raise OptionInvalid(f"invalid publish value {text}: HOST:HOSTPORT:CONTAINERPORT is the longest form")
    if len(parts) == 3:
        address = parts.pop(0)
    _check_address(address)
    inside = _range(parts[-1], text)
    outside = _range(parts[0], text) if len(parts) == 2 and parts[0] else None
    if outside is None:
        return tuple(Port(each, protocol, address, 0) for each in inside)
    if len(outside) != len(inside):
        if len(inside) != 1:
            raise OptionInvalid(
                f"Invalid ranges specified for container and host Ports: {parts[-1]} and {parts[0]}"
            )
        outside = outside[:1]
    return tuple(Port(a, protocol, address, b) for a, b in zip(inside, outside, strict=True))


def exposed(text: str) -> tuple[str, ...]:
    """`80`, `8000-8005/udp` as `80/tcp`, …"""
    rest, _, protocol = text.partition("/")
    return tuple(f"{each}/{protocol or 'tcp'}" for each in _range(rest, text))


def _check_address(address: str) -> None:
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise OptionInvalid(f"Invalid ip address: {address}") from None


def _range(text: str, whole: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise OptionInvalid(f"Invalid containerPort: {text}" if text else f"No port specified: {whole}<empty>")
    low, high = int(first), int(last or first)
    if not 0 < low <= high <= 65535:
        raise OptionInvalid(f"Invalid containerPort: {text}")
    return range(low, high + 1)
