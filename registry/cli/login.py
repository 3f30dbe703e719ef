"""`hythe login` and `hythe logout`: docker's words, and docker's file, so that one login is enough for both."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence

from registry.cli import command, output
from registry.oci.errors import HytheError, Unauthorized
from registry.oci.reference import DOCKER_HUB
from registry.transfer.bearer import Credentials
from registry.transfer.credentials import usual_file
from registry.transfer.hosts import is_host

_HUB_NAMES = ("index.docker.io", "registry-1.docker.io", "hub.docker.com", DOCKER_HUB)


def login(arguments: Sequence[str]) -> int:
    """Log in to a registry; what is stored is what docker stores."""
    options = _login_parser().parse_args(arguments)
    return command.execute(_login(options))


def _login_parser() -> argparse.ArgumentParser:
    top = command.parser("login", "Log in to a registry.", "[OPTIONS] [SERVER]")
    top.add_argument(
        "server", nargs="?", default="", metavar="SERVER", help="host[:port]; the default registry else"
    )
    top.add_argument("-u", "--username", default="")
    top.add_argument("-p", "--password", default=None)
    top.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    return top


async def _login(options: argparse.Namespace) -> int:
    from registry.cli import reach
    from registry.transfer.login import log_in

    _check(options)
    file = usual_file(os.environ)
    async with reach.make() as way:
        name = server_of(options.server) or way.registries.default_host
        host = way.registry(name)
        known = None if options.username or options.password is not None else file.get(name)
        if known is not None:
            print("Authenticating with existing credentials...")
            try:
                await log_in(host, known)
            except Unauthorized as error:
                output.note(f"Login did not succeed, error: {error}")
            else:
                print("Login Succeeded")
                return 0
        kept = await log_in(host, _ask(options, known.username if known else ""))
    if not file.store(name, kept):
        output.note(
            f"WARNING! Your password will be stored unencrypted in {file.path}.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n"
        )
    print("Login Succeeded")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.password is not None:
        output.note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
        if options.password_stdin:
            raise HytheError("--password and --password-stdin are mutually exclusive")
    if options.password_stdin and not options.username:
        raise HytheError("Must provide --username with --password-stdin")


def _ask(options: argparse.Namespace, usual_name: str) -> Credentials:
    """A name and a password, from the options, standard input or the keyboard."""
    try:
        if options.password_stdin:
            password = sys.stdin.read().rstrip("\r\n")
        elif options.username and options.password is not None:
            password = options.password
        elif not sys.stdin.isatty():
            raise HytheError("Cannot perform an interactive login from a non TTY device; use --password-stdin")
        else:
            usual = f" ({usual_name})" if usual_name else ""
            options.username = options.username or input(f"Username{usual}: ").strip() or usual_name
            password = getpass.getpass("Password: ") if options.password is None else options.password
    except EOFError:
        raise HytheError("no name or password was given") from None
    except UnicodeDecodeError:
        raise HytheError("the password is not UTF-8") from None
    if not options.username:
        raise HytheError("Error: Non-null Username Required")
    if not password:
        raise HytheError("Error: Password Required")
    return Credentials(options.username, password)


def logout(arguments: Sequence[str]) -> int:
    """Forget the credentials of a registry."""
    top = command.parser("logout", "Log out from a registry.", "[SERVER]")
    top.add_argument(
        "server", nargs="?", default="", metavar="SERVER", help="host[:port]; the default registry else"
    )
    options = top.parse_args(arguments)
    name = server_of(options.server)
    if not name:
        from registry.cli import reach

        name = reach.registries(os.environ).default_host
    file = usual_file(os.environ)
    known = file.erase(name)
    print(f"Removing login credentials for {name}" if known else f"Not logged in to {name}")
    if (other := file.elsewhere(name)) is not None:
        output.note(f"{other} still has credentials for {name}, which are used: podman logout {name} removes them")
    return 0


def server_of(text: str) -> str:
    """A registry's host as people write it, perhaps as an address. Raises HytheError."""
    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if text and not is_host(host):
        raise HytheError(f"{text[:200]!r} is no registry: HOST or HOST:PORT is")
    return DOCKER_HUB if host in _HUB_NAMES else host
