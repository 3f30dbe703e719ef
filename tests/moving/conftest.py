"""A real docker-registry that real clients pushed to, and an operator who moves from it and to it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytest.register_assert_rewrite("tests.moving.holdings")

from registry.cli import admin
from tests.gc.keeper import Keeper
from tests.support import images, oci, peers
from tests.support.peers import Client, DockerRegistry
from tests.support.warm import Forker, WarmServer, forker

StartPeer = Callable[[Path], DockerRegistry]
LARGE_BYTES = 1_200_000  # more than moves in one piece


@dataclass(frozen=True)
class Ran:
    """What became of a verb."""

    status: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def warm() -> Iterator[Forker]:
    with forker() as running:
        yield running


@pytest.fixture(scope="session")
def skopeo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with peers.container_tools() as make:
        yield peers.as_skopeo(make("skopeo"), tmp_path_factory.mktemp("skopeo"))


def make_world(skopeo: Client, directory: Path) -> None:
    """Push to a docker-registry as docker and podman would, and what only programs push."""
    peers.require_busybox()
    rich, multi = images.rich_image(1, large_bytes=LARGE_BYTES), images.two_platforms("oci")
    schema2 = images.busybox_image("schema 2", flavour=images.DOCKER)
    layout = images.write_layout(directory / "layout", {"rich": rich, "multi": multi})
    archive = images.write_docker_archive(directory / "archive.tar", {"any:v1": schema2})
    registry = DockerRegistry(directory).start()

    def push(source: str, target: str, *words: str) -> None:
        skopeo("copy", *words, "--dest-tls-verify=false", source, f"docker://{registry.host}/{target}")

    try:
        push(f"oci:{layout}:rich", "team/oci:v1", "--preserve-digests")
        push(f"oci:{layout}:multi", "team/multi:v1", "--preserve-digests", "--all")
        push(f"docker-archive:{archive}", "team/docker:v1")
        with peers.http_client(registry) as http:
            peers.upload(http, "team/multi/docker", images.two_platforms("docker", flavour=images.DOCKER), "v1")
            signature = images.artifact(rich, "application/vnd.test.signature", b"signed")
            subject = rich.digest.replace(":", "-")
            peers.upload(http, "team/oci", signature)
            fallback = oci.index([signature.manifest.descriptor()])
            put_manifest(http, "team/oci", fallback, subject)
            strong, made = oci.blob(3000, algorithm="sha512"), oci.config()
            for content in (strong, made):
                oci.push_blob(http, "strong", content)
            put_manifest(http, "strong", oci.image(made, [strong]), "v1")
    finally:
        registry.stop()


def put_manifest(http: httpx.Client, repository: str, content: oci.Content, reference: str) -> None:
    answer = http.put(
        oci.manifest_path(repository, reference),
        content=content.data,
        headers={"Content-Type": content.media_type},
    )
    assert answer.status_code == 201, answer.text


@pytest.fixture(scope="session")
def world(skopeo: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A docker-registry's storage, made by real pushes; copy it."""
    directory = tmp_path_factory.mktemp("world")
    make_world(skopeo, directory)
    return directory / "data"


@pytest.fixture
def start_peer(tmp_path: Path) -> Iterator[StartPeer]:
    """Start docker-registries, on a copy of a storage or on nothing."""
    running: list[DockerRegistry] = []

    def start(data: Path | None = None) -> DockerRegistry:
        peer = DockerRegistry(tmp_path / f"peer{len(running)}")
        if data is not None:
            shutil.copytree(data, peer.data)
        running.append(peer)
        return peer.start()

    yield start
    for peer in running:
        peer.stop()


@pytest.fixture
def peer(start_peer: StartPeer, world: Path) -> DockerRegistry:
    """A docker-registry that serves the world."""
    return start_peer(world)


@pytest.fixture
def there(peer: DockerRegistry) -> Iterator[httpx.Client]:
    with peers.http_client(peer) as client:
        yield client


@pytest.fixture
def registry(warm: Forker, tmp_path: Path) -> Iterator[WarmServer]:
    """Our registry, which serves all the time."""
    # Without a history, what is deleted is garbage at once.
    settings = {"gc": {"enabled": False, "grace_seconds": 0}, "policy": {"history_days": 0}}
    server = WarmServer(warm, tmp_path / "ours", settings).start()
    yield server
    server.kill()


@pytest.fixture
def here(registry: WarmServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=registry.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def keeper(registry: WarmServer) -> Keeper:
    return Keeper(registry.data)


@pytest.fixture
def run(registry: WarmServer, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `hythe admin WORDS` beside our registry, with its settings and others above them."""

    def with_words(*words: str | Path, **settings: Any) -> Ran:
        config = registry.directory / "admin.yaml"
        chosen = {**registry.settings, **settings}
        assert chosen["storage"]["directory"], "else it is the machine's own registry"
        config.write_text(yaml.safe_dump(chosen))
        capsys.readouterr()
        status = admin.run(["--config", str(config), *map(str, words)])
        return Ran(status, *capsys.readouterr())

    return with_words


def grow_old(directory: Path) -> None:
    """As if nobody had written there for hours."""
    past = time.time() - 7200
    for path in directory.rglob("data"):
        os.utime(path, (past, past))
