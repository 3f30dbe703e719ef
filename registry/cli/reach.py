"""Which files say what about registries, and from them the way to reach one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from registry.oci.errors import ConfigurationError
from registry.oci.reference import DOCKER_HUB, ImageName
from registry.transfer import host_files
from registry.transfer.credentials import usual_file
from registry.transfer.host_files import Said
from registry.transfer.hosts import HostFile, Mirror, Registries, Rule
from registry.transfer.http import SYSTEM_TRUST
from registry.transfer.reach import Reach


def make() -> Reach:
    """The way to registries, as this user's and this machine's files set it."""
    return Reach(registries(os.environ), usual_file(os.environ))


def name_of(text: str, registries: Registries) -> ImageName:
    """An image's name as it was typed. Raises NameInvalid."""
    return ImageName.parse(text, registries.default_host)


def registries(environment: Mapping[str, str]) -> Registries:
    """All settings: Hythe's own first, then containers', then docker's. Directories of certificates are read late.

    HYTHE_SYSTEM_CONFIG is the directory in place of /etc.
    """
    etc = Path(environment.get("HYTHE_SYSTEM_CONFIG") or "/etc")
    home = _config_home(environment)
    own, default_host = _own(environment)
    said = [own, _containers(environment, home, etc), *_docker(home, etc)]
    directories = (
        home / "hythe/certs.d",
        home / "docker/certs.d",
        etc / "docker/certs.d",
        home / "containers/certs.d",
        etc / "containers/certs.d",
        etc / "containerd/certs.d",
    )
    return Registries(
        default_host,
        tuple(host for each in said for host in each.insecure),
        tuple(each.rules for each in said),
        functools.cache(functools.partial(_host_file, directories)),
    )


def _config_home(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME") or str(Path("~").expanduser())
    return Path(environment.get("XDG_CONFIG_HOME") or Path(home, ".config"))


def _own(environment: Mapping[str, str]) -> tuple[Said, str]:
    # No import of YAML where there is no file: 20 ms of every verb.
    chosen = environment.get("HYTHE_CLIENT_CONFIG")
    path = Path(chosen) if chosen else _config_home(environment) / "hythe/client.yaml"
    text = _text(path)
    if text is None:
        if chosen:
            raise ConfigurationError(f"HYTHE_CLIENT_CONFIG: {chosen}: no such file")
        return Said(), DOCKER_HUB
    from registry import client_config

    settings = client_config.parse(text, str(path))
    rules = [
        Rule(prefix.rstrip("/"), mirrors=tuple(Mirror.parse(mirror) for mirror in mirrors))
        for prefix, mirrors in settings.mirrors.items()
    ]
    return Said(tuple(rules), settings.insecure_registries), settings.default_registry


def _docker(home: Path, etc: Path) -> list[Said]:
    found = (home / "docker/daemon.json", etc / "docker/daemon.json")
    return [_said(path, host_files.read_daemon_json) for path in found]


def _containers(environment: Mapping[str, str], home: Path, etc: Path) -> Said:
    """The user's registries.conf, else the machine's, and the pieces in the directories beside both.

    What a later one says of a prefix takes the place of what an earlier one said; the user's pieces are last.
    """
    chosen = environment.get("CONTAINERS_REGISTRIES_CONF")
    files = [Path(chosen)] if chosen else [home / "containers/registries.conf", etc / "containers/registries.conf"]
    main = next((path for path in files if path.is_file()), None)
    pieces = [] if chosen else [*_pieces(etc), *_pieces(home)]
    found = [_said(path, host_files.read_registries_conf) for path in (*((main,) if main else ()), *pieces)]
    return Said(tuple({rule.prefix: rule for said in found for rule in said.rules}.values()))


def _pieces(directory: Path) -> list[Path]:
    return sorted((directory / "containers/registries.conf.d").glob("*.conf"))


def _said(path: Path, read: Callable[[str, str], Said]) -> Said:
    text = _text(path)
    return Said() if text is None else read(text, str(path))


def _host_file(directories: tuple[Path, ...], host: str) -> HostFile | None:
    """The first directory that a host has. A hosts.toml for all others is in `_default`."""
    for parent in directories:
        # containerd writes the colon of a port as an underscore where a file system cannot have it.
        for name in (host, host.replace(":", "_") + "_" if ":" in host else host):
            found = _read_directory(parent / name, host) if "/" not in name and name not in (".", "..") else None
            if found is not None:
                return found
    for parent in directories:
        text = _text(parent / "_default/hosts.toml")
        if text is not None:
            return host_files.read_hosts_toml(text, host, parent / "_default")
    return None


def _read_directory(directory: Path, host: str) -> HostFile | None:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    trust = host_files.trust_of_directory(names, directory)
    text = _text(directory / "hosts.toml")
    if text is not None:
        return host_files.read_hosts_toml(text, host, directory, trust)
    return HostFile(trust) if trust != SYSTEM_TRUST else None


def _text(path: Path) -> str | None:
    """A file's text, None where there is none that we may read."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
