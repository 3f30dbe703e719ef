"""`-v`, `--mount`, `--tmpfs` and `--device`: what of the machine a container sees. Pure; raises OptionInvalid."""

from __future__ import annotations

import os
import re

from registry.client.runtime.errors import OptionInvalid
from registry.client.runtime.parse import size
from registry.client.runtime.spec import Device, Mount

_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def volume(text: str) -> Mount:
    """`-v`: `/inside`, `name:/inside`, `/outside:/inside:ro`."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise OptionInvalid(f"invalid volume specification: '{text}'")
    options = parts[2].split(",") if len(parts) == 3 else []
    target = _target(parts[1] if len(parts) > 1 else parts[0], text)
    for option in options:
        if option not in ("ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent", *_PROPAGATION):
            raise OptionInvalid(f"invalid mode: {parts[2]}")
    kept = tuple(option for option in options if option in (*_PROPAGATION, "nocopy"))
    source = parts[0] if len(parts) > 1 else ""
    if source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))
    kind = "bind" if source.startswith("/") else "volume"
    if source and kind == "volume" and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", source):
        raise OptionInvalid(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return Mount(kind, target, source, "ro" in options, kept, make_source=True)


def _target(text: str, whole: str) -> str:
    if not text.startswith("/"):
        raise OptionInvalid(f"invalid volume specification: '{whole}': mount path must be absolute")
    target = os.path.normpath(text).replace("//", "/")
    if target == "/":
        raise OptionInvalid(f"invalid volume specification: '{whole}': destination can't be '/'")
    return target


def mount(text: str) -> Mount:
    """`--mount type=bind,source=/a,target=/b,readonly`."""
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        key = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}.get(
            key.lower(), key.lower()
        )
        if not equals and key not in ("readonly", "volume-nocopy"):
            raise OptionInvalid(
                f'invalid argument "{text}" for "--mount" flag: invalid field \'{part}\' must be a key=value pair'
            )
        values[key] = value if equals else "true"
    kind = values.pop("type", "volume")
    target = values.pop("target", "")
    if kind not in ("bind", "volume", "tmpfs"):
        raise OptionInvalid(f'invalid argument "{text}" for "--mount" flag: mount type unknown: "{kind}"')
    if not target:
        raise OptionInvalid(f'invalid argument "{text}" for "--mount" flag: target is required')
    readonly = values.pop("readonly", "false").lower() in ("true", "1")
    options: list[str] = []
    if kind == "tmpfs":
        options = _tmpfs_options(values)
    elif "bind-propagation" in values:
        options = [values.pop("bind-propagation")]
    elif values.pop("volume-nocopy", "") == "true":
        options = ["nocopy"]
    source = values.pop("source", "")
    if kind == "bind" and not source.startswith("/"):
        raise OptionInvalid(
            f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
        )
    if values:
        raise OptionInvalid(
            f"invalid argument \"{text}\" for \"--mount\" flag: unexpected key '{min(values)}' in '{text}'"
        )
    return Mount(kind, _target(target, text), source, readonly, tuple(options))


def _tmpfs_options(values: dict[str, str]) -> list[str]:
    found = []
    if "tmpfs-size" in values:
        found.append(f"size={size(values.pop('tmpfs-size'))}")
    if "tmpfs-mode" in values:
        found.append(f"mode={values.pop('tmpfs-mode')}")
    return found


def tmpfs(text: str) -> Mount:
    """`--tmpfs /run:rw,size=64m,exec`."""
    target, _, options = text.partition(":")
    words = [word for word in options.split(",") if word]
    return Mount(
        "tmpfs", _target(target, text), "", "ro" in words, tuple(w for w in words if w not in ("ro", "rw"))
    )


def device(text: str) -> Device:
    """`/dev/fuse`, `/dev/sda:/dev/xvda:r`."""
    parts = text.split(":")
    access = parts.pop() if len(parts) > 1 and re.fullmatch("[rwm]+", parts[-1]) else "rwm"
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise OptionInvalid(f"invalid device specification: {text}")
    return Device(parts[0], parts[-1], access)
