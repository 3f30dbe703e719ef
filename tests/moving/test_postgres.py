"""Moving in and out with the index on PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from registry.content import docker_layout
from tests.moving import holdings
from tests.moving.conftest import Run, StartPeer
from tests.support import images, peers
from tests.support.peers import DockerRegistry
from tests.support.postgres import Postgres
from tests.support.warm import Forker, WarmServer

pytestmark = pytest.mark.peer


@pytest.fixture
def registry(warm: Forker, postgres: Postgres, tmp_path: Path) -> WarmServer:
    """Our registry on PostgreSQL. It is not started: tests of others have the servers."""
    settings = {"index": {"url": postgres.url(postgres.database())}, "gc": {"enabled": False}}
    return WarmServer(warm, tmp_path / "ours", settings)


def test_moving_in_catching_up_and_out_again(
    registry: WarmServer,
    peer: DockerRegistry,
    there: httpx.Client,
    run: Run,
    start_peer: StartPeer,
    tmp_path: Path,
) -> None:
    assert run("migrate").status == 0
    assert run("import", peer.data).status == 0
    registry.start()
    try:
        with peers.http_client(registry) as here:
            assert holdings.of(here) == holdings.of(there)
            moved = images.busybox_image("moved there")
            peers.upload(there, "team/oci", moved, "v1", "v2")
            peers.upload(here, "team/docker", moved, "v1")
            shutil.rmtree(peer.data / docker_layout.REPOSITORIES / "strong")
            report = run("import", "--json", "--prune", peer.data).report
            counted = ("tags_created", "tags_moved", "tags_kept", "tags_deleted", "problems", "conflicts")
            assert [report[name] for name in counted] == [1, 1, 1, 1, [], []]
            assert peers.stored_manifest(here, "team/oci", "v1") == moved.manifest
            assert peers.stored_manifest(here, "team/docker", "v1") == moved.manifest
            past = run("history", "team/oci:v1", "--json").out
            assert '"moved"' in past
            assert run("gc", "--full").status == 0
            assert run("export", tmp_path / "out", "--format", "registry").status == 0
            with peers.http_client(start_peer(tmp_path / "out")) as back:
                assert holdings.of(back) == holdings.of(here)
    finally:
        registry.kill()
