"""Settings: one frozen value, read once from a YAML file and `HYTHE_*` variables; variables win.

The variable of `server.port` is `HYTHE_SERVER_PORT`. config.example.yaml documents every setting.
"""

from __future__ import annotations

import functools
import ipaddress
import operator
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

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


Address = Annotated[str, Meta(pattern=r"^(https?://[^?#\s\"<>]+)?$")]


class S3Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The bucket that the bytes lie in when `storage.kind` is s3."""

    bucket: str = ""
    prefix: str = ""
    endpoint: Address = ""
    region: str = "us-east-1"
    addressing: Literal["auto", "path", "virtual"] = "auto"
    access_key: str = ""
    secret_key: str = ""
    sse: Literal["", "AES256", "aws:kms"] = ""
    sse_kms_key_id: str = ""
    request_checksum_calculation: Literal["when_required", "when_supported"] = "when_required"
    ca_bundle: str = ""
    part_size_bytes: Annotated[int, Meta(ge=5 << 20, le=5 << 30)] = 16 << 20
    max_pool_connections: Positive = 64
    connect_timeout_seconds: Seconds = 5.0
    read_timeout_seconds: Seconds = 60.0
    attempts: Annotated[int, Meta(ge=1, le=20)] = 4
    redirect: Literal["never", "always"] = "never"
    redirect_ttl_seconds: Annotated[int, Meta(ge=1, le=7 * 86_400)] = 1200
    redirect_endpoint: Address = ""


class StorageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the bytes and, by default, the index lie."""

    kind: Literal["directory", "s3"] = "directory"
    directory: str = ""
    threads: Annotated[int, Meta(ge=1, le=512)] = 16
    s3: S3Settings = S3Settings()


class IndexSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The database."""

    url: str = ""
    pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10

    def is_postgres(self) -> bool:
        """Whether it is a PostgreSQL server's, rather than a file."""
        return self.url.startswith("postgresql://")


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
    immutable_tags: tuple[str, ...] = ()
    history_days: Annotated[float, Meta(ge=0, le=36_500)] = 30.0
    quotas: dict[str, int | str] = {}


class GcSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When what nobody uses any more is deleted."""

    enabled: bool = True
    interval_seconds: Seconds = 60.0
    grace_seconds: Annotated[float, Meta(ge=0)] = 86_400.0
    deletions_per_second: Annotated[float, Meta(ge=0)] = 50.0
    untagged: Literal["keep", "delete"] = "keep"


class ReplicaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Another registry that may have what this one lost."""

    url: Annotated[str, Meta(pattern=r"^https?://[^?#\s\"<>]+$")]
    username: str = ""
    password: str = ""
    password_file: str = ""
    hosts: tuple[str, ...] = ()


class ScrubSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How often all bytes are read again and compared with their digests."""

    enabled: Literal["auto", "always", "never"] = "auto"
    interval_seconds: Seconds = 60.0
    bytes_per_second: NotNegative = 5_000_000
    every_days: Annotated[float, Meta(gt=0)] = 30.0
    quarantine_days: Annotated[float, Meta(ge=0, le=36_500)] = 90.0
    replicas: tuple[ReplicaSettings, ...] = ()


class RetentionRule(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tags stay in some repositories."""

    repositories: str
    keep_last: NotNegative = 0
    keep_younger_days: Annotated[float, Meta(ge=0)] = 0.0
    keep_pulled_days: Annotated[float, Meta(ge=0)] = 0.0
    keep_matching: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()


class ExternalTokenSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A token service of somebody else's, in place of our own; without a realm there is none."""

    realm: Annotated[str, Meta(pattern=r"^(https?://[^#\s\"\\<>]+)?$")] = ""
    service: Annotated[str, Meta(pattern=r"^[^\s\"\\]{0,256}$")] = ""
    issuer: str = ""
    public_key: str = ""
    jwks_url: Address = ""
    jwks_file: str = ""
    may_lack: tuple[Literal["iat", "nbf"], ...] = ()


class OidcSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The identity provider with which people sign in; without an issuer there is none."""

    issuer: Address = ""
    title: Annotated[str, Meta(max_length=100)] = ""
    client_id: str = ""
    client_secret: str = ""
    client_secret_file: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    hosts: tuple[str, ...] = ()
    username_claim: str = "preferred_username"
    groups_claim: str = "groups"
    groups: dict[str, str] = {}
    allowed_groups: tuple[str, ...] = ()
    admin_group: str = ""
    sign_in_every_days: Annotated[float, Meta(ge=0)] = 30.0


class CiRule(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs of a CI system that are let in, and what they may do."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    issuer: Annotated[str, Meta(pattern=r"^https?://[^?#\s\"<>]+$")]
    audience: Annotated[str, Meta(min_length=1)]
    claims: Annotated[dict[str, Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
    allow: Annotated[tuple[str, ...], Meta(min_length=1)]
    lifetime_seconds: Annotated[int, Meta(ge=60, le=3600)] = 900
    jwks_file: str = ""


class AccountSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is let in."""

    enabled: Literal["auto", "always", "never"] = "auto"
    service: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")] = "hythe"
    token_lifetime_seconds: Annotated[float, Meta(ge=60, le=86_400)] = 300.0
    anonymous_pull: tuple[str, ...] = ()
    htpasswd: str = ""
    session_lifetime_seconds: Annotated[float, Meta(ge=60, le=31 * 86_400)] = 43_200.0
    external_token: ExternalTokenSettings = ExternalTokenSettings()
    oidc: OidcSettings = OidcSettings()
    ci: tuple[CiRule, ...] = ()

    def is_federated(self) -> bool:
        """Whether somebody else says who is let in."""
        return bool(self.external_token.realm or self.oidc.issuer or self.ci)


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
    gc: GcSettings = GcSettings()
    scrub: ScrubSettings = ScrubSettings()
    retention: tuple[RetentionRule, ...] = ()
    accounts: AccountSettings = AccountSettings()
    logging: LoggingSettings = LoggingSettings()

    def has_accounts(self) -> bool:
        """Whether one has to log in: as set, else as soon as others than this machine can connect."""
        if self.accounts.enabled != "auto":
            return self.accounts.enabled == "always"
        return self.accounts.is_federated() or not is_loopback(self.server.host)

    def has_scrub(self) -> bool:
        """Whether the server reads all bytes again: as set, else where reading them costs nothing."""
        if self.scrub.enabled != "auto":
            return self.scrub.enabled == "always"
        return self.storage.kind == "directory"

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


Place = tuple[str, ...]


def variables() -> Iterator[tuple[str, Place]]:
    """Every variable with the place of the setting that it sets: its section, the sections in that, its key."""
    for place, _ in _places(Settings, ()):
        yield "_".join(("HYTHE", *place)).upper(), place


def _places(section: type[Struct], above: Place) -> Iterator[tuple[Place, Any]]:
    """Every setting's place with its type."""
    for key in msgspec.structs.fields(section):
        place = (*above, key.name)
        if isinstance(key.type, type) and issubclass(key.type, Struct):
            yield from _places(key.type, place)
        else:
            yield place, key.type


# Variables with our prefix that are no settings; the client's may be set where a server is started too.
_CLIENT_VARIABLES = {"HYTHE_CLIENT_ROOT", "HYTHE_CLIENT_CONFIG", "HYTHE_SYSTEM_CONFIG"}
_OTHER_VARIABLES = {"HYTHE_FAILPOINT", "HYTHE_CONFIG", *_CLIENT_VARIABLES}


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
        for (*sections, key), value in overrides.items():
            functools.reduce(operator.getitem, sections, merged)[key] = value
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
    return _with_empty_sections(document, Settings)


