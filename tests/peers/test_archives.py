"""What `hythe cp` writes, docker and podman load and run; what they save, it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import registry
from tests.support import images, peers
from tests.support.peers import Client
from tests.support.server import Server


def cp(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "registry", "cp", *words]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(Path(registry.__file__).parent.parent)}
    done = subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.peer
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_an_archive_of_ours_is_loaded_and_one_of_theirs_is_pushed(
    request: pytest.FixtureRequest,
    server: Server,
    http: httpx.Client,
    repository: str,
    tmp_path: Path,
    engine: str,
) -> None:
    client: Client = request.getfixturevalue(engine)
    image = images.busybox_image()
    peers.upload(http, repository, image, "v1")
    place, ours, theirs = f"{server.host}/{repository}", tmp_path / "ours.tar", tmp_path / "theirs.tar"
    cp(tmp_path, f"{place}:v1", f"docker-archive:{ours}:registry.example/box:v9")
    client("load", "-i", str(ours))
    name = "registry.example/box:v9"
    assert image.config.digest.removeprefix("sha256:") in client("inspect", "--format", "{{.Id}}", name)
    client("save", "-o", str(theirs), name)
    digest = cp(tmp_path, f"docker-archive:{theirs}:{name}", f"{place}:v2")
    stored = peers.stored_manifest(http, repository, "v2")
    assert stored.digest == digest
    assert stored.document()["config"]["digest"] == image.config.digest
    client("rmi", name)
    client("pull", *([peers.PLAIN] if engine == "podman" else []), f"{place}:v2")
