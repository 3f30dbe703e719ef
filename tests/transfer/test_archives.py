"""Layouts and archives: what we write others read, what they write we read, and what nobody should write."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.oci import manifest as manifests
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, DigestInvalid, HytheError, ManifestUnknown, RegistryError
from registry.oci.reference import Tag
from registry.transfer.archive import Archive, ArchiveInvalid
from registry.transfer.copy import Choice, copy, copy_root
from registry.transfer.docker_archive import DockerArchive
from registry.transfer.layout import LayoutDirectory
from registry.transfer.layout_archive import ArchiveWriter, LayoutArchive
from tests.support import images, peers, tars
from tests.transfer.memory import Memory
from tests.transfer.test_copy import small_image

V1 = Tag("v1")


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def saved(path: Path, memory: Memory, name: str = "docker.io/library/box:v1", for_docker: bool = True) -> Path:
    """Write the image `v1` of *memory* as an archive."""

    async def main() -> None:
        with path.open("wb") as file:
            writer = ArchiveWriter(file, for_docker)
            root = await copy(memory, V1, writer)
            await writer.tag(root, "v1", name)
            await writer.finish()

    asyncio.run(main())
    return path


def skopeo(tmp_path: Path) -> Callable[..., str]:
    program = peers.program("skopeo")
    environment = peers.private_environment(tmp_path)

    def run(*words: str | Path) -> str:
        command = [program, "--insecure-policy", *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# --- layouts


def test_a_layout_has_what_was_copied_and_gives_it_back(tmp_path: Path) -> None:
    memory, back = Memory(), Memory()
    image = small_image(1)
    index = images.make_index([image, small_image(2)])
    memory.put(index, "v1")
    memory.put(images.artifact(image, "application/signature", b"signed"))

    async def main() -> None:
        layout = await LayoutDirectory.create(tmp_path / "layout")
        await copy(memory, V1, layout, V1, Choice(referrers=True))
        await copy(memory, V1, layout, Tag("v2"))
        again = await LayoutDirectory.open(tmp_path / "layout")
        assert [tag async for tag in again.tags()] == ["v1", "v2"]
        assert len(await again.referrers(Digest(image.digest))) == 1
        await copy(again, Tag("v2"), back, V1, Choice(referrers=True))
        with pytest.raises(ManifestUnknown, match="there are: v1, v2"):
            await again.resolve("v3")

    asyncio.run(main())
    assert back.contents == memory.contents
    names = {path.name for path in (tmp_path / "layout").iterdir()}
    assert names == {"blobs", "index.json", "oci-layout"}


def test_a_tag_of_a_layout_moves(tmp_path: Path) -> None:
    memory = Memory()
    first, second = memory.put(small_image(1), "v1"), memory.put(small_image(3), "v2")

    async def main() -> None:
        layout = await LayoutDirectory.create(tmp_path / "layout")
        await copy(memory, V1, layout, Tag("x"))
        assert await layout.resolve("x") == first
        await copy(memory, Tag("v2"), layout, Tag("x"))
        assert await layout.resolve("x") == second

    asyncio.run(main())
    assert len(json.loads((tmp_path / "layout/index.json").read_text())["manifests"]) == 1


def test_two_copies_into_one_layout_at_once_lose_nothing(tmp_path: Path) -> None:
    memory = Memory()
    for number in range(6):
        memory.put(small_image(number), f"t{number}")

    async def main() -> None:
        layouts = [await LayoutDirectory.create(tmp_path / "layout") for _ in range(6)]
        steps = (copy(memory, Tag(f"t{n}"), layout, Tag(f"t{n}")) for n, layout in enumerate(layouts))
        await asyncio.gather(*steps)
        assert sorted([tag async for tag in layouts[0].tags()]) == [f"t{number}" for number in range(6)]

    asyncio.run(main())


def test_wrong_bytes_never_get_their_name_in_a_layout(tmp_path: Path) -> None:
    memory = Memory()
    image = small_image(1)
    memory.put(image, "v1")
    memory.contents[image.layers[0].digest] = bytes(len(image.layers[0].data))

    async def main() -> None:
        await copy(memory, V1, await LayoutDirectory.create(tmp_path / "layout"), V1)

    with pytest.raises(DigestInvalid):
        asyncio.run(main())
    files = {path.name for path in (tmp_path / "layout").rglob("*") if path.is_file()}
    assert image.layers[0].digest.partition(":")[2] not in files
    assert not [name for name in files if name.startswith(".part")]


def test_a_copy_that_is_cancelled_at_any_moment_leaves_neither_temporary_nor_open_files(tmp_path: Path) -> None:
    memory = Memory()
    memory.put(small_image(1), "v1")

    async def main(turns: int) -> None:
        first = await LayoutDirectory.create(tmp_path / "first")
        second = await LayoutDirectory.create(tmp_path / f"second-{turns}")
        await copy(memory, V1, first, V1)
        copying = asyncio.ensure_future(copy(first, V1, second, V1))
        for _ in range(turns):
            await asyncio.sleep(0)
        copying.cancel()
        await asyncio.wait([copying])

    for turns in range(1, 200, 5):
        asyncio.run(main(turns))
        assert not list(tmp_path.rglob(".part-*")), turns
        opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [path for path in opened if path.startswith(str(tmp_path))], turns


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="neither empty nor an OCI layout"):
        asyncio.run(LayoutDirectory.create(tmp_path))
    with pytest.raises(ConfigurationError, match="not an OCI layout"):
        asyncio.run(LayoutDirectory.open(tmp_path))
    assert os.listdir(tmp_path) == ["file"]


# --- archives


@pytest.mark.parametrize("compress", [None, gzip.compress, lzma.compress])
def test_an_archive_gives_back_what_was_saved(tmp_path: Path, compress: Callable[[bytes], bytes] | None) -> None:
    memory, back = Memory(), Memory()
    memory.put(small_image(1, 3), "v1")
    path = saved(tmp_path / "box.tar", memory)
    if compress:
        path.write_bytes(compress(path.read_bytes()))
    archive = Archive.open(path)
    asyncio.run(copy(LayoutArchive(archive), Tag("docker.io/library/box:v1"), back, V1))
    assert back.contents == memory.contents
    archive.close()


def test_an_archive_that_comes_through_a_pipe_is_read(tmp_path: Path) -> None:
    memory = Memory()
    root = memory.put(small_image(1), "v1")
    data = saved(tmp_path / "box.tar", memory).read_bytes()
    with subprocess.Popen(["cat", str(tmp_path / "box.tar")], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        archive = Archive.read(cat.stdout, "standard input")
    assert asyncio.run(LayoutArchive(archive).resolve("v1")) == root
    with pytest.raises(ManifestUnknown, match="there are: v1"):
        asyncio.run(LayoutArchive(archive).resolve("v2"))
    archive.close()
    assert len(data) % 512 == 0


def test_the_same_images_give_the_same_archive(tmp_path: Path) -> None:
    memory = Memory()
    memory.put(small_image(1), "v1")
    assert saved(tmp_path / "a", memory).read_bytes() == saved(tmp_path / "b", memory).read_bytes()


def test_skopeo_reads_our_archives_as_dockers_and_as_layouts(tmp_path: Path) -> None:
    run = skopeo(tmp_path)
    memory = Memory()
    image = images.rich_image()
    memory.put(image, "v1")
    path = saved(tmp_path / "box.tar", memory)
    assert run("inspect", "--raw", f"oci-archive:{path}:v1") == image.manifest.data.decode()
    run("copy", f"docker-archive:{path}:docker.io/library/box:v1", f"dir:{tmp_path}/out")
    document = json.loads((tmp_path / "out/manifest.json").read_text())
    assert document["config"]["digest"] == image.config.digest


def test_what_skopeo_writes_for_docker_is_read(tmp_path: Path) -> None:
    run = skopeo(tmp_path)
    image = images.rich_image()
    images.write_layout(tmp_path / "layout", {"v1": image})
    run("copy", f"oci:{tmp_path}/layout:v1", f"docker-archive:{tmp_path}/box.tar:box:v1")
    back = Memory()
    archive = Archive.open(tmp_path / "box.tar")

    async def main() -> None:
        source = await DockerArchive.open(archive)
        assert source.images[0].names == ("docker.io/library/box:v1",)
        root = await copy(source, V1, back, V1)
        parsed = manifests.parse(back.contents[root.digest], root.media_type)
        assert [layer.digest for layer in parsed.layers] == [images.digest_of(tar) for tar in image.tars]
        assert parsed.config is not None
        config = json.loads(back.contents[parsed.config.digest])
        assert config["rootfs"] == json.loads(image.config.data)["rootfs"]

    asyncio.run(main())
    archive.close()


def test_what_docker_saves_is_read_with_all_its_names(tmp_path: Path) -> None:
    one, two = small_image(2), small_image(4)
    path = images.write_docker_archive(tmp_path / "two.tar", {"box:one": one, "host:5000/team/web:two": two})
    archive = Archive.open(path)

    async def main() -> None:
        source = await DockerArchive.open(archive)
        assert [image.names for image in source.images] == [("box:one",), ("host:5000/team/web:two",)]
        for reference in ("box:one", "one", "docker.io/library/box:one"):
            assert await source.resolve(reference) == source.images[0].descriptor
        with pytest.raises(ManifestUnknown, match="there are: box:one, host:5000/team/web:two"):
            await source.resolve("latest")
        for image in source.images:
            await copy_root(source, image.descriptor, Memory(), V1)

    asyncio.run(main())
    archive.close()


def test_layers_of_a_docker_archive_that_are_compressed_or_links_are_found(tmp_path: Path) -> None:
    image = small_image(1, layers=1)
    config = json.loads(image.config.data)
    config["rootfs"]["diff_ids"] *= 2
    layer = gzip.compress(image.tars[0])
    listed = [{"Config": "c.json", "RepoTags": ["box:v1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    path = write_tar(
        tmp_path / "x.tar",
        {
            "c.json": json.dumps(config).encode(),
            "a/layer.tar": layer,
            "manifest.json": json.dumps(listed).encode(),
        },
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(link)
    archive, back = Archive.open(path), Memory()

    async def main() -> None:
        source = await DockerArchive.open(archive)
        root = await copy(source, V1, back, V1)
        parsed = manifests.parse(back.contents[root.digest], root.media_type)
        assert [each.digest for each in parsed.layers] == [images.digest_of(layer)] * 2
        assert parsed.layers[0].media_type.endswith(".gzip")

    asyncio.run(main())
    archive.close()


# --- what nobody should write


def entry(**fields: object) -> bytes:
    return json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": [], **fields}]).encode()


GOOD_CONFIG = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"manifest.json": b"{"},
        {"manifest.json": b"{}"},
        {"manifest.json": b"[1]"},
        {"manifest.json": entry()},
        {"manifest.json": entry(Config=1)},
        {"manifest.json": entry(Config="../../etc/passwd")},
        {"manifest.json": entry(), "c.json": b"[]"},
        {"manifest.json": entry(), "c.json": b'{"rootfs":{"diff_ids":["sha256:x"]}}'},
        {"manifest.json": entry(Layers=["a"]), "c.json": GOOD_CONFIG},
        {"manifest.json": entry(Layers=[1]), "c.json": GOOD_CONFIG},
        {"manifest.json": entry(RepoTags={}), "c.json": b"\xff"},
        {"manifest.json": b"[" * 100_000},
    ],
)
def test_a_docker_archive_that_is_none_is_refused_in_one_line(tmp_path: Path, files: dict[str, bytes]) -> None:
    archive = Archive.open(write_tar(tmp_path / "x.tar", files))
    with pytest.raises(ArchiveInvalid) as failed:
        DockerArchive(archive)
    assert "\n" not in str(failed.value)
    archive.close()


HOSTILE = {
    "extended headers upon extended headers": tars.pax({b"path": b"b"}) * 3000 + tars.header(b"a") + tars.END,
    "long names upon long names": (tars.header(b"L", b"L", 2) + tars.padded(b"a\0")) * 3000 + tars.header(b"a")
    + tars.END,
    "a header of more bytes than there are": tars.header(b"p", b"x", b"\x80" + b"\0" * 4 + b"\1" + b"\0" * 6)
    + tars.header(b"a") + tars.END,
    "a size below zero": tars.pax({b"size": b"-1024"}) + tars.header(b"manifest.json") + tars.END,
    "a size beyond everything": tars.pax({b"size": b"9" * 20}) + tars.header(b"manifest.json") + tars.END,
    "a sparse map of words": tars.pax({b"GNU.sparse.map": b"x,y", b"GNU.sparse.size": b"9"}) + tars.header(b"a")
    + tars.END,
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ArchiveInvalid, match=r"x\.tar: [^\n]+$"):
        Archive.open(tmp_path / "x.tar")


def test_links_in_an_archive_lead_nowhere_outside_and_never_in_circles(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"c.json": GOOD_CONFIG})
    with tarfile.open(path, "a") as tar:
        for name, target in (("manifest.json", "/etc/passwd"), ("a", "b"), ("b", "a")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    archive = Archive.open(path)
    assert archive.find("manifest.json") is None
    assert archive.find("a") is None
    with pytest.raises(ArchiveInvalid):
        DockerArchive(archive)
    archive.close()


def test_an_archive_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    memory = Memory()
    memory.put(images.make_image([images.layer([images.Entry("x", os.urandom(50_000))])]), "v1")
    path = saved(tmp_path / "box.tar", memory)
    data = path.read_bytes()
    for size in (600, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises((ArchiveInvalid, RegistryError)):
            LayoutArchive(Archive.open(path))
    path.write_bytes(gzip.compress(data)[:-100])
    with pytest.raises(ArchiveInvalid, match="compression is broken"):
        Archive.open(path)


@given(st.binary(max_size=3000))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "x.tar"
    path.write_bytes(data)
    try:
        archive = Archive.open(path)
    except ArchiveInvalid:
        return
    archive.close()


def test_an_index_is_no_image_for_docker(tmp_path: Path) -> None:
    memory = Memory()
    memory.put(images.make_index([small_image(1), small_image(2)]), "v1")
    with pytest.raises(HytheError, match="choose one with --platform"):
        saved(tmp_path / "x.tar", memory)
