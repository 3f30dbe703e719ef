"""podman, and buildah, which shares its store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import MakeServer
from tests.support import images, peers
from tests.support.images import Image, Tree
from tests.support.peers import PLAIN, Client
from tests.support.server import Server

pytestmark = pytest.mark.peer


def load(podman: Client, directory: Path, image: Image, name: str) -> None:
    """Bring *image* into podman's store under *name*."""
    podman("load", "--input", images.write_docker_archive(directory / "load.tar", {name: image}))


def push(podman: Client, directory: Path, name: str, *options: str) -> str:
    """Push *name* and return the digest that podman writes down."""
    podman("push", PLAIN, "--digestfile", directory / "digest", *options, name)
    return (directory / "digest").read_text()


def unpacked_tree(podman: Client, name: str) -> Tree:
    """The files of the image, as podman unpacked them."""
    root = podman("image", "mount", name).strip()
    try:
        return images.tree_of_directory(Path(root))
    finally:
        podman("image", "unmount", name)


@pytest.mark.parametrize(("form", "media_type"), [("oci", images.OCI_MANIFEST), ("v2s2", images.DOCKER_MANIFEST)])
def test_what_podman_pushed_in_either_format_it_pulls_again_and_runs(
    server: Server,
    http: httpx.Client,
    podman: Client,
    repository: str,
    tmp_path: Path,
    form: str,
    media_type: str,
) -> None:
    name = f"{server.host}/{repository}:v1"
    load(podman, tmp_path, images.busybox_image(f"as {form}"), name)

    digest = push(podman, tmp_path, name, "--format", form)
    stored = peers.stored_manifest(http, repository, "v1")
    assert (stored.digest, stored.media_type) == (digest, media_type)

    podman("rmi", "--all", "--force")
    podman("pull", PLAIN, name)
    assert podman("run", "--rm", name).strip() == f"as {form}"
    assert podman("image", "inspect", "--format", "{{.Digest}}", name).strip() == digest


