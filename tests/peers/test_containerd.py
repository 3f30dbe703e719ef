"""containerd, which Kubernetes uses, through `ctr`."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import httpx
import pytest

from tests.conftest import MakeServer
from tests.support import images, peers
from tests.support.images import Image, Index, Tree
from tests.support.peers import Client, Containerd
from tests.support.server import Server

pytestmark = pytest.mark.peer


def load(ctr: Client, directory: Path, items: dict[str, Image | Index]) -> None:
    """Bring *items* into containerd's store under their names."""
    archive = images.write_oci_archive(directory / "load.tar", items)
    ctr("images", "import", "--all-platforms", "--no-unpack", archive)


def unpacked_tree(ctr: Client, name: str, directory: Path) -> Tree:
    """The files of the image, as containerd unpacked them."""
    directory.mkdir()
    ctr("images", "mount", name, directory)
    try:
        return images.tree_of_directory(directory)
    finally:
        ctr("images", "unmount", "--rm", directory)


def run(ctr: Client, name: str) -> str:
    """What the image prints.

    Debian's runc now and then cannot save its own state file on a busy machine; that is no registry's doing.
    """
    for _ in range(3):
        with contextlib.suppress(RuncStumbled):
            return _run_once(ctr, name, f"once-{uuid.uuid4()}")
    raise AssertionError("runc stumbled three times")


class RuncStumbled(Exception):
    """runc could not save its state, or found none of what it had just made."""


_STUMBLES = ("unable to store init state", "cannot start a container that has stopped")


def _run_once(ctr: Client, name: str, container: str) -> str:
    try:
        return ctr("run", "--rm", name, container).strip()
    except AssertionError as error:
        if any(words in str(error) for words in _STUMBLES):
            raise RuncStumbled from error
        raise


@pytest.mark.parametrize(
    ("flavour", "compression"),
    [
        pytest.param(images.OCI, "gzip", id="oci-gzip"),
        pytest.param(images.OCI, "zstd", id="oci-zstd"),
        pytest.param(images.OCI, "none", id="oci-none"),
        pytest.param(images.DOCKER, "gzip", id="docker-gzip"),
    ],
)
def test_what_containerd_pushed_it_pulls_again_byte_for_byte_and_runs(
    server: Server,
    http: httpx.Client,
    containerd: Containerd,
    repository: str,
    tmp_path: Path,
    flavour: images.Flavour,
    compression: images.Compression,
) -> None:
    name = f"{server.host}/{repository}:v1"
    image = images.busybox_image("unpacked and run", flavour=flavour, compression=compression)
    load(containerd.ctr, tmp_path, {name: image})

    containerd.ctr("images", "push", "--plain-http", name)
    assert peers.stored_manifest(http, repository, "v1") == image.manifest
    containerd.forget()
    containerd.ctr("images", "pull", "--plain-http", name)

    assert containerd.ctr("content", "get", image.digest).encode() == image.manifest.data
    assert run(containerd.ctr, name) == "unpacked and run"


def test_the_files_of_a_rich_image_come_back_with_names_modes_and_owners(
    server: Server, http: httpx.Client, containerd: Containerd, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    image = images.rich_image(31, large_bytes=24 << 20)
    load(containerd.ctr, tmp_path, {name: image})

    containerd.ctr("images", "push", "--plain-http", name)
    containerd.forget()
    containerd.ctr("images", "pull", "--plain-http", name)

    assert unpacked_tree(containerd.ctr, name, tmp_path / "root") == images.tree_of_layers(image.tars)


def test_a_multi_platform_image_is_pushed_whole_and_pulled_for_this_machine(
    server: Server, http: httpx.Client, containerd: Containerd, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    index = images.two_platforms("hello")
    foreign, ours = index.children
    load(containerd.ctr, tmp_path, {name: index})

    containerd.ctr("images", "push", "--plain-http", name)
    for manifest in index.manifests:
        assert peers.stored_manifest(http, repository, manifest.digest) == manifest
    containerd.forget()
    containerd.ctr("images", "pull", "--plain-http", name)

    held = containerd.contents()
    assert {index.digest, ours.digest} <= held
    assert foreign.digest not in held
    assert run(containerd.ctr, name) == f"hello for {images.host_platform()['architecture']}"


def test_all_platforms_are_pulled_when_asked_for(
    server: Server, http: httpx.Client, containerd: Containerd, repository: str
) -> None:
    index = images.two_platforms(flavour=images.DOCKER)
    peers.upload(http, repository, index, "v1")

    containerd.ctr("content", "fetch", "--plain-http", "--all-platforms", f"{server.host}/{repository}:v1")

    wanted = {blob.digest for blob in (*index.manifests, *index.blobs)}
    assert containerd.contents() == wanted


def test_an_image_is_pulled_by_its_digest(
    server: Server, http: httpx.Client, containerd: Containerd, repository: str
) -> None:
    image = images.busybox_image("by digest")
    peers.upload(http, repository, image)
    name = f"{server.host}/{repository}@{image.digest}"

    containerd.ctr("images", "pull", "--plain-http", name)

    assert run(containerd.ctr, name) == "by digest"


def test_a_second_push_and_one_into_another_repository_find_the_layers(
    server: Server, http: httpx.Client, containerd: Containerd, repository: str, tmp_path: Path
) -> None:
    first, second = f"{server.host}/{repository}/a:v1", f"{server.host}/{repository}/b:v1"
    image = images.rich_image(32)
    load(containerd.ctr, tmp_path, {first: image})
    containerd.ctr("images", "push", "--plain-http", first)
    containerd.ctr("images", "tag", first, second)

    said = containerd.ctr("images", "push", "--plain-http", first)
    containerd.ctr("images", "push", "--plain-http", second)

    assert "uploading" not in said
    assert peers.stored_manifest(http, f"{repository}/b", "v1") == image.manifest
    assert all(peers.has_blob(http, f"{repository}/b", blob.digest) for blob in image.blobs)


def test_a_missing_tag_is_not_found(
    server: Server, http: httpx.Client, containerd: Containerd, repository: str
) -> None:
    peers.upload(http, repository, images.busybox_image(), "v1")

    said = containerd.ctr.refused("images", "pull", "--plain-http", f"{server.host}/{repository}:v2")

    assert f"{server.host}/{repository}:v2: not found" in said


def test_what_docker_pushed_containerd_runs(
    server: Server, containerd: Containerd, docker: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    archive = images.write_docker_archive(tmp_path / "a.tar", {name: images.busybox_image("from docker")})
    docker("load", "--input", archive)
    docker("push", name)

    containerd.ctr("images", "pull", "--plain-http", name)

    assert run(containerd.ctr, name) == "from docker"


def test_an_image_pushed_before_a_restart_is_pulled_from_two_workers_after_it(
    make_server: MakeServer, containerd: Containerd, tmp_path: Path
) -> None:
    server = make_server(server={"workers": 2})
    name = f"{server.host}/team/web:v1"
    image = images.rich_image(33)
    load(containerd.ctr, tmp_path, {name: image})
    containerd.ctr("images", "push", "--plain-http", name)
    containerd.forget()

    server.restart()

    containerd.ctr("images", "pull", "--plain-http", name)
    assert unpacked_tree(containerd.ctr, name, tmp_path / "root") == images.tree_of_layers(image.tars)
