"""skopeo, which moves manifests byte for byte, and umoci, which unpacks what it brought."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support import images, peers
from tests.support.peers import PLAIN, Client
from tests.support.server import Server

pytestmark = pytest.mark.peer

TO, FROM = "--dest-tls-verify=false", "--src-tls-verify=false"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_an_oci_layout_comes_back_with_the_same_manifest_and_the_same_files(
    server: Server,
    http: httpx.Client,
    skopeo: Client,
    umoci: Client,
    repository: str,
    tmp_path: Path,
    compression: images.Compression,
) -> None:
    image = images.rich_image(1, compression=compression)
    layout = images.write_layout(tmp_path / "there", {"v1": image})
    name = f"docker://{server.host}/{repository}:v1"

    skopeo("copy", "--preserve-digests", TO, f"oci:{layout}:v1", name)
    assert peers.stored_manifest(http, repository, "v1").data == image.manifest.data

    skopeo("copy", "--preserve-digests", FROM, name, f"oci:{tmp_path}/back:v1")
    manifest = tmp_path / "back/blobs" / image.digest.replace(":", "/")
    assert manifest.read_bytes() == image.manifest.data

    if compression == "zstd":
        return  # umoci 0.4 does not know it; podman and containerd unpack zstd in their own tests
    umoci("unpack", "--image", f"{tmp_path}/back:v1", tmp_path / "bundle")
    assert images.tree_of_directory(tmp_path / "bundle/rootfs") == images.tree_of_layers(image.tars)


@pytest.mark.parametrize("flavour", [images.OCI, images.DOCKER], ids=["oci", "docker"])
def test_all_platforms_move_between_repositories_with_their_digests(
    server: Server, http: httpx.Client, skopeo: Client, repository: str, flavour: images.Flavour
) -> None:
    index = images.two_platforms("moved", flavour=flavour)
    peers.upload(http, f"{repository}/a", index, "v1")
    source, target = (f"docker://{server.host}/{repository}/{name}:v1" for name in "ab")

    skopeo("copy", "--all", "--preserve-digests", FROM, TO, source, target)

    for reference, manifest in (("v1", index.manifest), *((m.digest, m) for m in index.manifests)):
        assert peers.stored_manifest(http, f"{repository}/b", reference) == manifest


def test_a_copy_within_the_registry_mounts_the_blobs_instead_of_sending_them(
    server: Server, http: httpx.Client, skopeo: Client, repository: str, tmp_path: Path
) -> None:
    image = images.rich_image(2)
    layout = images.write_layout(tmp_path / "layout", {"v1": image})
    source, target = (f"docker://{server.host}/{repository}/{name}:v1" for name in "ab")
    skopeo("copy", TO, f"oci:{layout}:v1", source)  # skopeo mounts from where it knows that the blobs are

    said = skopeo.said("--debug", "copy", FROM, TO, source, target)

    assert said.count("Trying to mount") == len(image.layers)
    assert said.count("Uploading") <= 1  # the config, which it never mounts
    assert peers.stored_manifest(http, f"{repository}/b", "v1") == image.manifest


def test_a_multi_platform_layout_is_pushed_whole(
    server: Server, http: httpx.Client, skopeo: Client, repository: str, tmp_path: Path
) -> None:
    index = images.two_platforms()
    layout = images.write_layout(tmp_path / "layout", {"v1": index})

    skopeo("copy", "--all", TO, f"oci:{layout}:v1", f"docker://{server.host}/{repository}:v1")

    assert peers.stored_manifest(http, repository, "v1") == index.manifest
    for child in index.children:
        assert peers.stored_manifest(http, repository, child.digest) == child.manifest


def test_an_index_gives_each_platform_its_image(
    server: Server, http: httpx.Client, skopeo: Client, repository: str
) -> None:
    peers.upload(http, repository, images.two_platforms(), "v1")

    seen = skopeo.json("--override-arch", "s390x", "inspect", PLAIN, f"docker://{server.host}/{repository}:v1")

    assert seen["Architecture"] == "s390x"


def test_a_docker_archive_is_pushed_and_saved_again_with_the_same_files(
    server: Server, skopeo: Client, umoci: Client, repository: str, tmp_path: Path
) -> None:
    image = images.rich_image(3)
    archive = images.write_docker_archive(tmp_path / "in.tar", {"example.test/rich:v1": image})
    name = f"docker://{server.host}/{repository}:v1"

    skopeo("copy", TO, f"docker-archive:{archive}", name)
    config = skopeo("inspect", "--config", "--raw", PLAIN, name)
    assert config.encode() == image.config.data

    skopeo("copy", FROM, name, f"docker-archive:{tmp_path}/out.tar:example.test/rich:v1")
    skopeo("copy", f"docker-archive:{tmp_path}/out.tar", f"oci:{tmp_path}/layout:v1")
    umoci("unpack", "--image", f"{tmp_path}/layout:v1", tmp_path / "bundle")
    assert images.tree_of_directory(tmp_path / "bundle/rootfs") == images.tree_of_layers(image.tars)


def test_an_oci_image_becomes_a_docker_image_on_the_way_when_asked(
    server: Server, http: httpx.Client, skopeo: Client, repository: str, tmp_path: Path
) -> None:
    layout = images.write_layout(tmp_path / "layout", {"v1": images.busybox_image()})
    name = f"docker://{server.host}/{repository}:v1"

    skopeo("copy", "--format", "v2s2", TO, f"oci:{layout}:v1", name)

    assert peers.stored_manifest(http, repository, "v1").media_type == images.DOCKER_MANIFEST


def test_inspect_shows_the_digest_the_layers_and_the_tags(
    server: Server, http: httpx.Client, skopeo: Client, repository: str
) -> None:
    image = images.rich_image(4)
    peers.upload(http, repository, image, "v1", "v2")

    seen = skopeo.json("inspect", PLAIN, f"docker://{server.host}/{repository}:v2")

    assert seen["Digest"] == image.digest
    assert seen["Layers"] == [layer.digest for layer in image.layers]
    assert seen["RepoTags"] == ["v1", "v2"]
    assert seen["Labels"] == {"seed": "4"}


def test_raw_inspection_by_digest_gives_the_bytes_that_were_pushed(
    server: Server, http: httpx.Client, skopeo: Client, repository: str
) -> None:
    subject = images.busybox_image()
    document = images.artifact(subject, "application/vnd.example.note", b"about it", {"written": "by a test"})
    peers.upload(http, repository, subject, "v1")
    peers.upload(http, repository, document)

    raw = skopeo("inspect", "--raw", PLAIN, f"docker://{server.host}/{repository}@{document.digest}")

    assert raw.encode() == document.manifest.data


def test_list_tags_gets_them_all_over_several_pages(
    server: Server, http: httpx.Client, skopeo: Client, repository: str
) -> None:
    names = sorted({f"{prefix}{number}" for prefix in ("v", "v-", "V", "v.") for number in range(55)})
    peers.upload(http, repository, images.busybox_image(), *names)

    listed = skopeo.json("list-tags", PLAIN, f"docker://{server.host}/{repository}")

    assert listed["Tags"] == names


def test_a_deleted_image_is_gone_at_once(
    server: Server, http: httpx.Client, skopeo: Client, repository: str
) -> None:
    peers.upload(http, repository, images.busybox_image(), "v1")
    name = f"docker://{server.host}/{repository}:v1"

    skopeo("delete", PLAIN, name)

    assert "manifest unknown" in skopeo.refused("inspect", PLAIN, name)


def test_a_missing_repository_is_named_as_such(server: Server, skopeo: Client, repository: str) -> None:
    said = skopeo.refused("inspect", PLAIN, f"docker://{server.host}/{repository}:v1")

    assert "manifest unknown" in said or "name unknown" in said or "repository name not known" in said
    assert repository in said


def test_sync_fetches_a_repository_and_fills_another_from_it(
    server: Server, http: httpx.Client, skopeo: Client, repository: str, tmp_path: Path
) -> None:
    pushed = {f"v{number}": images.busybox_image(f"number {number}") for number in range(3)}
    for tag, image in pushed.items():
        peers.upload(http, f"{repository}/it", image, tag)

    skopeo("sync", "--src", "docker", "--dest", "dir", FROM, f"{server.host}/{repository}/it", tmp_path)
    skopeo("sync", "--src", "dir", "--dest", "docker", TO, tmp_path, f"{server.host}/{repository}/copy")

    for tag, image in pushed.items():
        assert peers.stored_manifest(http, f"{repository}/copy/it", tag) == image.manifest
