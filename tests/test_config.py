"""Settings: the example file, the variables, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path

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


def test_the_example_file_says_every_setting_with_its_default() -> None:
    assert config.load(EXAMPLE, {}) == Settings()
    document = yaml.safe_load(EXAMPLE.read_text())
    named = {(section, key) for section, keys in document.items() for key in keys}
    assert named == {place for _, place in config.variables()}


def test_no_file_and_no_variable_mean_the_defaults() -> None:
    assert config.load(None, {}) == Settings()


@pytest.mark.parametrize(("name", "place"), list(config.variables()), ids=[name for name, _ in config.variables()])
def test_every_setting_has_a_variable_that_wins_over_the_file(name: str, place: tuple[str, str]) -> None:
    section, key = place
    readable = str(EXAMPLE)  # for settings that name a file
    values = {bool: "false", int: "3", float: "3.5", tuple: "10.0.0.1, 10.0.1.0/24"}
    default = getattr(getattr(Settings(), section), key)
    special = {
        "HYTHE_INDEX_URL": "sqlite:////tmp/index",
        "HYTHE_POLICY_SPARSE": "all",
        "HYTHE_LOGGING_LEVEL": "error",
        "HYTHE_LOGGING_FORMAT": "json",
        "HYTHE_SERVER_TLS_CERTIFICATE": readable,
        "HYTHE_SERVER_TLS_KEY": readable,
        "HYTHE_LIMITS_MANIFEST_SIZE_BYTES": "5000000",
        "HYTHE_SERVER_PUBLIC_URL": "https://registry.example.com",
        "HYTHE_ACCOUNTS_ENABLED": "always",
        "HYTHE_ACCOUNTS_TOKEN_LIFETIME_SECONDS": "600",
    }
    text = special.get(name) or values.get(type(default), "somewhere")
    environment = {name: text}
    if "TLS" in name:
        environment |= {"HYTHE_SERVER_TLS_CERTIFICATE": readable, "HYTHE_SERVER_TLS_KEY": readable}
    found = getattr(getattr(config.load(EXAMPLE, environment), section), key)
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
