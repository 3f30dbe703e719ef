"""`hythe serve`: read the settings, open the port, say what to try, and run the workers."""

from __future__ import annotations

import argparse
import ctypes
import errno
import functools
import math
import os
import signal
import socket
import sys

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from registry.cli.settings import load as load_settings
from registry.config import Settings
from registry.oci.errors import ConfigurationError
from registry.server import logs, wiring
from registry.server.service.accounts import FIRST_ADMINISTRATOR
from registry.server.web.protocol import BoundedProtocol

_BACKLOG = 2048
_PR_SET_PDEATHSIG = 1


def serve(options: argparse.Namespace) -> int:
    """Run until a signal says to stop; returns the exit status."""
    chosen = {f"HYTHE_SERVER_{name.upper()}": getattr(options, name) for name in ("host", "port", "workers")}
    settings = load_settings(options.config, chosen)
    logs.configure(settings.logging.level, settings.logging.format)
    try:
        password = wiring.prepare(settings)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or settings.data_directory()}: {error.strerror}") from None
    listening = _listen(settings)
    _greet(settings, listening.getsockname()[1], password)
    return _run(settings, listening)


def _listen(settings: Settings) -> socket.socket:
    server = settings.server
    try:
        family, *_, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except socket.gaierror as error:
        raise ConfigurationError(f"server.host: {server.host!r} is no address here: {error.strerror}") from None
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EADDRINUSE:
            reason = "somebody listens there already; choose another with --port or server.port"
        raise ConfigurationError(f"cannot listen on {server.host}:{server.port}: {reason}") from None
    listening.listen(_BACKLOG)
    listening.set_inheritable(True)
    return listening


def _greet(settings: Settings, port: int, password: str | None) -> None:
    """What somebody who has just started it wants to know."""
    server = settings.server
    scheme = "https" if server.tls_certificate else "http"
    host = "localhost" if server.host in ("127.0.0.1", "::1", "localhost") else server.host
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        f"Hythe serves {scheme}://{name}, its data are in {settings.data_directory()}",
        *_access_lines(settings, name, password),
        "Try it:",
        f"  docker tag IMAGE {name}/team/IMAGE",
        f"  docker push {name}/team/IMAGE",
        f"  docker pull {name}/team/IMAGE",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _access_lines(settings: Settings, name: str, password: str | None) -> list[str]:
    if not settings.has_accounts():
        return ["It is open to everybody who can reach it: there are no accounts (accounts.enabled)."]
    if password is None:
        return [f"One has to log in: docker login {name}"]
    return [
        "This is its first start with accounts. Its administrator, with a password that is shown this once:",
        f"  docker login {name}",
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
        Multiprocess(uvicorn_config, [listening]).run()
        return 0
    # uvicorn, once it has stopped, raises the signal that it was stopped with again.
    signal.signal(signal.SIGTERM, lambda *_: None)
    instance = uvicorn.Server(uvicorn_config)
    instance.run(sockets=[listening])
    return 0 if instance.started else 1


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
