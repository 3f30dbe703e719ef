"""The docker engine and its client."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import MakeServer
from tests.support import images, peers
from tests.support.images import Image, Tree
from tests.support.peers import Client
from tests.support.server import Server

pytestmark = pytest.mark.peer

# What docker puts into every container beside the image.
ENGINE_FILES = re.compile(r"\.dockerenv|dev/.*|etc/(hostname|hosts|mtab|resolv\.conf)")


def load(docker: Client, directory: Path, image: Image, *names: str) -> None:
    """Bring *image* into docker's store under *names*."""
    docker("load", "--input", images.write_docker_archive(directory / "load.tar", {names[0]: image}))
    for name in names[1:]:
        docker("tag", names[0], name)


def push(docker: Client, name: str) -> str:
    """Push *name* and return the digest that docker prints."""
    found = re.search(r"digest: (sha256:[0-9a-f]{64}) size: \d+", docker("push", name))
    assert found
    return found[1]


def exported_tree(docker: Client, name: str, archive: Path) -> Tree:
    """The files of the image, as docker unpacked them."""
    container = docker("create", "--network", "none", name).strip()
    docker("export", "--output", archive, container)
    docker("rm", container)
    tree = images.tree_of_tar(archive)
    return {path: node for path, node in tree.items() if not ENGINE_FILES.fullmatch(path)}


def run(docker: Client, name: str, *command: str) -> str:
    """What the image prints."""
    return docker("run", "--rm", "--network", "none", name, *command).strip()


