"""Docker's config.json and its helpers: what docker wrote we read, and what is not ours stays."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci.errors import ConfigurationError
from registry.transfer.bearer import Credentials
from registry.transfer.credentials import CredentialFile, config_path, podman_paths, usual_file

HELPER = """\
#!/bin/sh
# A helper with a file for each server; it remembers what it was asked.
cd "$(dirname "$0")"
echo "$1" >> asked
case "$1" in
  store) cat > stored ;;
  get) read server; cat stored 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
  erase) rm -f stored ;;
esac
"""


def file_of(directory: Path, **document: object) -> CredentialFile:
    path = directory / "config.json"
    path.write_text(json.dumps(document))
    return CredentialFile(path, {"PATH": f"{directory}:/usr/bin:/bin"})


def helper(directory: Path, name: str = "test") -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(HELPER)
    path.chmod(0o755)


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_what_docker_wrote_is_read(tmp_path: Path) -> None:
    auths = {
        "registry.example:5000": {"auth": encoded("ann", "pass:word")},
        "https://old.example/v1/": {"auth": encoded("old", "x")},
        "https://index.docker.io/v1/": {"auth": encoded("hub", "y")},
        "token.example": {"auth": encoded("bob", ""), "identitytoken": "refreshing"},
        "empty.example": {},
    }
    file = file_of(tmp_path, auths=auths)
    assert file.get("registry.example:5000") == Credentials("ann", "pass:word")
    assert file.get("old.example") == Credentials("old", "x")
    assert file.get("docker.io") == Credentials("hub", "y")
    assert file.get("token.example") == Credentials("bob", "", "refreshing")
    assert file.get("empty.example") is None
    assert file.get("registry.example") is None
    assert file.get("evil.registry.example:5000") is None


def test_what_is_stored_is_ours_alone_to_read_and_leaves_the_rest(tmp_path: Path) -> None:
    file = file_of(
        tmp_path, auths={"a": {"auth": encoded("x", "y")}}, HttpHeaders={"X": "1"}, unknown=[1, {"b": 2}]
    )
    assert file.store("b.example", Credentials("ann", "secret")) is False
    document = json.loads(file.path.read_text())
    assert document["HttpHeaders"] == {"X": "1"}
    assert document["unknown"] == [1, {"b": 2}]
    assert document["auths"]["a"] == {"auth": encoded("x", "y")}
    assert document["auths"]["b.example"] == {"auth": encoded("ann", "secret")}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["config.json"]
    assert file.get("b.example") == Credentials("ann", "secret")


def test_the_hub_is_stored_under_dockers_name_for_it(tmp_path: Path) -> None:
    file = CredentialFile(tmp_path / "new" / "config.json", {"PATH": ""})
    file.store("docker.io", Credentials("ann", "secret"))
    assert list(json.loads(file.path.read_text())["auths"]) == ["https://index.docker.io/v1/"]


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("{}")
    link = tmp_path / "config.json"
    link.symlink_to(real)
    CredentialFile(link, {"PATH": ""}).store("a.example", Credentials("ann", "secret"))
    assert link.is_symlink()
    assert "a.example" in real.read_text()


def test_forgetting_says_whether_there_was_anything(tmp_path: Path) -> None:
    file = file_of(tmp_path, auths={"https://a.example/v1/": {"auth": encoded("x", "y")}}, other=1)
    assert file.erase("b.example") is False
    assert file.erase("a.example") is True
    assert file.erase("a.example") is False
    assert json.loads(file.path.read_text()) == {"auths": {}, "other": 1}


@pytest.mark.parametrize("setting", [{"credsStore": "test"}, {"credHelpers": {"a.example": "test"}}])
def test_a_helper_keeps_what_the_file_would(tmp_path: Path, setting: dict[str, object]) -> None:
    helper(tmp_path)
    file = file_of(tmp_path, **setting)
    assert file.get("a.example") is None
    assert file.store("a.example", Credentials("ann", "secret")) is True
    assert "secret" not in file.path.read_text()
    assert encoded("ann", "secret") not in file.path.read_text()
    assert json.loads((tmp_path / "stored").read_text())["ServerURL"] == "a.example"
    assert file.get("a.example") == Credentials("ann", "secret")
    assert file.erase("a.example") is True
    assert (tmp_path / "asked").read_text().split() == ["get", "store", "get", "erase"]


def test_a_helpers_token_is_a_refresh_token(tmp_path: Path) -> None:
    helper(tmp_path)
    file = file_of(tmp_path, credsStore="test")
    file.store("a.example", Credentials("ann", "", "refreshing"))
    assert file.get("a.example") == Credentials(identity_token="refreshing")


def test_a_helper_that_is_there_is_preferred_to_plain_text(tmp_path: Path) -> None:
    helper(tmp_path, "secretservice")
    file = CredentialFile(tmp_path / "config.json", {"PATH": f"{tmp_path}:/bin"})
    if file._default_helper({}) != "secretservice":
        pytest.skip("pass is installed here, and goes first")
    assert file.store("a.example", Credentials("ann", "secret")) is True
    assert json.loads(file.path.read_text())["credsStore"] == "secretservice"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "not installed"),
        ("../evil", "no name of a credential helper"),
        ("a b", "no name of a credential"),
    ],
)
def test_a_helper_that_cannot_be_asked_is_an_error(tmp_path: Path, name: str, why: str) -> None:
    file = file_of(tmp_path, credsStore=name)
    with pytest.raises(ConfigurationError, match=why):
        file.get("a.example")


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', '{"auths":{"a":{"auth":"%%%"}}}', '{"auths":{"a":{"auth":"/w=="}}}']
)
def test_a_broken_file_is_an_error_that_names_it_and_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        CredentialFile(path, {"PATH": ""}).get("a")
    assert path.read_text() == text


def test_where_the_file_is() -> None:
    assert config_path({"DOCKER_CONFIG": "/x", "HOME": "/h"}) == Path("/x/config.json")
    assert config_path({"HOME": "/h"}) == Path("/h/.docker/config.json")


def test_where_podmans_files_are() -> None:
    assert podman_paths({"REGISTRY_AUTH_FILE": "/x/auth.json", "XDG_RUNTIME_DIR": "/r"}) == (Path("/x/auth.json"),)
    assert podman_paths({"XDG_RUNTIME_DIR": "/r", "HOME": "/h"}) == (
        Path("/r/containers/auth.json"),
        Path("/h/.config/containers/auth.json"),
    )
    assert podman_paths({"HOME": "/h"})[0] == Path(f"/run/containers/{os.getuid()}/auth.json")


def test_what_podman_was_told_is_used_where_dockers_file_says_nothing(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": ""}
    auths = {
        name: {"auth": encoded(name, "p")}
        for name in ("docker.io", "both.example", "part.example/team", "a.example")
    }
    (tmp_path / "run/containers").mkdir(parents=True)
    theirs = tmp_path / "run/containers/auth.json"
    theirs.write_text(json.dumps({"auths": auths}))
    usual_file(environment).store("both.example", Credentials("ann", "secret"))
    file = usual_file(environment)
    assert file.get("both.example") == Credentials("ann", "secret")
    assert file.get("docker.io") == Credentials("docker.io", "p")
    assert file.get("a.example") == Credentials("a.example", "p")
    assert file.get("part.example") is None
    assert file.get("none.example") is None
    assert (file.elsewhere("a.example"), file.elsewhere("none.example")) == (theirs, None)
    assert not file.erase("a.example")
    assert json.loads(theirs.read_text())["auths"] == auths


Names = st.text(st.characters(codec="utf-8", exclude_characters=":\0"), min_size=1)
Passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(user=Names, password=Passwords)
def test_any_name_and_password_come_back(
    tmp_path_factory: pytest.TempPathFactory, user: str, password: str
) -> None:
    file = CredentialFile(tmp_path_factory.mktemp("any") / "config.json", {"PATH": ""})
    file.store("a.example", Credentials(user, password))
    assert file.get("a.example") == Credentials(user, password)


@given(document=st.dictionaries(st.sampled_from(["auths", "credsStore", "credHelpers", "x"]), JSON))
def test_no_document_makes_the_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    file = file_of(tmp_path_factory.mktemp("odd"), **document)
    try:
        file.get("a.example")
    except ConfigurationError:
        return
