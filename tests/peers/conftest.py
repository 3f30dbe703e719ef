"""The peers, each started when the first test asks for it and kept for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeServer
from tests.support import peers
from tests.support.peers import Client, Containerd
from tests.support.server import Server

MakeTool = Callable[[str], Client]


@pytest.fixture(scope="session", autouse=True)
def busybox() -> None:
    """Every image of these tests is made of it."""
    peers.require_busybox()


@pytest.fixture(autouse=True)
def no_fault_in_the_log(server: Server) -> Iterator[None]:
    """Clients try again after a 500 and say nothing of it; the server's log does."""
    size_bytes = server.log_path.stat().st_size
    yield
    assert not peers.faults(server, size_bytes)


@pytest.fixture
def make_server(make_server: MakeServer) -> Iterator[MakeServer]:
    """Servers of the test's own, in whose logs there is no fault either."""
    made: list[Server] = []

    def make(*arguments: Any, **settings: Any) -> Server:
        made.append(make_server(*arguments, **settings))
        return made[-1]

    yield make
    assert not [line for server in made for line in peers.faults(server)]


@pytest.fixture(scope="session")
def running_containerd() -> Iterator[Containerd]:
    with peers.running_containerd() as containerd:
        yield containerd


@pytest.fixture
def containerd(running_containerd: Containerd) -> Containerd:
    """containerd without any image of its own."""
    running_containerd.forget()
    return running_containerd


@pytest.fixture(scope="session")
def running_docker(running_containerd: Containerd) -> Iterator[Client]:
    with peers.running_docker(running_containerd) as docker:
        yield docker


@pytest.fixture
def docker(running_docker: Client) -> Client:
    """The docker client, whose engine has no image."""
    running_docker("system", "prune", "--all", "--force")
    return running_docker


@pytest.fixture(scope="session")
def make_tool() -> Iterator[MakeTool]:
    with peers.container_tools() as make:
        yield make


@pytest.fixture
def podman(make_tool: MakeTool) -> Client:
    """podman, without any image or manifest list."""
    found = make_tool("podman")
    found("rmi", "--all", "--force")
    return found


@pytest.fixture
def buildah(make_tool: MakeTool) -> Client:
    """buildah, which shares podman's store."""
    return make_tool("buildah")


@pytest.fixture
def skopeo(make_tool: MakeTool, tmp_path: Path) -> Client:
    """skopeo, which has no store, and remembers nothing of other tests."""
    return peers.as_skopeo(make_tool("skopeo"), tmp_path / "skopeo")


@pytest.fixture
def umoci(make_tool: MakeTool) -> Client:
    """umoci, which unpacks OCI layouts and shares no code with the engines."""
    return make_tool("umoci")