def test_what_docker_pushed_it_pulls_again_and_runs(
    server: Server, docker: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    load(docker, tmp_path, images.busybox_image("back again"), name)

    docker("push", name)
    docker("rmi", name)
    assert docker("images", "--all", "--quiet") == ""
    docker("pull", name)

    assert run(docker, name) == "back again"


def test_the_files_of_a_rich_image_come_back_with_names_modes_and_owners(
    server: Server, docker: Client, repository: str, tmp_path: Path
) -> None:
    image = images.rich_image(11, large_bytes=24 << 20)
    name = f"{server.host}/{repository}:v1"
    load(docker, tmp_path, image, name)

    docker("push", name)
    docker("rmi", name)
    docker("pull", name)

    assert exported_tree(docker, name, tmp_path / "out.tar") == images.tree_of_layers(image.tars)


def test_the_digest_that_docker_prints_is_the_registrys(
    server: Server, http: httpx.Client, docker: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    load(docker, tmp_path, images.busybox_image(), name)

    printed = push(docker, name)

    stored = peers.stored_manifest(http, repository, "v1")
    assert stored.media_type == images.DOCKER_MANIFEST
    assert stored.digest == printed
    head = http.head(f"/v2/{repository}/manifests/v1", headers={"Accept": images.DOCKER_MANIFEST})
    assert head.headers["Docker-Content-Digest"] == printed


def test_a_second_push_of_the_same_image_sends_nothing(
    server: Server, docker: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    image = images.rich_image(12)
    load(docker, tmp_path, image, name)
    first = push(docker, name)

    said = docker("push", name)

    assert said.count("Layer already exists") == len(image.layers)
    assert first in said


def test_a_push_into_a_second_repository_mounts_the_layers_of_the_first(
    server: Server, docker: Client, repository: str, tmp_path: Path
) -> None:
    first, second = f"{server.host}/{repository}/a:v1", f"{server.host}/{repository}/b:v1"
    image = images.rich_image(13)
    load(docker, tmp_path, image, first, second)
    docker("push", first)

    said = docker("push", second)

    assert said.count(f"Mounted from {repository}/a") == len(image.layers)
    docker("rmi", first, second)
    docker("pull", second)


def test_a_layer_deleted_from_the_first_repository_is_sent_to_the_second(
    server: Server, http: httpx.Client, docker: Client, repository: str, tmp_path: Path
) -> None:
    first, second = f"{server.host}/{repository}/a:v1", f"{server.host}/{repository}/b:v1"
    load(docker, tmp_path, images.busybox_image(repository), first, second)
    docker("push", first)
    layer = peers.stored_manifest(http, f"{repository}/a", "v1").document()["layers"][1]["digest"]
    assert http.delete(f"/v2/{repository}/a/blobs/{layer}").status_code == 202

    docker("push", second)

    assert peers.has_blob(http, f"{repository}/b", layer)
    docker("rmi", first, second)
    docker("pull", second)
    assert run(docker, second) == repository


def test_an_image_is_pulled_by_its_digest(server: Server, docker: Client, repository: str, tmp_path: Path) -> None:
    name = f"{server.host}/{repository}"
    load(docker, tmp_path, images.busybox_image("the one with this digest"), f"{name}:v1")
    digest = push(docker, f"{name}:v1")
    load(docker, tmp_path, images.busybox_image("another"), f"{name}:v1")
    docker("push", f"{name}:v1")
    docker("system", "prune", "--all", "--force")

    docker("pull", f"{name}@{digest}")

    assert run(docker, f"{name}@{digest}") == "the one with this digest"


def test_all_tags_are_pushed_and_pulled_at_once(
    server: Server, http: httpx.Client, docker: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}"
    tags = [f"v{number}" for number in range(5)]
    load(docker, tmp_path, images.busybox_image("one of many"), *(f"{name}:{tag}" for tag in tags))
    load(docker, tmp_path, images.busybox_image("the other"), f"{name}:other")

    docker("push", "--all-tags", name)
    assert http.get(f"/v2/{repository}/tags/list").json()["tags"] == ["other", *tags]

    docker("system", "prune", "--all", "--force")
    docker("pull", "--all-tags", name)
    assert run(docker, f"{name}:v3") == "one of many"
    assert run(docker, f"{name}:other") == "the other"


def test_a_missing_tag_is_said_to_be_missing(
    server: Server, http: httpx.Client, docker: Client, repository: str
) -> None:
    peers.upload(http, repository, images.busybox_image(), "v1")

    said = docker.refused("pull", f"{server.host}/{repository}:v2")

    assert f"manifest for {server.host}/{repository}:v2 not found: manifest unknown" in said


def test_a_missing_repository_is_said_to_be_missing(server: Server, docker: Client, repository: str) -> None:
    said = docker.refused("pull", f"{server.host}/{repository}:v1")

    assert f"{server.host}/{repository}" in said
    assert "not found" in said or "does not exist" in said


@pytest.mark.parametrize("flavour", [images.OCI, images.DOCKER], ids=["oci", "docker"])
def test_a_multi_platform_image_is_pulled_for_this_machine_or_for_the_one_asked_for(
    server: Server, http: httpx.Client, docker: Client, repository: str, flavour: images.Flavour
) -> None:
    index = images.two_platforms("hello", flavour=flavour)
    peers.upload(http, repository, index, "v1")
    name = f"{server.host}/{repository}:v1"
    here = images.host_platform()["architecture"]

    docker("pull", name)
    assert run(docker, name) == f"hello for {here}"
    pulled = docker.json("image", "inspect", name)[0]
    assert pulled["RepoDigests"] == [f"{server.host}/{repository}@{index.digest}"]

    docker("pull", "--platform", "linux/s390x", name)
    assert docker.json("image", "inspect", name)[0]["Architecture"] == "s390x"


def test_a_platform_that_the_index_lacks_is_an_error_that_names_it(
    server: Server, http: httpx.Client, docker: Client, repository: str
) -> None:
    peers.upload(http, repository, images.two_platforms(), "v1")

    said = docker.refused("pull", "--platform", "linux/riscv64", f"{server.host}/{repository}:v1")

    assert "no matching manifest for linux/riscv64" in said


def test_docker_makes_pushes_and_inspects_a_manifest_list(
    server: Server, http: httpx.Client, docker: Client, repository: str
) -> None:
    name = f"{server.host}/{repository}"
    children = images.two_platforms(flavour=images.DOCKER).children
    for child in children:
        peers.upload(http, repository, child, child.config.document()["architecture"])
    tagged = [f"{name}:{child.config.document()['architecture']}" for child in children]

    docker("manifest", "create", "--insecure", f"{name}:all", *tagged)
    digest = docker("manifest", "push", "--insecure", f"{name}:all").strip()

    stored = peers.stored_manifest(http, repository, "all")
    assert stored.digest == digest
    assert {entry["digest"] for entry in stored.document()["manifests"]} == {c.digest for c in children}
    docker("manifest", "rm", f"{name}:all")
    assert docker.json("manifest", "inspect", "--insecure", f"{name}:all") == stored.document()
    assert "no such manifest" in docker.refused("manifest", "inspect", "--insecure", f"{name}:none")


def test_what_docker_pulled_it_pushes_again_under_the_same_digest(
    server: Server, docker: Client, repository: str, tmp_path: Path
) -> None:
    first, second = f"{server.host}/{repository}/a:v1", f"{server.host}/{repository}/b:v1"
    load(docker, tmp_path, images.rich_image(14), first)
    digest = push(docker, first)
    docker("rmi", first)
    docker("pull", first)
    docker("tag", first, second)

    assert push(docker, second) == digest


def test_a_container_committed_on_a_pulled_image_is_pushed_upon_it(
    server: Server, http: httpx.Client, docker: Client, repository: str
) -> None:
    base = images.busybox_image("base", flavour=images.DOCKER)
    peers.upload(http, f"{repository}/base", base, "v1")
    name, base_name = f"{server.host}/{repository}/app:v1", f"{server.host}/{repository}/base:v1"
    docker("run", "--name", "builder", "--network", "none", base_name, "sh", "-c", "echo made here > /made")
    docker("commit", "--change", 'CMD ["cat", "/made"]', "builder", name)
    docker("rm", "builder")

    said = docker("push", name)

    assert said.count("Mounted from ") == len(base.layers)
    docker("system", "prune", "--all", "--force")
    assert run(docker, name) == "made here"
    layers = docker.json("image", "inspect", name)[0]["RootFS"]["Layers"]
    assert layers[:-1] == [images.digest_of(tar) for tar in base.tars]


def test_an_image_pushed_before_a_restart_is_pulled_after_it(
    make_server: MakeServer, docker: Client, tmp_path: Path
) -> None:
    server = make_server()
    name = f"{server.host}/team/web:v1"
    image = images.rich_image(15)
    load(docker, tmp_path, image, name)
    digest = push(docker, name)
    docker("rmi", name)

    server.restart()

    docker("pull", name)
    assert exported_tree(docker, name, tmp_path / "out.tar") == images.tree_of_layers(image.tars)
    assert docker.json("image", "inspect", name)[0]["RepoDigests"] == [f"{server.host}/team/web@{digest}"]
    assert "Layer already exists" in docker("push", name)


def test_two_workers_serve_the_pushes_and_pulls_of_several_clients_at_once(
    make_server: MakeServer, docker: Client, tmp_path: Path
) -> None:
    server = make_server(server={"workers": 2})
    names = [f"{server.host}/team/app{number}:v1" for number in range(4)]
    for number, name in enumerate(names):
        load(docker, tmp_path, images.rich_image(20 + number), name)

    at_once(docker, [("push", name) for name in names])
    docker("system", "prune", "--all", "--force")
    at_once(docker, [("pull", name) for name in names])

    labels = [docker.json("image", "inspect", name)[0]["Config"]["Labels"]["seed"] for name in names]
    assert labels == ["20", "21", "22", "23"]


def at_once(client: Client, calls: list[tuple[str, ...]]) -> None:
    """Make all *calls* at the same time, and raise the first failure."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in pool.map(lambda arguments: client(*arguments), calls):
            pass
