"""Settings: the example file, the variables, and what a mistake is told."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from registry import config
from registry.config import Settings
from registry.oci.errors import ConfigurationError

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


CI_RULE = {
    "name": "web",
    "issuer": "https://ci.example.com",
    "audience": "https://registry.example.com",
    "claims": {"repository": "acme/web"},
    "allow": ["pull,push:team/*"],
}
EXTERNAL = "accounts:\n  external_token:\n    realm: https://x\n    issuer: x\n    service: x\n"
# Settings that cannot be alone.
TOGETHER = {
    "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_REALM": {
        "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_SERVICE": "registry",
        "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_ISSUER": "issuer",
        "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_JWKS_FILE": "keys.json",
    },
    "HYTHE_ACCOUNTS_OIDC_ISSUER": {
        "HYTHE_ACCOUNTS_OIDC_CLIENT_ID": "hythe",
        "HYTHE_SERVER_PUBLIC_URL": "https://registry.example.com",
    },
    "HYTHE_STORAGE_KIND": {"HYTHE_STORAGE_S3_BUCKET": "blobs"},
    "HYTHE_STORAGE_S3_ACCESS_KEY": {"HYTHE_STORAGE_S3_SECRET_KEY": "secret"},
    "HYTHE_STORAGE_S3_SECRET_KEY": {"HYTHE_STORAGE_S3_ACCESS_KEY": "access"},
    "HYTHE_STORAGE_S3_SSE_KMS_KEY_ID": {"HYTHE_STORAGE_S3_SSE": "aws:kms"},
}


def test_the_example_file_says_every_setting_with_its_default() -> None:
    assert config.load(EXAMPLE, {}) == Settings()
    document = yaml.safe_load(EXAMPLE.read_text())
    places = {place for _, place in config.variables()}
    assert set(named(document, places)) == places


def named(document: dict[str, Any], places: set[tuple[str, ...]], above: tuple[str, ...] = ()) -> Iterator[Any]:
    for key, value in document.items():
        place = (*above, key)
        if place not in places and isinstance(value, dict):
            yield from named(value, places, place)
        else:
            yield place


def at(settings: Settings, place: tuple[str, ...]) -> Any:
    return functools.reduce(getattr, place, settings)


def test_no_file_and_no_variable_mean_the_defaults() -> None:
    assert config.load(None, {}) == Settings()


@pytest.mark.parametrize(("name", "place"), list(config.variables()), ids=[name for name, _ in config.variables()])
def test_every_setting_has_a_variable_that_wins_over_the_file(name: str, place: tuple[str, ...]) -> None:
    readable = str(EXAMPLE)  # for settings that name a file
    values = {bool: "false", int: "3", float: "3.5", tuple: "10.0.0.1, 10.0.1.0/24"}
    default = at(Settings(), place)
    special = {
        "HYTHE_INDEX_URL": "sqlite:////tmp/index",
        "HYTHE_POLICY_SPARSE": "all",
        "HYTHE_GC_UNTAGGED": "delete",
        "HYTHE_SCRUB_ENABLED": "always",
        "HYTHE_SCRUB_REPLICAS": '[{"url": "https://other.example.com"}]',
        "HYTHE_RETENTION": '[{"repositories": "*", "keep_last": 3}]',
        "HYTHE_POLICY_QUOTAS": '{"team/*": "10GiB"}',
        "HYTHE_LOGGING_LEVEL": "error",
        "HYTHE_LOGGING_FORMAT": "json",
        "HYTHE_SERVER_TLS_CERTIFICATE": readable,
        "HYTHE_SERVER_TLS_KEY": readable,
        "HYTHE_LIMITS_MANIFEST_SIZE_BYTES": "5000000",
        "HYTHE_SERVER_PUBLIC_URL": "https://registry.example.com",
        "HYTHE_ACCOUNTS_ENABLED": "always",
        "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_REALM": "https://gitlab.example.com/jwt/auth",
        "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_JWKS_URL": "https://gitlab.example.com/keys",
        "HYTHE_ACCOUNTS_OIDC_ISSUER": "https://login.example.com",
        "HYTHE_ACCOUNTS_TOKEN_LIFETIME_SECONDS": "600",
        "HYTHE_ACCOUNTS_SESSION_LIFETIME_SECONDS": "600",
        "HYTHE_ACCOUNTS_EXTERNAL_TOKEN_MAY_LACK": "iat, nbf",
        "HYTHE_ACCOUNTS_OIDC_SCOPES": "openid groups",
        "HYTHE_ACCOUNTS_OIDC_GROUPS": '{"developers": "team:member"}',
        "HYTHE_ACCOUNTS_CI": json.dumps([CI_RULE]),
        "HYTHE_STORAGE_KIND": "s3",
        "HYTHE_STORAGE_S3_ENDPOINT": "https://s3.example.com",
        "HYTHE_STORAGE_S3_ADDRESSING": "virtual",
        "HYTHE_STORAGE_S3_SSE": "AES256",
        "HYTHE_STORAGE_S3_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "HYTHE_STORAGE_S3_PART_SIZE_BYTES": "8388608",
        "HYTHE_STORAGE_S3_REDIRECT": "always",
        "HYTHE_STORAGE_S3_REDIRECT_ENDPOINT": "https://blobs.example.com",
    }
    text = special.get(name) or values.get(type(default), "somewhere")
    environment = {name: text}
    environment |= TOGETHER.get(name, {})
    if "TLS" in name:
        environment |= {"HYTHE_SERVER_TLS_CERTIFICATE": readable, "HYTHE_SERVER_TLS_KEY": readable}
    found = at(config.load(EXAMPLE, environment), place)
    assert found != default
    assert type(found) is (type(default) if default is not None else str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server:\n  prot: 80\n", "server.prot is not a setting"),
        ("sever: {}\n", "sever is not a setting"),
        ("server:\n  port: many\n", "server.port"),
        ("server:\n  port: 70000\n", "server.port"),
        ("server: 5\n", "server"),
        ("policy:\n  sparse: some\n", "policy.sparse"),
        ("- server\n", "sections"),
        ("server: [\n", "not YAML"),
        ("server:\n  tls_key: /etc/hostname\n", "go together"),
        ("server:\n  tls_key: /nowhere\n  tls_certificate: /nowhere\n", "cannot be read"),
        ("index:\n  url: mysql://x\n", "index.url"),
        ("storage:\n  kind: s3\n", "storage.s3.bucket"),
        ("storage:\n  kind: azure\n", "storage.kind: one of directory, s3 is expected"),
        ("accounts:\n  enabled: true\n", "accounts.enabled: one of auto, always, never is expected"),
        ("storage:\n  s3:\n    access_key: x\n", "go together"),
        ("storage:\n  s3:\n    part_size_bytes: 5000000\n", "storage.s3.part_size_bytes"),
        ("storage:\n  s3:\n    endpoint: s3.example.com\n", "storage.s3.endpoint"),
        ("storage:\n  s3:\n    sse: AES256\n    sse_kms_key_id: x\n", "sse_kms_key_id"),
        ("storage:\n  s3:\n    redirect: sometimes\n", "storage.s3.redirect"),
        ("accounts:\n  oidc:\n    isuer: x\n", "accounts.oidc.isuer is not a setting"),
        ("accounts:\n  oidc:\n    issuer: ftp://x\n", "accounts.oidc.issuer"),
        ("accounts:\n  oidc:\n    issuer: https://x\n", "client_id"),
        ("accounts:\n  enabled: never\n  oidc:\n    issuer: https://x\n", "never"),
        ("accounts:\n  external_token:\n    realm: https://x\n", "go together"),
        (f"{EXTERNAL}", "one of public_key"),
        (f"{EXTERNAL}    jwks_file: a\n    public_key: b\n", "one of public_key"),
        ("accounts:\n  ci:\n  - name: a\n", r"accounts.ci"),
        (yaml.safe_dump({"accounts": {"ci": [{**CI_RULE, "claims": {}}]}}), r"accounts.ci.*claims"),
        (yaml.safe_dump({"accounts": {"ci": [{**CI_RULE, "lifetime_seconds": 3601}]}}), "lifetime_seconds"),
        (yaml.safe_dump({"accounts": {"ci": [CI_RULE, CI_RULE]}}), "a name of its own"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_path(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        config.load(write(tmp_path / "config.yaml", text), {})


def test_a_variable_that_sets_nothing_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="HYTHE_SERVER_PROT"):
        config.load(None, {"HYTHE_SERVER_PROT": "80"})


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml"):
        config.load(tmp_path / "absent.yaml", {})


def test_an_empty_section_means_its_defaults(tmp_path: Path) -> None:
    assert config.load(write(tmp_path / "config.yaml", "server:\n"), {}) == Settings()


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(AttributeError):
        Settings().server.port = 1  # type: ignore[misc]
    assert msgspec.structs.replace(Settings().server, port=1).port == 1


def test_the_clients_variables_are_no_settings_and_no_mistakes() -> None:
    environment = {"HYTHE_CLIENT_ROOT": "/x", "HYTHE_CLIENT_CONFIG": "/y", "HYTHE_SYSTEM_CONFIG": "/z"}
    assert config.load(None, environment) == config.load(None, {})
