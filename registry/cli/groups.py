"""docker's other spelling: `hythe image ls` for `hythe images`. Only the module of the verb is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

_IMAGE = {
    "ls": "images:run",
    "list": "images:run",
    "rm": "names:remove",
    "remove": "names:remove",
    "prune": "names:prune",
    "tag": "names:tag",
    "pull": "pull:run",
    "push": "push:run",
    "inspect": "inspect:run",
    "history": "inspect:history",
    "save": "archives:save",
    "load": "archives:load",
    "import": "archives:import_",
}
_SYSTEM = {"df": "usage:run"}


def image(words: Sequence[str]) -> int:
    """`hythe image COMMAND`."""
    return _run("image", _IMAGE, words)


def system(words: Sequence[str]) -> int:
    """`hythe system COMMAND`."""
    return _run("system", _SYSTEM, words)


def _run(group: str, verbs: dict[str, str], words: Sequence[str]) -> int:
    found = verbs.get(words[0]) if words else None
    if found is None:
        print(f"Usage:  hythe {group} COMMAND\n\nCommands:\n  " + "\n  ".join(sorted(verbs)))
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    module, _, function = found.partition(":")
    verb: Callable[[Sequence[str]], int] = getattr(import_module(f"registry.cli.{module}"), function)
    return verb(words[1:])
