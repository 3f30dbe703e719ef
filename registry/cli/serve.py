"""`hythe serve`: read the settings, open the port, say what to try, and run the workers."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import functools
import logging
import math
import os
import resource
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from registry.cli.settings import load as load_settings
from registry.config import Settings
from registry.oci.errors import ConfigurationError
from registry.server import logs, storage, wiring
from registry.server.service.administration.accounts import FIRST_ADMINISTRATOR
from registry.server.web.protocol import BoundedProtocol

_BACKLOG = 2048
_PR_SET_PDEATHSIG = 1


def serve(options: argparse.Namespace) -> int:
    """Run until a signal says to stop; returns the exit status."""
    chosen = {f"HYTHE_SERVER_{name.upper()}": getattr(options, name) for name in ("host", "port", "workers")}
    settings = load_settings(options.config, chosen)
    logs.configure(settings.logging.level, settings.logging.format)
    # Until uvicorn listens to signals there is nothing to finish, and an exception would come out wherever the
    # event loop happens to be. uvicorn raises the signal that it was stopped with again when it is done: to be
    # asked to stop is no failure.
    signal.signal(signal.SIGTERM, _end)
    _check_certificate(settings)
    # Before anything is made: the first administrator's password is shown once, and only by a server that starts.
    listening = _bind(settings)
    try:
        password = wiring.prepare(settings)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or settings.data_directory()}: {error.strerror}") from None
    with _port_faults_are_told(settings):
        listening.listen(_BACKLOG)
    _raise_open_files_limit()
    _greet(settings, listening.getsockname()[1], password)
    return _run(settings, listening)


def _check_certificate(settings: Settings) -> None:
    server = settings.server
    if server.tls_certificate:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                server.tls_certificate, server.tls_key
            )
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise ConfigurationError(
                f"server.tls_certificate and server.tls_key are not a certificate and its key in PEM: {reason}"
            ) from None


@contextlib.contextmanager
def _port_faults_are_told(settings: Settings) -> Iterator[None]:
    server = settings.server
    try:
        yield
    except socket.gaierror as error:
        raise ConfigurationError(f"server.host: {server.host!r} is no address here: {error.strerror}") from None
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EADDRINUSE:
            reason = "somebody listens there already; choose another with --port or server.port"
        raise ConfigurationError(f"cannot listen on {server.host}:{server.port}: {reason}") from None


def _end(*_: object) -> None:
    logging.shutdown()
    os._exit(0)


def _bind(settings: Settings) -> socket.socket:
    server = settings.server
    with _port_faults_are_told(settings):
        family, *_, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.set_inheritable(True)
        return bound


def _raise_open_files_limit() -> None:
    """Each connection, and each blob that is sent, is an open file; shells start programs with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _client() -> str:
    """What people here have to push and pull with."""
    return "docker" if shutil.which("docker") else "hythe"


def _greet(settings: Settings, port: int, password: str | None) -> None:
    """What somebody who has just started it wants to know."""
    server = settings.server
    scheme = "https" if server.tls_certificate else "http"
    host = _reachable(server.host)
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        f"Hythe serves {scheme}://{name}, its data are in {storage.place(settings)}",
        *_access_lines(settings, name, password),
        "Try it:",
        f"  {_client()} tag IMAGE {name}/team/IMAGE",
        f"  {_client()} push {name}/team/IMAGE",
        f"  {_client()} pull {name}/team/IMAGE",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _reachable(host: str) -> str:
    """What clients call this machine when it listens on *host*; on every address: the one that it goes out by."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return "localhost"
    if host not in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # sends nothing: the system only chooses a way
        except OSError:
            return socket.gethostname()
        return str(asking.getsockname()[0])


def _access_lines(settings: Settings, name: str, password: str | None) -> list[str]:
    if not settings.has_accounts():
        return ["It is open to everybody who can reach it: there are no accounts (accounts.enabled)."]
    if password is None:
        return [f"One has to log in: {_client()} login {name}"]
    return [
        "This is its first start with accounts. Its administrator, with a password that is shown this once:",
        f"  {_client()} login {name}",
        f"  Username: {FIRST_ADMINISTRATOR}",
        f"  Password: {password}",
        "Add people with: hythe admin user add NAME, hythe admin team add TEAM, hythe admin team join TEAM NAME",
    ]


def _run(settings: Settings, listening: socket.socket) -> int:
    server = settings.server
    uvicorn_config = uvicorn.Config(
        functools.partial(worker, settings, os.getpid() if server.workers > 1 else None),
        factory=True,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=server.workers,
        backlog=_BACKLOG,
        limit_concurrency=server.connections_max or None,
        timeout_keep_alive=math.ceil(server.keep_alive_seconds),
        timeout_graceful_shutdown=math.ceil(server.shutdown_grace_seconds),
        ssl_certfile=server.tls_certificate,
        ssl_keyfile=server.tls_key,
    )
    if server.workers > 1:
        _Workers(uvicorn_config, [listening]).run()
        return 0
    instance = uvicorn.Server(uvicorn_config)
    instance.run(sockets=[listening])
    return 0 if instance.started else 1


class _Workers(Multiprocess):
    """uvicorn's parent of several workers, which lets go of the port as soon as they do."""

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def worker(settings: Settings, parent: int | None) -> ASGIApp:
    """One worker's application; a worker whose parent dies stops too, rather than keep the port."""
    logs.configure(settings.logging.level, settings.logging.format)
    BoundedProtocol.head_seconds = settings.server.header_timeout_seconds
    BoundedProtocol.idle_seconds = settings.server.body_idle_seconds
    if parent is not None:
        _stop_with(parent)
    return wiring.build(settings)


def _stop_with(parent: int) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)
