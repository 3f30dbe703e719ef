"""What aiohttp and the system raise when a network fails, in sentences that say what to do."""

from __future__ import annotations

import contextlib
import errno
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

from registry.transfer.errors import Cut, SpeaksPlainHttp, Unreachable

if TYPE_CHECKING:
    import aiohttp


@contextlib.contextmanager
def told(place: str) -> Iterator[None]:
    """Turn failures of the network into our errors; *place* is the host that was asked."""
    import aiohttp

    try:
        yield
    except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
        raise _proxy_failure(place, error) from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
        raise _no_connection(place, error) from None
    except (aiohttp.ServerTimeoutError, TimeoutError):
        raise Cut(f"{place}: nothing came for too long") from None
    except (aiohttp.ClientError, ConnectionError, ssl.SSLError) as error:
        raise Cut(f"{place}: the connection broke off ({type(error).__name__})") from None


def _proxy_failure(
    place: str, error: aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError
) -> Unreachable:
    import aiohttp

    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unreachable(f"{place}: the proxy refused to connect: {error.status} {error.message}")
    return Unreachable(f"{place}: the proxy {error.host}:{error.port} cannot be reached")


def _no_connection(place: str, error: Exception) -> Unreachable:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unreachable(f"{place}: no such host; check the name, and the network")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(_not_trusted(place, error.certificate_error))
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _tls_failure(place, error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"{place}: no connection in time; check the name, the port and the firewall")
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return Unreachable(f"{place}: connection refused; does the registry run, and is the port right?")
    return Unreachable(f"{place}: cannot be reached: {getattr(error, 'strerror', None) or error}")


def _not_trusted(place: str, error: Exception) -> str:
    why = getattr(error, "verify_message", "") or str(error)
    return (
        f"{place}: its certificate is not trusted: {why}; "
        f"its authority's certificate belongs into /etc/docker/certs.d/{place}/ca.crt"
    )


def _tls_failure(place: str, error: aiohttp.ClientConnectorSSLError) -> Unreachable:
    reason = getattr(error.os_error, "reason", None) or str(error.os_error)
    # What OpenSSL says when the other side's first bytes are no TLS record, as the H of HTTP is not.
    if any(mark in reason for mark in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER")):
        return SpeaksPlainHttp(
            f"{place}: server gave HTTP response to HTTPS client; "
            "if it is meant to speak plain HTTP, list it under insecure_registries of Hythe's client.yaml"
        )
    return Unreachable(f"{place}: TLS failed: {reason}")
