"""The command `hythe`: finds the verb, runs it, and turns its errors into a sentence and an exit status.

A verb's module is imported only when it is asked for: start-up time is imports.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from registry import __version__
from registry.oci.errors import HytheError

if TYPE_CHECKING:
    import argparse

EXIT_FAILURE = 1
EXIT_USAGE = 2

# Verb: the function that runs it, given the words after the verb, and what the help says.
VERBS: dict[str, tuple[str, str]] = {
    "admin": ("registry.cli.admin:run", "accounts, tokens, rights and the audit log"),
    "login": ("registry.cli.login:login", "log in to a registry"),
    "logout": ("registry.cli.login:logout", "log out from a registry"),
    "pull": ("registry.cli.pull:run", "pull an image from a registry"),
    "push": ("registry.cli.push:run", "push an image to a registry"),
    "images": ("registry.cli.images:run", "list images"),
    "tag": ("registry.cli.names:tag", "give an image one more name"),
    "rmi": ("registry.cli.names:remove", "remove images"),
    "inspect": ("registry.cli.inspect_any:run", "show an image, container, volume or network in detail"),
    "history": ("registry.cli.inspect:history", "show the steps that made an image"),
    "save": ("registry.cli.archives:save", "write images to an archive"),
    "load": ("registry.cli.archives:load", "read images from an archive"),
    "import": ("registry.cli.archives:import_", "make an image of a root file system"),
    "df": ("registry.cli.usage:run", "show what takes space"),
    "run": ("registry.cli.run:run", "create and run a container from an image"),
    "create": ("registry.cli.run:create", "create a container"),
    "start": ("registry.cli.starting:start", "start containers"),
    "stop": ("registry.cli.control:stop", "stop containers"),
    "restart": ("registry.cli.control:restart", "stop and start containers"),
    "kill": ("registry.cli.control:kill", "send a signal to containers"),
    "pause": ("registry.cli.control:pause", "freeze containers"),
    "unpause": ("registry.cli.control:unpause", "let frozen containers go on"),
    "wait": ("registry.cli.control:wait", "wait until containers end, and print their exit codes"),
    "attach": ("registry.cli.starting:attach", "join a running container's input and output"),
    "rename": ("registry.cli.control:rename", "rename a container"),
    "rm": ("registry.cli.control:remove", "remove containers"),
    "update": ("registry.cli.update:run", "change the limits and restart policy of containers"),
    "ps": ("registry.cli.ps:run", "list containers"),
    "logs": ("registry.cli.logs:run", "show what a container has said"),
    "exec": ("registry.cli.exec:run", "run a command in a running container"),
    "top": ("registry.cli.looking:top", "show the processes of a container"),
    "stats": ("registry.cli.looking:stats", "show what containers take of the machine"),
    "port": ("registry.cli.looking:port", "list published ports"),
    "events": ("registry.cli.events:run", "show what happens to containers, images, networks and volumes"),
    "commit": ("registry.cli.commit:run", "make an image of a container"),
    "diff": ("registry.cli.container_files:diff", "show what a container changed"),
    "export": ("registry.cli.container_files:export", "write a container's files as an archive"),
    "generate-unit": ("registry.cli.unit:run", "print a systemd unit for restart policies after a boot"),
    "volume": ("registry.cli.groups:volume", "volumes: create, ls, inspect, rm, prune"),
    "network": ("registry.cli.groups:network", "networks: create, ls, inspect, rm, prune, connect, disconnect"),
    "info": ("registry.cli.doctor:info", "show what containers run with here"),
    "version": ("registry.cli.version:run", "show the version of this program"),
    "doctor": ("registry.cli.doctor:doctor", "check this machine, and say how to mend it"),
    "container": ("registry.cli.groups:container", "docker's other spelling: container ls, container prune, …"),
    "image": ("registry.cli.groups:image", "docker's other spelling: image ls, image rm, image prune, …"),
    "system": ("registry.cli.groups:system", "docker's other spelling: system df, system prune, system info"),
    "cp": ("registry.cli.groups:cp", "copy an image between registries, or files of a container"),
    "tags": ("registry.cli.lists:tags", "list the tags of a repository"),
    "catalog": ("registry.cli.lists:catalog", "list the repositories of a registry"),
    "search": ("registry.cli.search:run", "search a registry for repositories"),
    "manifest": ("registry.cli.manifest:run", "show what a registry has under a name"),
}


# What people type who know it by another name.
_MEANT = {
    "list": "images", "ls": "images", "remove": "rmi", "copy": "cp", "upload": "push", "download": "pull",
    "prune": "system prune", "server": "serve", "user": "admin user",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The whole command line; the words after most verbs are read in the verbs' own modules."""
    import argparse

    top = argparse.ArgumentParser(prog="hythe", description="A private container registry, and its client.")
    top.add_argument("-v", "--version", action="version", version=f"hythe {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND")
    serve = verbs.add_parser("serve", help="run the registry", description="Run the registry.")
    serve.add_argument("--config", metavar="FILE", help="settings (YAML); see config.example.yaml")
    serve.add_argument("--host", help="address to listen on (server.host)")
    serve.add_argument("--port", type=int, help="port to listen on (server.port)")
    serve.add_argument("--workers", type=int, metavar="N", help="processes (server.workers)")
    for name, (_, help_text) in VERBS.items():
        verbs.add_parser(name, help=help_text, add_help=False)
    return top


def main() -> NoReturn:
    """`run`, for a process that is nothing else: taking the interpreter down in order would cost 10 ms.

    Whatever matters is written by then; threads that nobody waited for end in the usual way.
    """
    try:
        run()
    except SystemExit as end:
        threading = sys.modules.get("threading")  # no verb has threads without it
        if not isinstance(end.code, int) or (threading is not None and threading.active_count() > 1):
            raise
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code)
    raise AssertionError("run exits")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except HytheError as error:
        _flush()  # what was said before it stands before it
        print(f"hythe: {error}", file=sys.stderr)
        status = EXIT_FAILURE
    except KeyboardInterrupt:
        status = 130
    except OSError as error:  # where it prints to, if nothing else said what it is
        _stop_printing()
        status = EXIT_FAILURE
        if not isinstance(error, BrokenPipeError):  # whoever reads has enough
            print(f"hythe: {error.strerror or error}", file=sys.stderr)
    sys.exit(status)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _stop_printing()


def _stop_printing() -> None:
    """Let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unknown(word: str) -> int:
    from registry.cli.command import unknown

    unknown("hythe", word, ("serve", *VERBS), _MEANT)
    return EXIT_USAGE


def _verb(module: str, function: str) -> Callable[[Sequence[str]], int]:
    """A verb's function. What imports make is not garbage: to look for some meanwhile costs 5 ms."""
    gc.disable()
    try:
        verb: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    finally:
        gc.enable()
    return verb


def _run(words: Sequence[str]) -> int:
    if words[:1] and words[0] in VERBS:
        module, _, function = VERBS[words[0]][0].partition(":")
        return _verb(module, function)(words[1:])
    if words[:1] and not words[0].startswith("-") and words[0] != "serve":
        if words[0] != "help":
            return _unknown(words[0])
        words = ["--help"]
    options = parser().parse_args(words)
    if options.verb is None:
        parser().print_help()
        return EXIT_USAGE
    from registry.cli import serve

    return serve.serve(options)
