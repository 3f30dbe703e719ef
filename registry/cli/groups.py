"""docker's other spelling: `hythe image ls` for `hythe images`. Only the module of the verb is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

_IMAGE = {
    "ls": "images:run",
    "list": "images:run",
    "rm": "names:remove",
    "remove": "names:remove",
    "prune": "prune:images",
    "tag": "names:tag",
    "pull": "pull:run",
    "push": "push:run",
    "inspect": "inspect:run",
    "history": "inspect:history",
    "save": "archives:save",
    "load": "archives:load",
    "import": "archives:import_",
}
_CONTAINER = {
    "attach": "starting:attach",
    "commit": "commit:run",
    "cp": "container_files:copy",
    "create": "run:create",
    "diff": "container_files:diff",
    "exec": "exec:run",
    "export": "container_files:export",
    "inspect": "inspect_any:container",
    "kill": "control:kill",
    "list": "ps:run",
    "logs": "logs:run",
    "ls": "ps:run",
    "pause": "control:pause",
    "port": "looking:port",
    "prune": "prune:containers",
    "ps": "ps:run",
    "remove": "control:remove",
    "rename": "control:rename",
    "restart": "control:restart",
    "rm": "control:remove",
    "run": "run:run",
    "start": "starting:start",
    "stats": "looking:stats",
    "stop": "control:stop",
    "tidy": "called:tidy",
    "top": "looking:top",
    "unpause": "control:unpause",
    "update": "update:run",
    "wait": "control:wait",
    "watch": "called:watch",
}
_VOLUME = {name: f"volume:{name}" for name in ("create", "inspect", "ls", "rm")} | {
    "list": "volume:ls",
    "prune": "prune:volumes",
}
_NETWORK = {name: f"network:{name}" for name in ("create", "inspect", "ls", "rm")} | {
    "connect": "connecting:connect",
    "disconnect": "connecting:disconnect",
    "list": "network:ls",
    "prune": "prune:networks",
}
_SYSTEM = {"df": "usage:run", "events": "events:run", "info": "doctor:info", "prune": "prune:system"}


def image(words: Sequence[str]) -> int:
    """`hythe image COMMAND`."""
    return _run("image", _IMAGE, words)


def container(words: Sequence[str]) -> int:
    """`hythe container COMMAND`."""
    return _run("container", _CONTAINER, words)


def volume(words: Sequence[str]) -> int:
    """`hythe volume COMMAND`."""
    return _run("volume", _VOLUME, words)


def network(words: Sequence[str]) -> int:
    """`hythe network COMMAND`."""
    return _run("network", _NETWORK, words)


def cp(words: Sequence[str]) -> int:
    """`hythe cp`: files when a word is CONTAINER:/PATH, else an image."""
    from registry.cli import container_files

    if any(container_files.is_container_path(word) for word in words):
        return container_files.copy(words)
    from registry.cli import cp as images

    return images.run(words)


def system(words: Sequence[str]) -> int:
    """`hythe system COMMAND`."""
    return _run("system", _SYSTEM, words)


def _run(group: str, verbs: dict[str, str], words: Sequence[str]) -> int:
    found = verbs.get(words[0]) if words else None
    if found is None:
        if words and not words[0].startswith("-"):
            from registry.cli.command import unknown

            unknown(f"hythe {group}", words[0], verbs)
            return 2
        print(f"Usage:  hythe {group} COMMAND\n\nCommands:\n  " + "\n  ".join(sorted(verbs)))
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    module, _, function = found.partition(":")
    verb: Callable[[Sequence[str]], int] = getattr(import_module(f"registry.cli.{module}"), function)
    return verb(words[1:])