def _with_empty_sections(document: dict[Any, Any], section: type[Struct]) -> dict[Any, Any]:
    """The document with defaults for sections of which there is the name alone."""
    inner = {key.name: key.type for key in msgspec.structs.fields(section)}
    found = dict(document)
    for name, value in document.items():
        kind = inner.get(name)
        if isinstance(kind, type) and issubclass(kind, Struct) and (value is None or isinstance(value, dict)):
            found[name] = _with_empty_sections(value or {}, kind)
    return found


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
    kind = dict(_places(Settings, ())).get(tuple(path.split(".")))
    if get_origin(kind) is Literal:
        words = [word for word in get_args(kind) if word]
        return f"{path}: one of {', '.join(words)} is expected"
    return f"{path}: {reason}" if path else reason


def _overrides(environment: Mapping[str, str]) -> dict[Place, Any]:
    known = dict(variables())
    for name in environment:
        if name.startswith("HYTHE_") and name not in known and name not in _OTHER_VARIABLES:
            raise ConfigurationError(f"{name} sets nothing: there is no such setting")
    types = dict(_places(Settings, ()))
    return {
        place: _value_of(name, environment[name], types[place])
        for name, place in known.items()
        if name in environment
    }


def _value_of(name: str, text: str, kind: Any) -> Any:
    """A variable's value: lists of words are separated by commas or spaces; what has an inside is JSON or YAML."""
    if get_origin(kind) is tuple and get_args(kind)[0] not in (CiRule, RetentionRule, ReplicaSettings):
        return [part for part in text.replace(",", " ").split() if part]
    if get_origin(kind) not in (tuple, dict):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name} is neither JSON nor YAML: {error}") from None


def _check(settings: Settings) -> None:
    """What no single setting can say."""
    server = settings.server
    if bool(server.tls_certificate) != bool(server.tls_key):
        raise ConfigurationError("server.tls_certificate and server.tls_key go together: set both or neither")
    for name, path in (("tls_certificate", server.tls_certificate), ("tls_key", server.tls_key)):
        if path and not os.access(path, os.R_OK):
            raise ConfigurationError(f"server.{name}: {path} cannot be read")
    if settings.index.url and not settings.index.url.startswith(("sqlite:///", "postgresql://")):
        raise ConfigurationError("index.url: 'sqlite:///PATH' or 'postgresql://USER@HOST/DATABASE' is expected")
    _check_storage(settings.storage)
    _check_federation(settings)


def _check_storage(storage: StorageSettings) -> None:
    s3 = storage.s3
    if storage.kind == "s3" and not s3.bucket:
        raise ConfigurationError("storage.s3.bucket: storage.kind is s3, so the bucket has to be named")
    if bool(s3.access_key) != bool(s3.secret_key):
        raise ConfigurationError("storage.s3.access_key and secret_key go together: set both or neither")
    if s3.sse_kms_key_id and s3.sse != "aws:kms":
        raise ConfigurationError("storage.s3.sse_kms_key_id: goes with sse 'aws:kms' only")


def _check_federation(settings: Settings) -> None:
    accounts = settings.accounts
    external, oidc = accounts.external_token, accounts.oidc
    if accounts.is_federated() and accounts.enabled == "never":
        raise ConfigurationError("accounts.enabled: 'never' does not go with external_token, oidc or ci")
    if external.realm and not (external.service and external.issuer):
        raise ConfigurationError("accounts.external_token: realm, service and issuer go together")
    sources = [external.public_key, external.jwks_url, external.jwks_file]
    if external.realm and sum(map(bool, sources)) != 1:
        raise ConfigurationError("accounts.external_token: set one of public_key, jwks_url and jwks_file")
    if oidc.issuer and not (oidc.client_id and settings.server.public_url):
        raise ConfigurationError(
            "accounts.oidc: it needs client_id, and server.public_url for the provider to send people back to"
        )
    if oidc.client_secret and oidc.client_secret_file:
        raise ConfigurationError("accounts.oidc: set client_secret or client_secret_file")
    if oidc.issuer and "openid" not in oidc.scopes:
        raise ConfigurationError("accounts.oidc.scopes: 'openid' is missing")
    names = [rule.name for rule in accounts.ci]
    if len(set(names)) != len(names):
        raise ConfigurationError("accounts.ci: each rule needs a name of its own")
