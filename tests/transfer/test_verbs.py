"""`hythe login, logout, cp, tags, catalog, manifest inspect, search`, as they are typed."""

from __future__ import annotations

import functools
import gzip
import json
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from backports import zstd

import registry
from tests.support import images, peers
from tests.support.accounts import Registry
from tests.support.faulty import Answer, faulty
from tests.support.images import Index
from tests.support.server import Server

USAGE = 2
ARCHES = ("amd64", "s390x")


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


class Hythe:
    """The command, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(registry.__file__).parent.parent)}
        self.environment = {**kept, "HOME": str(home), "HYTHE_SYSTEM_CONFIG": str(home / "etc"), "LANG": "C.UTF-8"}

    def __call__(self, *words: str | Path, stdin: str | None = None) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "registry", *map(str, words)],
            env=self.environment,
            cwd=self.home,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def does(self, *words: str | Path, stdin: str | None = None) -> str:
        """What it printed; it must succeed."""
        said = self(*words, stdin=stdin)
        assert said.status == 0, said.err
        return said.out

    def fails(self, *words: str | Path, stdin: str | None = None) -> str:
        """The one line in which it says why it failed."""
        said = self(*words, stdin=stdin)
        assert said.status == 1, said
        lines = said.err.strip().splitlines()
        assert lines[-1].startswith("hythe: "), said.err
        return lines[-1]


@pytest.fixture
def hythe(tmp_path: Path) -> Hythe:
    home = tmp_path / "home"
    home.mkdir()
    return Hythe(home)


@functools.cache
def index() -> Index:
    layers = {arch: images.layer([images.Entry(arch, b"x")]) for arch in ARCHES}
    return images.make_index([images.make_image([tar], platform=platform(arch)) for arch, tar in layers.items()])


def platform(architecture: str) -> dict[str, str]:
    return {"os": "linux", "architecture": architecture}


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[str]:
    """A repository that has an index under `v1`."""
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
        peers.upload(http, "verbs/web", index(), "v1")
        yield f"{server.host}/verbs/web"


# --- login and logout


def test_a_login_is_dockers_and_a_logout_forgets_it(hythe: Hythe, guarded: Registry) -> None:
    name, password = guarded.user("typist")
    said = hythe("login", guarded.host, "-u", name, "--password-stdin", stdin=password + "\n")
    assert (said.status, said.out) == (0, "Login Succeeded\n")
    assert said.err.startswith("WARNING! Your password will be stored unencrypted in ")
    file = hythe.home / ".docker/config.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert hythe.does("login", guarded.host) == "Authenticating with existing credentials...\nLogin Succeeded\n"
    assert hythe.does("logout", guarded.host) == f"Removing login credentials for {guarded.host}\n"
    assert json.loads(file.read_text()) == {"auths": {}}
    assert hythe.does("logout", guarded.host) == f"Not logged in to {guarded.host}\n"


def test_a_login_that_fails_stores_nothing(hythe: Hythe, guarded: Registry) -> None:
    assert "unauthorized" in hythe.fails("login", guarded.host, "-u", "nobody", "--password-stdin", stdin="wrong")
    assert not (hythe.home / ".docker").exists()
    assert "connection refused" in hythe.fails("login", "127.0.0.1:9", "-u", "a", "--password-stdin", stdin="b")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--password-stdin"], "Must provide --username with --password-stdin"),
        (["-u", "a", "-p", "b", "--password-stdin"], "mutually exclusive"),
        (["-u", "a"], "Cannot perform an interactive login from a non TTY device"),
        (["-u", "a", "--password-stdin"], "Password Required"),
    ],
)
def test_a_login_without_what_it_needs_says_so(hythe: Hythe, server: Server, words: list[str], why: str) -> None:
    assert why in hythe.fails("login", *words, server.host, stdin="")


def test_dockers_login_is_ours_and_ours_is_dockers(hythe: Hythe, guarded: Registry) -> None:
    name, password = guarded.user("both")
    guarded.grant("user:both", "pull,push", "both/*")
    hythe.does("login", guarded.host, "-u", name, "--password-stdin", stdin=password)
    skopeo = peers.program("skopeo")
    command = [skopeo, "login", "--get-login", "--authfile", str(hythe.home / ".docker/config.json"), guarded.host]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == name
    hythe.does("logout", guarded.host)
    store = [*command[:2], "-u", name, "-p", password, "--tls-verify=false", *command[3:]]
    subprocess.run(store, capture_output=True, check=True)
    assert "Login Succeeded" in hythe.does("login", guarded.host)


# --- cp


def test_a_copy_brings_all_platforms_from_place_to_place(hythe: Hythe, web: str) -> None:
    digest = index().digest + "\n"
    assert hythe.does("cp", f"{web}:v1", f"docker://{web}-copy:v2") == digest
    assert hythe.does("cp", f"{web}-copy:v2", f"oci:{hythe.home}/layout:x", "-q") == digest
    assert hythe.does("cp", f"oci:{hythe.home}/layout:x", f"oci-archive:{hythe.home}/x.tar") == digest
    assert hythe.does("cp", f"oci-archive:{hythe.home}/x.tar", f"{web}-back") == digest
    assert hythe.does("tags", f"{web}-back") == "latest\n"
    assert json.loads(hythe.does("tags", f"{web}-copy", "--json")) == ["v2"]


@pytest.mark.parametrize("compress", [zstd.compress, lzma.compress, gzip.compress])
def test_a_compressed_archive_is_copied_from(hythe: Hythe, web: str, compress: Callable[[bytes], bytes]) -> None:
    hythe.does("cp", f"{web}:v1", f"oci-archive:{hythe.home}/x.tar:v1")
    (hythe.home / "x.packed").write_bytes(compress((hythe.home / "x.tar").read_bytes()))
    assert (
        hythe.does("cp", f"oci-archive:{hythe.home}/x.packed", f"oci:{hythe.home}/out:v1") == index().digest + "\n"
    )


def test_one_platform_is_copied_to_a_docker_archive_and_back(hythe: Hythe, web: str) -> None:
    printed = hythe.does(
        "cp", "--platform", "linux/s390x", f"{web}:v1", f"docker-archive:{hythe.home}/x.tar:box:v9"
    )
    assert printed.strip() in {each["digest"] for each in index().manifest.document()["manifests"]}
    assert hythe.does("cp", f"docker-archive:{hythe.home}/x.tar:box:v9", f"{web}-box:v9") == printed
    assert hythe.does("cp", f"docker-archive:{hythe.home}/x.tar", f"{web}-box:v8") == printed


def test_a_dry_run_says_what_would_move(hythe: Hythe, web: str) -> None:
    words = ("cp", f"{web}:v1", f"{web}-dry:v1")
    plan: dict[str, Any] = json.loads(hythe.does(*words, "--dry-run", "--json"))
    assert len(plan["copies"]) == 7
    assert plan["root"] == index().digest
    assert "not found" in hythe.fails("cp", f"{web}-dry:v1", f"oci:{hythe.home}/layout")
    assert not (hythe.home / "layout").exists()
    assert index().digest in hythe.does("cp", f"{web}:v1", f"oci-archive:{hythe.home}/x.tar", "--dry-run")
    assert not (hythe.home / "x.tar").exists()


def test_a_copy_that_fails_leaves_the_archive_that_was_there(hythe: Hythe, web: str) -> None:
    path = hythe.home / "x.tar"
    path.write_text("precious")
    hythe.fails("cp", f"{web}:v1", f"docker-archive:{path}:Box:v1")
    hythe.fails("cp", f"oci-archive:{path}", f"docker-archive:{path}:box:v1")
    assert path.read_text() == "precious"
    assert os.listdir(hythe.home) == ["x.tar"]


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("{web}:nope", "oci:x", r"verbs/web:nope: not found"),
        ("{web}:v1", "oci:x --platform linux/riscv64", r"no image for linux/riscv64; there are: linux/amd64, "),
        ("{web}:v1", "oci:x --platform linux", r"names no processor"),
        ("Web:v1", "oci:x", r"repository name must be lowercase"),
        ("oci:nothing", "oci:x", r"nothing: not an OCI layout"),
        ("oci-archive:nothing", "oci:x", r"open nothing: no such file or directory"),
        ("oci:", "oci:x", r"a path is missing"),
        ("127.0.0.1:9/x", "oci:x", r"127\.0\.0\.1:9: connection refused"),
        ("{web}:v1", "{web}@sha256:" + "0" * 64, r"what is copied has the digest"),
        ("{web}:v1", "oci-archive:/nonexistent/x.tar", r"No such file or directory"),
    ],
)
def test_what_cannot_be_copied_is_said_in_one_line(
    hythe: Hythe, web: str, source: str, target: str, why: str
) -> None:
    words = f"cp {source} {target}".replace("{web}", web).split()
    assert re.search(why, hythe.fails(*words))


def test_a_full_disk_is_said_in_one_line(hythe: Hythe, web: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    full = hythe.home / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(full)], check=True)
    try:
        (full / "filler").write_bytes(bytes(12 << 10))
        assert "No space left on device" in hythe.fails("cp", f"{web}:v1", f"oci-archive:{full}/x.tar")
        assert os.listdir(full) == ["filler"]
    finally:
        subprocess.run(["umount", str(full)], check=True)


# --- lists, manifests, search


def test_a_catalogue_lists_what_one_may_see(hythe: Hythe, web: str, server: Server, guarded: Registry) -> None:
    assert "verbs/web" in hythe.does("catalog", server.host).splitlines()
    assert all(name.startswith("public/") for name in hythe.does("catalog", guarded.host).splitlines())


def test_a_manifest_is_shown_as_docker_shows_it(hythe: Hythe, web: str) -> None:
    assert json.loads(hythe.does("manifest", "inspect", f"{web}:v1")) == index().manifest.document()
    listed = json.loads(hythe.does("manifest", "inspect", "-v", f"{web}:v1"))
    assert [each["Descriptor"]["platform"]["architecture"] for each in listed] == list(ARCHES)
    assert all(each["Ref"] == f"{web}:v1@{each['Descriptor']['digest']}" for each in listed)
    assert [each["OCIManifest"]["schemaVersion"] for each in listed] == [2, 2]
    child = listed[1]["Descriptor"]
    shown = json.loads(hythe.does("manifest", "inspect", f"{web}:v1", f"{web}@{child['digest']}"))
    assert shown == listed[1]["OCIManifest"]
    single = json.loads(hythe.does("manifest", "inspect", "-v", f"{web}:v1", f"{web}@{child['digest']}"))
    assert single["Descriptor"] == child
    assert "is no list" in hythe.fails("manifest", "inspect", f"{web}@{child['digest']}", f"{web}:v1")
    assert "it has sha256:" in hythe.fails("manifest", "inspect", f"{web}:v1", f"{web}:v1")
    assert hythe("manifest", "inspect", "a", "b", "c").status == USAGE


def test_a_search_has_dockers_columns(hythe: Hythe, web: str, server: Server) -> None:
    lines = hythe.does("search", f"{server.host}/verbs/we").splitlines()
    assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL", "AUTOMATED"]
    assert "verbs/web" in {line.split()[0] for line in lines[1:]}
    assert hythe.does(
        "search", f"{server.host}/verbs/web", "--format", "{{.Name}}|{{ .StarCount }}", "--limit", "1"
    )
    assert hythe.does("search", f"{server.host}/verbs", "--filter", "stars=1").count("\n") == 1
    assert "outside the range" in hythe.fails("search", f"{server.host}/x", "--limit", "0")
    assert "invalid filter" in hythe.fails("search", f"{server.host}/x", "--filter", "a=b")
    wide = hythe.does("search", f"{server.host}/verbs/web", "--format", "table {{.Name}}\\t{{upper .StarCount}}")
    assert wide.splitlines()[0].split() == ["NAME", "STARS"]
    json_line = '{"Description":"","IsAutomated":"false","IsOfficial":"false","Name":"verbs/web","StarCount":"0"}'
    assert json_line in hythe.does("search", f"{server.host}/verbs/web", "--format", "{{json .}}")
    assert '"Name":"verbs/web"' in hythe.does("search", f"{server.host}/verbs/web", "--format", "json")
    assert "no entry for key" in hythe.fails("search", f"{server.host}/verbs", "--format", "{{.Nope}}")


def test_a_strangers_words_do_not_reach_the_terminal_as_they_are(hythe: Hythe) -> None:
    row = {"name": "a\u001b[31m", "description": "d\u001b]0;x\u0007", "star_count": "many", "is_official": 1}
    answer = Answer(200, {}, json.dumps({"results": [row, 7]}).encode())
    with faulty(lambda asked: answer) as server:
        printed = hythe.does("search", f"{server.host}/a")
    assert "\u001b" not in printed


def test_a_registry_without_a_search_says_so(hythe: Hythe, debian_host: str) -> None:
    assert "has no search; hythe catalog" in hythe.fails("search", f"{debian_host}/x")


def test_the_version_is_told_by_dockers_template(hythe: Hythe) -> None:
    assert hythe.does("version").startswith(f"Hythe:\n Version:          {registry.__version__}\n")
    assert hythe.does("version", "--format", "{{.Server.Version}}") == registry.__version__ + "\n"
    found = json.loads(hythe.does("version", "-f", "{{json .}}"))
    assert found["Client"]["Os"] == "linux"
    assert json.loads(hythe.does("version", "--format", "json")) == found
    assert "no entry for key" in hythe.fails("version", "--format", "{{.Nope}}")


def test_what_podman_was_told_logs_us_in(hythe: Hythe, guarded: Registry) -> None:
    name, password = guarded.user("podder")
    guarded.grant("user:podder", "pull,push", "podder/*")
    file = hythe.home / "auth.json"
    skopeo = peers.program("skopeo")
    login = ["login", "-u", name, "-p", password, "--tls-verify=false", "--authfile", str(file), guarded.host]
    subprocess.run([skopeo, *login], capture_output=True, check=True)
    assert "not allowed without a login" in hythe.fails("tags", f"{guarded.host}/podder/x")
    hythe.environment["REGISTRY_AUTH_FILE"] = str(file)
    assert "no such repository" in hythe.fails("tags", f"{guarded.host}/podder/x")
    said = hythe("logout", guarded.host)
    assert said.out == f"Not logged in to {guarded.host}\n"
    assert f"{file} still has credentials for {guarded.host}" in said.err


def test_settings_that_cannot_be_used_stop_a_verb(hythe: Hythe) -> None:
    path = hythe.home / ".config/hythe/client.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("mirror: {}\n")
    assert "client.yaml" in hythe.fails("tags", "busybox")


def test_wrong_usage_is_exit_status_2(hythe: Hythe) -> None:
    assert hythe("cp", "one").status == USAGE
    assert hythe("nonsense").status == USAGE


# --- how it starts


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["--help"], {"asyncio", "aiohttp", "yaml", "ssl", "msgspec", "starlette", "sqlalchemy", "uvicorn"}),
        (["logout", "x.example"], {"aiohttp", "yaml", "msgspec", "starlette", "sqlalchemy", "uvicorn"}),
        (["cp", "--help"], {"aiohttp", "yaml", "msgspec", "starlette", "sqlalchemy", "uvicorn", "httpx"}),
    ],
)
def test_a_verb_imports_only_what_it_needs(hythe: Hythe, words: list[str], without: set[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "registry", *words]
    done = subprocess.run(command, env=hythe.environment, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "registry" in imported
    assert not imported & without
