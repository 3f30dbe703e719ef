"""Settings: one frozen value, read once from a YAML file and `HYTHE_*` variables; variables win.

The variable of `server.port` is `HYTHE_SERVER_PORT`. config.example.yaml documents every setting.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from registry.oci.errors import ConfigurationError

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where and how it listens."""

    host: str = "127.0.0.1"
    port: Port = 5000
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    tls_certificate: str | None = None
    tls_key: str | None = None
    public_url: Annotated[str, Meta(pattern=r"^(https?://[^/?#\s\"]+)?$")] = ""
    trusted_proxies: tuple[str, ...] = ()
    shutdown_grace_seconds: Seconds = 20.0
    keep_alive_seconds: Seconds = 75.0
    header_timeout_seconds: Seconds = 30.0
    body_idle_seconds: Seconds = 60.0
    connections_max: NotNegative = 0


class StorageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the bytes and, by default, the index lie."""

    directory: str = ""
    threads: Annotated[int, Meta(ge=1, le=512)] = 16


class IndexSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The database."""

    url: str = ""


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What one client may ask for. 0 means no limit where the example file says so."""

    manifest_size_bytes: Annotated[int, Meta(ge=1024, le=1 << 26)] = 4 * 1024 * 1024
    manifest_references: Positive = 10_000
    tags_per_request: Positive = 100
    blob_size_bytes: NotNegative = 0
    uploads_open: Positive = 10_000
    upload_expiry_seconds: Seconds = 86_400.0
    page_size: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    request_rate: Annotated[float, Meta(ge=0)] = 0.0


class PolicySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the registry allows at all."""

    delete_enabled: bool = True
    sparse: Literal["none", "indexes", "all"] = "none"


class AccountSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is let in."""

    enabled: Literal["auto", "always", "never"] = "auto"
    service: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")] = "hythe"
    token_lifetime_seconds: Annotated[float, Meta(ge=60, le=86_400)] = 300.0
    anonymous_pull: tuple[str, ...] = ()
    htpasswd: str = ""


class LoggingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What it writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an operator may set."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    index: IndexSettings = IndexSettings()
    limits: LimitSettings = LimitSettings()
    policy: PolicySettings = PolicySettings()
    accounts: AccountSettings = AccountSettings()
    logging: LoggingSettings = LoggingSettings()

    def has_accounts(self) -> bool:
        """Whether one has to log in: as set, else as soon as others than this machine can connect."""
        if self.accounts.enabled != "auto":
            return self.accounts.enabled == "always"
        return not is_loopback(self.server.host)

    def data_directory(self) -> Path:
        """`storage.directory`, or the place where such data belong for this user."""
        if self.storage.directory:
            return Path(self.storage.directory).expanduser().absolute()
        if os.geteuid() == 0:
            return Path("/var/lib/hythe/registry")
        base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return Path(base).expanduser() / "hythe" / "registry"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def variables() -> Iterator[tuple[str, tuple[str, str]]]:
    """Every variable with the section and key that it sets."""
    for section in msgspec.structs.fields(Settings):
        for key in msgspec.structs.fields(section.type):
            yield f"HYTHE_{section.name}_{key.name}".upper(), (section.name, key.name)


# Variables with our prefix that are no settings.
_OTHER_VARIABLES = {"HYTHE_FAILPOINT", "HYTHE_CONFIG"}


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read settings from *path* (None: defaults only) and the environment.

    Raises ConfigurationError, which names the file, the setting's path and what is allowed.
    """
    environment = os.environ if environment is None else environment
    document = {} if path is None else _read(path)
    settings = _convert(document, str(path) if path else "settings")
    overrides = _overrides(environment)
    if overrides:
        merged = msgspec.to_builtins(settings)
        for (section, key), value in overrides.items():
            merged[section][key] = value
        settings = _convert(merged, "HYTHE_* variables", strict=False)
    _check(settings)
    return settings


def _read(path: Path) -> Any:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: sections such as 'server:' are expected")
    return {name: {} if section is None else section for name, section in document.items()}


def _convert(document: Any, source: str, strict: bool = True) -> Settings:
    try:
        return msgspec.convert(document, Settings, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{source}: {_readable(str(error))}") from None


def _readable(message: str) -> str:
    """msgspec's sentence with our names: "Object contains unknown field `prot` - at `$.server`"."""
    reason, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    marker = "Object contains unknown field `"
    if reason.startswith(marker):
        unknown = reason.removeprefix(marker).rstrip("`")
        return f"{'.'.join(part for part in (path, unknown) if part)} is not a setting"
    return f"{path}: {reason}" if path else reason


def _overrides(environment: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    known = dict(variables())
    for name in environment:
        if name.startswith("HYTHE_") and name not in known and name not in _OTHER_VARIABLES:
            raise ConfigurationError(f"{name} sets nothing: there is no such setting")
    found: dict[tuple[str, str], Any] = {}
    for name, place in known.items():
        if name in environment:
            value = environment[name]
            is_list = isinstance(getattr(getattr(Settings(), place[0]), place[1]), tuple)
            found[place] = [part for part in value.replace(",", " ").split() if part] if is_list else value
    return found


def _check(settings: Settings) -> None:
    """What no single setting can say."""
    server = settings.server
    if bool(server.tls_certificate) != bool(server.tls_key):
        raise ConfigurationError("server.tls_certificate and server.tls_key go together: set both or neither")
    for name, path in (("tls_certificate", server.tls_certificate), ("tls_key", server.tls_key)):
        if path and not os.access(path, os.R_OK):
            raise ConfigurationError(f"server.{name}: {path} cannot be read")
    if settings.index.url and not settings.index.url.startswith("sqlite:///"):
        raise ConfigurationError("index.url: 'sqlite:///PATH' is expected")
