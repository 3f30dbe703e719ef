"""`hythe admin export`: what it writes, others serve and read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from registry.oci.errors import ManifestUnknown, NameUnknown
from registry.server.index import schema
from tests.conftest import MakeServer
from tests.gc.keeper import Keeper
from tests.moving import holdings
from tests.moving.conftest import LARGE_BYTES, Run, StartPeer
from tests.support import images, peers
from tests.support.peers import Client
from tests.support.warm import WarmServer

pytestmark = pytest.mark.peer

KIND = "application/vnd.test.signature"


@dataclass(frozen=True)
class Stock:
    """Images of all kinds, made once."""

    rich: images.Image
    others: dict[str, images.Image | images.Index]


@pytest.fixture(scope="module")
def stock() -> Stock:
    peers.require_busybox()
    others = {
        "team/docker": images.busybox_image(flavour=images.DOCKER),
        "team/multi": images.two_platforms(),
        "team/multi/docker": images.two_platforms(flavour=images.DOCKER),
    }
    return Stock(images.rich_image(2, large_bytes=LARGE_BYTES), others)


@pytest.fixture
def image(stock: Stock, here: httpx.Client) -> images.Image:
    """What our registry has: images of all kinds, and this one, which is signed."""
    peers.upload(here, "team/oci", stock.rich, "v1", "latest")
    peers.upload(here, "team/oci", images.artifact(stock.rich, KIND, b"signed"))
    for name, item in stock.others.items():
        peers.upload(here, name, item, "v1")
    return stock.rich


def test_a_real_docker_registry_serves_what_was_exported(
    image: images.Image, here: httpx.Client, run: Run, start_peer: StartPeer, tmp_path: Path
) -> None:
    done = run("export", tmp_path / "out", "--format", "registry")
    assert (done.status, done.err) == (0, "")
    with peers.http_client(start_peer(tmp_path / "out")) as there:
        found = holdings.of(there)
        expected = holdings.of(here)
        assert expected.items() <= found.items()
        fallback = image.digest.replace(":", "-")
        assert {tag for name, tag in found if (name, tag) not in expected and ":" not in tag} == {fallback}
        [referrer] = there.get(f"/v2/team/oci/manifests/{fallback}", headers={"Accept": images.OCI_INDEX}).json()[
            "manifests"
        ]
        assert referrer["artifactType"] == KIND
        moved = images.busybox_image("pushed there afterwards")
        peers.upload(there, "team/oci", moved, "v2")  # it goes on with it


def test_what_was_exported_comes_back(
    image: images.Image, here: httpx.Client, run: Run, make_server: MakeServer, tmp_path: Path
) -> None:
    run("export", tmp_path / "out", "--format", "registry")
    other = make_server()
    assert run("import", tmp_path / "out", storage=other.settings["storage"]).status == 0
    with peers.http_client(other) as there:
        assert holdings.of(here).items() <= holdings.of(there).items()
        path = f"/v2/team/oci/referrers/{image.digest}"
        assert there.get(path).json()["manifests"] == here.get(path).json()["manifests"]


@pytest.mark.parametrize("form", ["registry", "oci"])
def test_a_second_run_writes_only_what_is_new(
    form: str, image: images.Image, here: httpx.Client, keeper: Keeper, run: Run, tmp_path: Path
) -> None:
    def written() -> dict[str, tuple[int, int]]:
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    assert run("export", tmp_path / "out", "--format", form).status == 0
    first = written()
    done = run("export", tmp_path / "out", "--format", form, "--json")
    assert written() == first
    assert (done.report["manifests"], set(done.report["blobs"])) == (0, {"present"})
    assert done.report["manifests_present"] == len(keeper.rows(schema.manifest))
    peers.upload(here, "team/oci", images.busybox_image("new"), "v2")
    assert run("export", tmp_path / "out", "--format", form, "--json").report["manifests"] == 1
    assert not list((tmp_path / "out").glob(".*"))


def test_a_blob_is_one_file_with_ours_where_that_can_be_unless_copies_are_wanted(
    image: images.Image, keeper: Keeper, run: Run, tmp_path: Path
) -> None:
    digits = image.layers[2].digest[7:]
    ours = keeper.directory / "blobs/sha256" / digits[:2] / digits
    report = run("export", tmp_path / "a", "team/oci", "--format", "oci", "--json").report
    if "linked" in report["blobs"]:
        assert ours.samefile(tmp_path / "a/team/oci/blobs/sha256" / digits)
    report = run("export", tmp_path / "b", "team/oci", "--format", "oci", "--json", "--copy").report
    assert set(report["blobs"]) == {"copied"}
    path = tmp_path / "b/team/oci/blobs/sha256" / digits
    assert not ours.samefile(path)
    assert os.stat(path).st_mode & 0o044 == 0o044  # others may read it


def test_skopeo_and_umoci_read_the_layouts(image: images.Image, run: Run, skopeo: Client, tmp_path: Path) -> None:
    assert run("export", tmp_path / "out", "--format", "oci").status == 0
    layout = tmp_path / "out/team/oci"
    raw = skopeo("inspect", "--raw", f"oci:{layout}:latest")
    assert images.digest_of(raw.encode()) == image.digest
    skopeo("copy", "--all", f"oci:{tmp_path}/out/team/multi:v1", f"oci:{tmp_path}/copied:v1")
    umoci = Client([peers.program("umoci")], skopeo.environment, skopeo.directory)
    umoci("unpack", "--image", f"{layout}:v1", tmp_path / "bundle")
    assert images.tree_of_directory(tmp_path / "bundle/rootfs") == images.tree_of_layers(image.tars)
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    names = [each.get("annotations", {}).get("org.opencontainers.image.ref.name") for each in entries]
    assert sorted(map(str, names)) == ["None", "latest", "v1"]  # the signature has none


def test_a_tag_alone_comes_with_its_children_and_what_refers_to_it(
    image: images.Image, here: httpx.Client, run: Run, start_peer: StartPeer, tmp_path: Path
) -> None:
    peers.upload(here, "team/oci", images.busybox_image("another"), "v2")
    words = ("team/oci:v1", "team/multi:v1", "team/docker")
    assert run("export", tmp_path / "out", *words, "--format", "registry").status == 0
    with peers.http_client(start_peer(tmp_path / "out")) as there:
        assert holdings.catalogue(there) == ["team/docker", "team/multi", "team/oci"]
        assert holdings.tags(there, "team/oci") == [image.digest.replace(":", "-"), "v1"]
        expected = {key: value for key, value in holdings.of(here).items() if key[0] == "team/multi"}
        assert expected.items() <= holdings.of(there).items()
    assert run("export", tmp_path / "all", "team/oci", "team/oci:v1", "--format", "registry").status == 0
    with peers.http_client(start_peer(tmp_path / "all")) as there:
        assert "v2" in holdings.tags(there, "team/oci"), "a repository with one of its tags is all of it"


def test_bytes_that_are_missing_here_are_named(
    image: images.Image, registry: WarmServer, keeper: Keeper, run: Run, tmp_path: Path
) -> None:
    digits = image.layers[1].digest[7:]
    (keeper.directory / "blobs/sha256" / digits[:2] / digits).unlink()
    done = run("export", tmp_path / "out", "--format", "oci")
    assert done.status == 1
    assert digits in done.err
    index = json.loads((tmp_path / "out/team/oci/index.json").read_bytes())
    assert image.digest not in {each["digest"] for each in index["manifests"]}


def test_what_is_not_here_is_refused_in_a_sentence(image: images.Image, run: Run, tmp_path: Path) -> None:
    with pytest.raises(NameUnknown):
        run("export", tmp_path / "out", "team/none", "--format", "oci")
    with pytest.raises(ManifestUnknown):
        run("export", tmp_path / "out", "team/oci:none", "--format", "oci")
