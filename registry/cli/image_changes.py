"""`--change` of `import` and `commit`: an instruction of a Dockerfile, for an image's configuration."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import Any

from registry.oci.errors import HytheError

_LISTS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint", "ONBUILD": "OnBuild"}
_TEXTS = {"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}
_SETS = {"EXPOSE": "ExposedPorts", "VOLUME": "Volumes"}


def apply(config: dict[str, Any], text: str) -> None:
    """Change an image's configuration by one instruction. Raises HytheError."""
    word, _, rest = text.strip().partition(" ")
    word, rest = word.upper(), rest.strip()
    if not rest:
        raise HytheError(f"{text!r} is no change: {word} takes a value")
    if word in _LISTS:
        config[_LISTS[word]] = _words(rest)
    elif word in _TEXTS:
        config[_TEXTS[word]] = rest
    elif word in _SETS:
        values = json.loads(rest) if rest.startswith("[") else rest.split()
        suffix = "/tcp" if word == "EXPOSE" else ""
        named: dict[str, dict[str, str]] = {each if "/" in each else each + suffix: {} for each in values}
        config[_SETS[word]] = {**(config.get(_SETS[word]) or {}), **named}
    elif word == "ENV":
        given = _pairs(rest)
        others = [each for each in config.get("Env") or () if each.partition("=")[0] not in given]
        config["Env"] = [*others, *(f"{key}={value}" for key, value in given.items())]
    elif word == "LABEL":
        config["Labels"] = {**(config.get("Labels") or {}), **_pairs(rest)}
    else:
        raise HytheError(f"{word} is not a valid change command")


def _pairs(rest: str) -> dict[str, str]:
    """`A=1 B="two words"`, or `A all of the rest`."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise HytheError(f"{rest}: {error}") from None
    if "=" not in words[0]:
        key, _, value = rest.partition(" ")
        return {key: value.strip()}
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def _words(rest: str) -> list[str]:
    if rest.startswith("["):
        with contextlib.suppress(ValueError):
            found = json.loads(rest)
            if isinstance(found, list) and all(isinstance(each, str) for each in found):
                return found
    return ["/bin/sh", "-c", rest]
