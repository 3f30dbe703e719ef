"""A directory made into a layer, and back."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

from registry.client.images import author
from registry.client.images.changes import tar_of
from registry.client.images.store import Store
from registry.client.images.unpack.layer import unpack
from registry.oci.digest import Digest
from registry.oci.reference import Tag
from tests.client.conftest import needs_root
from tests.client.test_unpack_layers import PLAIN
from tests.support.tars import archive, as_file, d, f, s
from tests.support.trees import snapshot

pytestmark = needs_root


def unpacked(data: bytes, root: Path) -> Path:
    root.mkdir()
    unpack(as_file(data), root)
    return root


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def test_a_tree_that_is_packed_and_unpacked_is_the_same_to_the_last_attribute(tmp_path: Path) -> None:
    first = unpacked(archive(PLAIN), tmp_path / "first")
    data = b"".join(tar_of(first))
    second = unpacked(data, tmp_path / "second")
    assert snapshot(second) == snapshot(first)
    assert b"".join(tar_of(second)) == data
    assert names(data) == sorted(names(data), key=lambda name: [os.fsencode(part) for part in name.split("/")])


def test_gnu_tar_reads_what_is_packed(tmp_path: Path) -> None:
    first = unpacked(archive(PLAIN), tmp_path / "first")
    (tmp_path / "second").mkdir()
    tar = ["tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", tmp_path / "second"]
    subprocess.run(tar, input=b"".join(tar_of(first)), check=True)
    assert snapshot(tmp_path / "second")["marked"] == snapshot(first)["marked"]
    assert snapshot(tmp_path / "second").keys() == snapshot(first).keys()


def test_what_overlay_wrote_becomes_whiteouts(tmp_path: Path) -> None:
    lower = unpacked(archive([d("a"), f("a/old"), d("b"), f("b/old"), f("gone"), d("c")]), tmp_path / "lower")
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", tmp_path / "merged"], check=True)
    try:
        merged = tmp_path / "merged"
        (merged / "gone").unlink()
        subprocess.run(["rm", "-r", merged / "a"], check=True)
        (merged / "a").mkdir()
        (merged / "a/new").write_text("new")
        (merged / "new").mkdir()
        (merged / "b/old").chmod(0o600)
    finally:
        subprocess.run(["umount", "-l", tmp_path / "merged"], check=True)
    data = b"".join(tar_of(tmp_path / "upper", [lower]))
    assert names(data) == ["a", "a/.wh..wh..opq", "a/new", "b", "b/old", ".wh.gone", "new"]
    again = snapshot(unpacked(data, tmp_path / "again"))
    assert again["a"]["xattrs"] == {"trusted.overlay.opaque": b"y"}
    assert again["gone"]["device"] == (0, 0)
    assert again["b/old"]["xattrs"] == {}
    assert "a/.wh..wh..opq" not in names(b"".join(tar_of(tmp_path / "upper", [])))


def test_sockets_and_overlays_attributes_are_left_out_and_links_are_not_followed(tmp_path: Path) -> None:
    root = unpacked(archive([f("a"), s("out", "/etc"), d("d")]), tmp_path / "root")
    os.setxattr(root / "d", "trusted.overlay.origin", b"x")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(root / "socket"))
    listening.close()
    data = b"".join(tar_of(root))
    assert names(data) == ["a", "d", "out"]
    assert b"overlay" not in data


def test_times_are_set_back_to_an_epoch(tmp_path: Path) -> None:
    root = unpacked(archive([f("old", mtime=5), f("new", mtime=2_000_000_000.5)]), tmp_path / "root")
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_of(root, max_time_ns=10**18)))) as tar:
        assert {member.name: member.mtime for member in tar} == {"old": 5, "new": 10**9}


def test_a_directory_becomes_an_image_whose_layer_is_reproducible(tmp_path: Path) -> None:
    root = unpacked(archive([d("etc"), f("etc/x", b"x" * 100_000)]), tmp_path / "root")
    store = Store(tmp_path / "store")

    async def make(tag: str) -> str:
        with store.works() as works:
            layer = author.pack(works, tar_of(root))
            config = {"architecture": "amd64", "os": "linux", "config": {}}
            return (await author.make(works, "docker.io/library/made", config, [layer], Tag(tag))).digest

    first, second = asyncio.run(make("1")), asyncio.run(make("2"))
    assert first == second
    [below] = store.layer_paths(store.find("made:2"))
    assert snapshot(below)["etc/x"] == snapshot(root)["etc/x"]
    assert below.name == Digest.of(b"".join(tar_of(root))).encoded
    store.close()