def test_layers_that_podman_compressed_with_zstd_are_kept_and_pulled(
    server: Server, http: httpx.Client, podman: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    image = images.make_image([images.busybox_layer(), images.layer([images.Entry("unique", b"zstd")])])
    load(podman, tmp_path, image, name)

    push(podman, tmp_path, name, "--format", "oci", "--compression-format", "zstd")

    layers = peers.stored_manifest(http, repository, "v1").document()["layers"]
    assert layers[-1]["mediaType"] == images.OCI.compressed["zstd"]
    podman("rmi", "--all", "--force")
    podman("pull", PLAIN, name)
    assert unpacked_tree(podman, name) == images.tree_of_layers(image.tars)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_files_of_a_rich_image_come_out_with_names_modes_and_owners(
    server: Server,
    http: httpx.Client,
    podman: Client,
    repository: str,
    compression: images.Compression,
) -> None:
    image = images.rich_image(41, compression=compression, large_bytes=16 << 20)
    peers.upload(http, repository, image, "v1")

    podman("pull", PLAIN, f"{server.host}/{repository}:v1")

    tree = unpacked_tree(podman, f"{server.host}/{repository}:v1")
    assert tree == images.tree_of_layers(image.tars)


def test_an_image_is_pulled_by_its_digest(
    server: Server, http: httpx.Client, podman: Client, repository: str
) -> None:
    image = images.busybox_image("by digest")
    peers.upload(http, repository, image)
    name = f"{server.host}/{repository}@{image.digest}"

    podman("pull", PLAIN, name)

    assert podman("run", "--rm", name).strip() == "by digest"


def test_a_manifest_list_is_pushed_with_its_images_and_pulled_for_each_platform(
    server: Server, http: httpx.Client, podman: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:all"
    index = images.two_platforms("listed by podman")
    children = {child.config.document()["architecture"]: child for child in index.children}
    layout = images.write_layout(tmp_path / "layout", dict(children))
    podman("manifest", "create", name)
    for architecture in children:
        podman("manifest", "add", name, f"oci:{layout}:{architecture}")

    podman(
        "manifest",
        "push",
        "--all",
        PLAIN,
        "--format",
        "oci",
        "--digestfile",
        tmp_path / "digest",
        name,
        f"docker://{name}",
    )

    stored = peers.stored_manifest(http, repository, "all")
    assert stored.digest == (tmp_path / "digest").read_text()
    assert {entry["digest"] for entry in stored.document()["manifests"]} == {
        child.digest for child in children.values()
    }
    podman("rmi", "--all", "--force")
    podman("pull", PLAIN, "--arch", "s390x", name)
    assert podman("image", "inspect", "--format", "{{.Architecture}}", name).strip() == "s390x"
    podman("pull", PLAIN, "--arch", images.host_platform()["architecture"], name)
    assert podman("run", "--rm", name).strip() == f"listed by podman for {images.host_platform()['architecture']}"


def test_a_multi_platform_image_is_pulled_for_this_machine(
    server: Server, http: httpx.Client, podman: Client, repository: str
) -> None:
    peers.upload(http, repository, images.two_platforms("hi", flavour=images.DOCKER), "v1")

    said = podman("run", "--rm", PLAIN, f"{server.host}/{repository}:v1")

    assert said == f"hi for {images.host_platform()['architecture']}"


def test_a_second_push_finds_the_layers_there(
    server: Server, podman: Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}:v1"
    load(podman, tmp_path, images.rich_image(42), name)
    digest = push(podman, tmp_path, name)

    said = podman.said("--log-level", "debug", "push", PLAIN, name)

    assert "PATCH " not in said
    assert push(podman, tmp_path, name) == digest


def test_a_missing_tag_is_said_to_be_unknown(
    server: Server, http: httpx.Client, podman: Client, repository: str
) -> None:
    peers.upload(http, repository, images.busybox_image(), "v1")

    said = podman.refused("pull", PLAIN, f"{server.host}/{repository}:v2")

    assert f"reading manifest v2 in {server.host}/{repository}: manifest unknown" in said


def test_what_podman_pushed_docker_runs_and_the_other_way_round(
    server: Server, podman: Client, docker: Client, repository: str, tmp_path: Path
) -> None:
    ours, theirs = f"{server.host}/{repository}/podman:v1", f"{server.host}/{repository}/docker:v1"
    load(podman, tmp_path, images.busybox_image("from podman"), ours)
    podman("push", PLAIN, "--format", "oci", ours)
    archive = images.write_docker_archive(tmp_path / "docker.tar", {theirs: images.busybox_image("from docker")})
    docker("load", "--input", archive)
    docker("push", theirs)

    assert docker("run", "--rm", "--network", "none", ours).strip() == "from podman"
    assert podman("run", "--rm", PLAIN, theirs).strip() == "from docker"


def test_buildah_builds_on_an_image_of_the_registry_and_pushes_the_result(
    server: Server, http: httpx.Client, buildah: Client, podman: Client, repository: str, tmp_path: Path
) -> None:
    base = images.busybox_image("the base")
    peers.upload(http, f"{repository}/base", base, "v1")
    name = f"{server.host}/{repository}/app:v1"
    (tmp_path / "note").write_text("copied\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {server.host}/{repository}/base:v1\n"
        "COPY note /srv/note\n"
        "RUN echo built >> /srv/note\n"
        'CMD ["cat", "/srv/note"]\n'
    )

    buildah("bud", PLAIN, "--isolation", "chroot", "--layers", "--tag", name, tmp_path)
    buildah("push", PLAIN, "--digestfile", tmp_path / "digest", name)

    stored = peers.stored_manifest(http, f"{repository}/app", "v1")
    assert stored.digest == (tmp_path / "digest").read_text()
    assert len(stored.document()["layers"]) == len(base.layers) + 2
    podman("rmi", "--all", "--force")
    assert podman("run", "--rm", PLAIN, name) == "copied\nbuilt\n"


def test_an_image_pushed_before_a_restart_is_pulled_after_it(
    make_server: MakeServer, podman: Client, tmp_path: Path
) -> None:
    server = make_server()
    name = f"{server.host}/team/web:v1"
    load(podman, tmp_path, images.busybox_image("still here"), name)
    push(podman, tmp_path, name)
    podman("rmi", "--all", "--force")

    server.restart()

    assert podman("run", "--rm", PLAIN, name).strip() == "still here"


def test_two_workers_serve_the_pushes_and_pulls_of_several_clients_at_once(
    make_server: MakeServer, podman: Client, tmp_path: Path
) -> None:
    server = make_server(server={"workers": 2})
    names = [f"{server.host}/team/app{number}:v1" for number in range(4)]
    for number, name in enumerate(names):
        load(podman, tmp_path, images.rich_image(50 + number), name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: podman("push", PLAIN, name), names))
    podman("rmi", "--all", "--force")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: podman("pull", PLAIN, name), names))

    seeds = [podman("image", "inspect", "--format", "{{.Labels.seed}}", name).strip() for name in names]
    assert seeds == ["50", "51", "52", "53"]
