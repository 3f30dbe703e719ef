"""The little languages of docker's options: sizes, limits, names, lists. Pure; raises OptionInvalid."""

from __future__ import annotations

import ipaddress
import re
import signal
from collections.abc import Iterable, Mapping

from registry.client.runtime.errors import ContainerConflict, OptionInvalid
from registry.client.runtime.spec import Ulimit

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?(?:[iI]?[bB])?")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_LOG_LEAST = 16384  # the monitor writes that much at once
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
