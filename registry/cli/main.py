"""The command `hythe`: finds the verb, runs it, and turns its errors into a sentence and an exit status.

A verb's module is imported only when it is asked for: start-up time is imports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from registry import __version__
from registry.oci.errors import HytheError

EXIT_FAILURE = 1
EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="hythe", description="A private container registry, and its client.")
    top.add_argument("-v", "--version", action="version", version=f"hythe {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND")
    serve = verbs.add_parser("serve", help="run the registry", description="Run the registry.")
    serve.add_argument("--config", metavar="FILE", help="settings (YAML); see config.example.yaml")
    serve.add_argument("--host", help="address to listen on (server.host)")
    serve.add_argument("--port", type=int, help="port to listen on (server.port)")
    serve.add_argument("--workers", type=int, metavar="N", help="processes (server.workers)")
    # Its verbs are in cli/admin.py, which is imported only for them.
    verbs.add_parser("admin", help="accounts, tokens, rights and the audit log", add_help=False)
    return top


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
    except HytheError as error:
        print(f"hythe: {error}", file=sys.stderr)
        status = EXIT_FAILURE
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["admin"]:
        from registry.cli import admin

        return admin.run(words[1:])
    options = parser().parse_args(words)
    if options.verb is None:
        parser().print_help()
        return EXIT_USAGE
    from registry.cli import serve

    return serve.serve(options)
