"""The little languages of docker's options: sizes, ports, mounts, limits. Pure; raises OptionInvalid."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
from collections.abc import Iterable, Mapping

from registry.client.runtime.errors import ContainerConflict, OptionInvalid
from registry.client.runtime.spec import Device, Mount, Port, Ulimit

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?(?:[iI]?[bB])?")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_LOG_LEAST = 16384  # the monitor writes that much at once
_PROTOCOLS = ("tcp", "udp", "sctp")
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_RESTART = ("no", "on-failure", "always", "unless-stopped")
_ULIMITS = "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"


def name(text: str) -> str:
    """A container's name. Raises ContainerConflict."""
    if not _NAME.fullmatch(text):
        raise ContainerConflict(f"Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return text.removeprefix("/")


def size(text: str) -> int:
    """`64m` in bytes, of 1024 each; `-1` is no limit."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionInvalid(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** _UNITS[(match[2] or "").lower()])


def log_bytes(options: Mapping[str, str]) -> int:
    """How long a log may become by `max-size` and `max-file`: there is one file, as long as all of those."""
    for name in options:
        if name not in ("max-size", "max-file"):
            raise OptionInvalid(
                f"unknown log opt '{name}' for json-file log driver: there are max-size and max-file"
            )
    files = options.get("max-file", "1")
    if not files.isdigit() or int(files) < 1:
        raise OptionInvalid("max-file cannot be less than 1")
    found = size(options["max-size"]) if options.get("max-size", "-1") != "-1" else 0
    if 0 < found < _LOG_LEAST:
        raise OptionInvalid(f"max-size of a log is {_LOG_LEAST} at least")
    return found * int(files)


def cpus(text: str) -> int:
    """`1.5` in billionths of a processor."""
    try:
        value = float(text)
    except ValueError:
        raise OptionInvalid(
            f'invalid argument "{text}" for "--cpus" flag: failed to parse {text} as a rational number'
        ) from None
    if value < 0:
        raise OptionInvalid(f"invalid number of CPUs: {text}")
    return round(value * 10**9)


def signal_number(text: str) -> int:
    """`TERM`, `SIGTERM` or `15`."""
    if text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    word = text.upper()
    word = word if word.startswith("SIG") else f"SIG{word}"
    match = re.fullmatch(r"SIGRT(MIN|MAX)([+-]\d+)?", word)
    if match:
        base = signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX
        return int(base) + int(match[2] or 0)
    found = getattr(signal.Signals, word, None) if word in signal.Signals.__members__ else None
    if found is None:
        raise OptionInvalid(f"Invalid signal: {text}")
    return int(found)


# --- ports


def port(text: str) -> tuple[Port, ...]:
    """`80`, `8080:80`, `127.0.0.1:8080:80/udp`, `127.0.0.1::80`, `[::1]:8000-8009:80-89`."""
    rest, slash, protocol = text.partition("/")
    protocol = (protocol if slash else "tcp").lower()
    if protocol not in _PROTOCOLS:
        raise OptionInvalid(f"invalid proto: {protocol}")
    address = ""
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]:")
    parts = rest.split(":")
    if len(parts) > 3 or (address and len(parts) > 2):
        raise OptionInvalid(f"invalid publish value {text}: HOST:HOSTPORT:CONTAINERPORT is the longest form")
    if len(parts) == 3:
        address = parts.pop(0)
    _check_address(address)
    inside = _range(parts[-1], text)
    outside = _range(parts[0], text) if len(parts) == 2 and parts[0] else None
    if outside is None:
        return tuple(Port(each, protocol, address, 0) for each in inside)
    if len(outside) != len(inside):
        if len(inside) != 1:
            raise OptionInvalid(
                f"Invalid ranges specified for container and host Ports: {parts[-1]} and {parts[0]}"
            )
        outside = outside[:1]
    return tuple(Port(a, protocol, address, b) for a, b in zip(inside, outside, strict=True))


def exposed(text: str) -> tuple[str, ...]:
    """`80`, `8000-8005/udp` as `80/tcp`, …"""
    rest, _, protocol = text.partition("/")
    return tuple(f"{each}/{protocol or 'tcp'}" for each in _range(rest, text))


def _check_address(address: str) -> None:
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise OptionInvalid(f"Invalid ip address: {address}") from None


def _range(text: str, whole: str) -> range:
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise OptionInvalid(f"Invalid containerPort: {text}" if text else f"No port specified: {whole}<empty>")
    low, high = int(first), int(last or first)
    if not 0 < low <= high <= 65535:
        raise OptionInvalid(f"Invalid containerPort: {text}")
    return range(low, high + 1)


# --- mounts


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


# --- the rest


def ulimit(text: str) -> Ulimit:
    """`nofile=1024:2048`."""
    word, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    if word not in _ULIMITS.split():
        raise OptionInvalid(f'invalid argument "{text}" for "--ulimit" flag: invalid ulimit type: {word}')
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise OptionInvalid(
            f'invalid argument "{text}" for "--ulimit" flag: invalid ulimit argument: {text}'
        ) from None
    if low > high >= 0:
        raise OptionInvalid(f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}")
    return Ulimit(word, low, high)


def restart(text: str) -> tuple[str, int]:
    """`on-failure:3`: the policy, and how often at most; 0 is as often as needed."""
    policy, colon, count = text.partition(":")
    if policy not in _RESTART:
        raise OptionInvalid(f"invalid restart policy: unknown policy '{policy}'; use one of {', '.join(_RESTART)}")
    if colon and policy != "on-failure":
        raise OptionInvalid(
            f"invalid restart policy: maximum retry count cannot be used with restart policy '{policy}'"
        )
    if colon and not count.isdigit():
        raise OptionInvalid("invalid restart policy: maximum retry count must be an integer")
    return policy, int(count or 0)


def environment(texts: Iterable[str], files: Iterable[str], given: Mapping[str, str]) -> list[str]:
    """`NAME=value`, or `NAME` for the caller's own; files first. A name that the caller has not is left out."""
    found: list[str] = []
    for path in files:
        found += _with_own(_file_lines(path), given)
    return found + _with_own(texts, given)


def _with_own(texts: Iterable[str], given: Mapping[str, str]) -> list[str]:
    found = []
    for text in texts:
        word, equals, _ = text.partition("=")
        if not word:
            raise OptionInvalid(f"invalid environment variable: {text}")
        if equals:
            found.append(text)
        elif word in given:
            found.append(f"{word}={given[word]}")
    return found


def labels(texts: Iterable[str], files: Iterable[str] = ()) -> dict[str, str]:
    """`key=value` or `key`."""
    found = {}
    for text in (*(line for path in files for line in _file_lines(path)), *texts):
        key, _, value = text.partition("=")
        found[key] = value
    return found


def _file_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise OptionInvalid(f"open {path}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise OptionInvalid(f"{path}: not UTF-8 text") from None
    kept = [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for line in kept:
        if any(character.isspace() for character in line.partition("=")[0]):
            raise OptionInvalid(
                f"poorly formatted environment: variable '{line.partition('=')[0]}' contains whitespaces"
            )
    return kept


def host(text: str) -> str:
    """`--add-host name:address`."""
    word, separator, address = text.partition(":") if ":" in text else text.partition("=")
    address = address.strip("[]")
    if not separator or not word:
        raise OptionInvalid(f'invalid argument "{text}" for "--add-host" flag: bad format for add-host: "{text}"')
    if address != "host-gateway":
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise OptionInvalid(
                f'invalid argument "{text}" for "--add-host" flag: invalid IP address in add-host: "{address}"'
            ) from None
    return f"{word}:{address}"
