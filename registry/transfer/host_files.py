"""What other programs' files say of registries: docker's daemon.json, containerd's hosts.toml, registries.conf v2.

Text in, values out. Where one of them says what cannot be used, the error names the file. Sources: docker's
"dockerd" reference; containerd, docs/hosts.md; containers/image, containers-registries.conf(5).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from registry.oci.errors import ConfigurationError
from registry.oci.reference import DOCKER_HUB
from registry.transfer.hosts import Endpoint, HostFile, Mirror, Rule, Uses, is_host
from registry.transfer.http import SYSTEM_TRUST, Trust

_USES = ("all", "digest-only", "tag-only")


@dataclass(frozen=True, slots=True)
class Said:
    """What one file says."""

    rules: tuple[Rule, ...] = ()
    insecure: tuple[str, ...] = ()


def read_daemon_json(text: str, path: str) -> Said:
    """Docker's `registry-mirrors`, which are the Hub's, and `insecure-registries`."""
    try:
        document = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not JSON: {error}") from None
    found = _table(document, path, "the file")
    mirrors = tuple(Mirror.parse(each) for each in _texts(found, "registry-mirrors", path))
    rules = (Rule(DOCKER_HUB, mirrors=mirrors),) if mirrors else ()
    return Said(rules, _texts(found, "insecure-registries", path))


def read_registries_conf(text: str, path: str) -> Said:
    """The `[[registry]]` tables of a registries.conf of version 2; what is about short names is left out."""
    document = _toml(text, path)
    rules = [_rule(_table(each, path, "registry"), path) for each in _list(document, "registry", path)]
    return Said(tuple(rules))


def _rule(table: Mapping[str, Any], path: str) -> Rule:
    location = _text(table, "location", path)
    prefix = _text(table, "prefix", path) or location
    if not prefix or (prefix.startswith("*.") and not prefix[2:]):
        raise ConfigurationError(f"{path}: a registry without location or prefix")
    by_digest = _flag(table, "mirror-by-digest-only", path)
    mirrors = [_mirror(_table(each, path, "mirror"), by_digest, path) for each in _list(table, "mirror", path)]
    return Rule(
        prefix.rstrip("/"),
        _location(location, path) if location and location != prefix else "",
        _flag(table, "insecure", path),
        _flag(table, "blocked", path),
        tuple(mirrors),
    )


def _mirror(table: Mapping[str, Any], by_digest: bool, path: str) -> Mirror:
    uses = _text(table, "pull-from-mirror", path) or ("digest-only" if by_digest else "all")
    if uses not in _USES:
        raise ConfigurationError(
            f"{path}: pull-from-mirror is {uses[:50]!r}; one of {', '.join(_USES)} is expected"
        )
    location = _location(_text(table, "location", path), path)
    return Mirror(location, (), _flag(table, "insecure", path), cast(Uses, uses))


def _location(text: str, path: str) -> str:
    if not text or not is_host(text.partition("/")[0]) or "://" in text:
        raise ConfigurationError(f"{path}: {text[:200]!r} is no location: HOST[:PORT][/PATH] is")
    return text.rstrip("/")


def read_hosts_toml(text: str, host: str, directory: Path, base: Trust = SYSTEM_TRUST) -> HostFile:
    """A hosts.toml of the directory of *host*; *base* is the trust that other files there give."""
    path = str(directory / "hosts.toml")
    document = _toml(text, path)
    tables = _table(document.get("host", {}), path, "host")
    found = [(url, _table(each, path, url)) for url, each in tables.items()]
    mirrors = tuple(_entry(url, table, directory, base) for url, table in found)
    server = _text(document, "server", path)
    own = _endpoint(server, document, directory, base) if server else None
    return HostFile(base if own is None else own.trust, _named(own, host), mirrors)


def _named(endpoint: Endpoint | None, host: str) -> Endpoint | None:
    """The server of docker.io is another host by name; its credentials are those of docker.io."""
    if endpoint is not None and host == DOCKER_HUB and endpoint.host == "registry-1.docker.io":
        return replace(endpoint, host=DOCKER_HUB)
    return endpoint


def _entry(url: str, table: Mapping[str, Any], directory: Path, base: Trust) -> tuple[Endpoint, bool, bool]:
    path = str(directory / "hosts.toml")
    abilities = _texts(table, "capabilities", path) if "capabilities" in table else ("pull", "resolve")
    return _endpoint(url, table, directory, base), "resolve" in abilities, "pull" in abilities


def _endpoint(url: str, table: Mapping[str, Any], directory: Path, base: Trust) -> Endpoint:
    path = str(directory / "hosts.toml")
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not is_host(parts.netloc):
        raise ConfigurationError(f"{path}: {url[:200]!r} is no address: https://HOST[:PORT] is")
    api = parts.path.rstrip("/")
    if not _flag(table, "override_path", path) and not api.endswith("/v2"):
        api += "/v2"
    return Endpoint(
        parts.netloc,
        (parts.scheme,),
        _trust(table, directory, base),
        api,
        _headers(table.get("header", {}), path),
    )


def _trust(table: Mapping[str, Any], directory: Path, base: Trust) -> Trust:
    path = str(directory / "hosts.toml")
    authorities = tuple(directory / each for each in _one_or_many(table.get("ca", []), path, "ca"))
    pairs = tuple(_pairs(table.get("client", []), directory, path))
    return Trust(
        not _flag(table, "skip_verify", path) and base.verify,
        authorities or base.authorities,
        pairs or base.client_pairs,
    )


def _pairs(value: Any, directory: Path, path: str) -> Iterator[tuple[Path, Path]]:
    """`"both.pem"`, `["one.pem", "two.pem"]` (each with its key) or `[["certificate", "key"], …]`."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise ConfigurationError(f"{path}: client is not a list")
    for entry in entries:
        words = _one_or_many(entry, path, "client")
        if not 1 <= len(words) <= 2:
            raise ConfigurationError(f"{path}: client has pairs of a certificate and a key")
        yield directory / words[0], directory / words[-1]


def _headers(value: Any, path: str) -> tuple[tuple[str, str], ...]:
    found = _table(value, path, "header")
    return tuple((name, text) for name, each in found.items() for text in _one_or_many(each, path, name))


def trust_of_directory(names: list[str], directory: Path) -> Trust:
    """What docker's directory of a host gives: `*.crt` are authorities, `NAME.cert` and `NAME.key` prove us."""
    authorities = tuple(directory / name for name in sorted(names) if name.endswith(".crt"))
    stems = sorted(name.removesuffix(".cert") for name in names if name.endswith(".cert"))
    pairs = tuple(
        (directory / f"{stem}.cert", directory / f"{stem}.key") for stem in stems if f"{stem}.key" in names
    )
    return Trust(True, authorities, pairs)


# --- checked values


def _toml(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from None


def _table(value: Any, path: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: {name} is not a table of names and values")
    return value


def _list(table: Mapping[str, Any], name: str, path: str) -> list[Any]:
    value = table.get(name, [])
    if not isinstance(value, list):
        raise ConfigurationError(f"{path}: {name} is not a list")
    return value


def _texts(table: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
    return tuple(_one_or_many(_list(table, name, path), path, name))


def _one_or_many(value: Any, path: str, name: str) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ConfigurationError(f"{path}: {name} is not a list of texts")
    return found


def _text(table: Mapping[str, Any], name: str, path: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise ConfigurationError(f"{path}: {name} is not a text")
    return value


def _flag(table: Mapping[str, Any], name: str, path: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{path}: {name} is neither true nor false")
    return value
