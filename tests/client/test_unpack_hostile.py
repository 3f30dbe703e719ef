"""Hostile layers: whatever they try, nothing outside of the root changes by a byte."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from pathlib import Path

import pytest
from backports import zstd

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack.limits import Limits
from registry.client.images.unpack.removal import remove_tree
from tests.client.conftest import Unpack, needs_root
from tests.support.tars import END, E, archive, d, f, h, header, padded, pax, s

pytestmark = needs_root

REFUSED = {
    "a name that climbs out": [f("../canary/secret")],
    "a name that climbs out from below": [d("a"), f("a/../../canary/secret")],
    "the root entry is a symlink": [s("./", "../canary"), f("secret")],
    "the root entry is a file": [f(".", b"")],
    "the root entry is a hard link": [h("/", "canary")],
    "a hard link that climbs out": [h("mine", "../canary/secret")],
    "a hard link to what the layer has not": [h("mine", "canary/secret")],
    "a hard link through a symlink that leads out": [s("l", "../../canary"), h("mine", "l/secret")],
    "a hard link through an absolute symlink": [s("l", "/etc"), h("mine", "l/passwd")],
    "a hard link to itself": [f("a"), h("a", "a")],
    "a hard link to a directory": [d("a"), h("b", "a")],
    "a hard link to the root": [h("b", "/")],
    "a hard link to a whiteout": [f(".wh.a", b""), h("b", "a")],
    "a parent that is a dangling symlink": [s("l", "nowhere"), f("l/x")],
    "a parent that is a file": [f("a"), f("a/x")],
    "a parent that is a device": [E("a", tarfile.CHRTYPE, device=(1, 3)), f("a/x")],
    "a parent that is a loop of symlinks": [s("a", "b"), s("b", "a"), f("a/x")],
    "a parent that is a link to itself": [s("a", "a"), d("a/x")],
    "a whiteout of nothing": [f(".wh.")],
    "a whiteout of the directory itself": [d("a"), f("a/.wh..")],
    "a whiteout of the parent": [d("a"), f("a/.wh...")],
    "a component beyond 255 bytes": [f("n" * 256)],
    "a path beyond 4095 bytes": [f("/".join(["n" * 200] * 21))],
    "a symlink without a target": [s("l", "")],
    "an owner beyond 32 bits": [f("a", uid=1 << 33)],
    "the owner that means none": [f("a", uid=(1 << 32) - 1)],
    "a device number beyond Linux": [E("a", tarfile.CHRTYPE, device=(1 << 13, 0))],
    "an unknown type of entry": [E("a", b"Z")],
    "a continued volume": [E("a", b"M")],
}


@pytest.mark.parametrize("entries", REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_and_nothing_outside_changes(entries: list[E], unpacked: Unpack, canary: Path) -> None:
    with pytest.raises(LayerRefused):
        unpacked(archive(entries))


KEPT_INSIDE = {
    "an absolute name": ([f("/canary/secret")], "canary/secret"),
    "an absolute symlink as parent": ([d("canary"), s("l", "/canary"), f("l/secret")], "canary/secret"),
    "a symlink that climbs, as parent": ([d("canary"), s("l", "../../canary"), f("l/secret")], "canary/secret"),
    "a symlink with many steps up": ([s("l", "../" * 500), f("l/x")], "x"),
    "a symlink to a symlink": ([d("t"), s("a", "t"), s("b", "a"), f("b/x")], "t/x"),
    "a file over a symlink that leads out": ([s("secret", "../canary/secret"), f("secret")], "secret"),
    "a file over a hard link's name": ([f("a", b"first"), h("b", "a"), f("b")], "b"),
    "a file over a device": ([E("a", tarfile.CHRTYPE, device=(1, 3)), f("a")], "a"),
    "a file over a FIFO": ([E("a", tarfile.FIFOTYPE), f("a")], "a"),
    "a file over a directory": ([d("a"), f("a/b"), f("a")], "a"),
    "a name with steps inside": ([d("a"), f("a/b/../../c/./x")], "c/x"),
}


@pytest.mark.parametrize(("entries", "place"), KEPT_INSIDE.values(), ids=KEPT_INSIDE.keys())
def test_it_stays_inside_of_the_root(
    entries: list[E], place: str, unpacked: Unpack, root: Path, canary: Path
) -> None:
    unpacked(archive(entries))
    assert (root / place).read_bytes() == b"x"
    assert stat.S_ISREG((root / place).lstat().st_mode)


def test_a_symlink_put_where_a_directory_was_is_not_walked_through(
    unpacked: Unpack, root: Path, canary: Path
) -> None:
    unpacked(archive([d("a", 0o700), f("a/x"), s("a", "../canary"), s("b", "../canary")]))
    assert (root / "a").is_symlink()
    assert (root / "a").readlink() == Path("../canary")


def test_modes_and_owners_never_go_through_a_link(unpacked: Unpack, root: Path, canary: Path) -> None:
    """containerd CVE-2021-32760: chmod of what a hard link to a symlink names."""
    entries = [s("l", "../canary/secret"), h("k", "l"), E("k", tarfile.LNKTYPE, target="l", mode=0o777, uid=7)]
    unpacked(archive(entries))
    assert (root / "k").is_symlink()


def test_a_directory_entry_replaces_the_symlink_that_was_there(unpacked: Unpack, root: Path, canary: Path) -> None:
    unpacked(archive([s("a", "../canary"), d("a", 0o711), f("a/secret")]))
    assert not (root / "a").is_symlink()
    assert (root / "a/secret").read_bytes() == b"x"


def test_a_cached_directory_is_forgotten_when_a_link_on_its_way_changes(
    unpacked: Unpack, root: Path, canary: Path
) -> None:
    entries = [s("l", "."), f("l/one"), d("t"), s("l", "t"), f("l/two"), s("l", "../../canary/deep")]
    unpacked(archive(entries))
    assert (root / "one").is_file()
    assert (root / "t/two").is_file()
    with pytest.raises(LayerRefused):
        unpacked(archive([s("l", "../../canary/deep"), f("l/file")]))


def test_overlay_attributes_and_those_of_security_modules_are_not_taken_over(unpacked: Unpack, root: Path) -> None:
    names = [
        "trusted.overlay.redirect", "user.overlay.opaque", "trusted.overlay.opaque", "security.selinux",
        "user.fuseoverlayfs.opaque", "user.fuseoverlayfs.override_stat", "user.containers.override_stat",
    ]  # fmt: skip
    unpacked(
        archive([f("a", pax={f"SCHILY.xattr.{name}": "/canary" for name in names} | {"SCHILY.xattr.user.k": "v"})])
    )
    assert set(os.listxattr(root / "a")) == {"user.k"}


RAW = {
    "a size below zero": header(b"a", size=b"\xff" * 12) + END,
    "a size beyond everything": header(b"a", size=b"\x80" + b"\x7f" * 11) + END,
    "a size that is no number": header(b"a", size=b"12345678xyz\0") + END,
    "a wrong checksum": b"b" + header(b"a")[1:] + END,
    "a file that ends early": header(b"a", size=5000) + b"x" * 512,
    "half a header": header(b"a")[:300],
    "no tar at all": b"hello there, this is text" * 100,
    "an extended header of 2 MiB": header(b"p", b"x", 2 << 20) + bytes(2 << 20) + header(b"a") + END,
    "a long name of 2 MiB": header(b"p", b"L", 2 << 20) + b"n" * (2 << 20) + header(b"a") + END,
    "extended headers without end": pax({b"path": b"b"}) * 17 + header(b"a") + END,
    "a record without a length": header(b"p", b"x", 10) + padded(b"path=hello") + header(b"a") + END,
    "a record that is too long": header(b"p", b"x", 10) + padded(b"99 path=b\n") + header(b"a") + END,
    "a record of length zero": header(b"p", b"x", 4) + padded(b"0 a\n") + header(b"a") + END,
    "a NUL in a name": pax({b"path": b"a\0b"}) + header(b"a") + END,
    "a NUL in a link": pax({b"linkpath": b"a\0b"}) + header(b"a", b"2") + END,
    "a NUL in a sparse file's name": pax({
        b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"1", b"GNU.sparse.name": b"a\0b"
    }) + header(b"a", size=1) + padded(b"x") + END,
    "a NUL in an attribute's name": pax({b"SCHILY.xattr.user.a\0b": b"v"}) + header(b"a") + END,
    "an attribute that none can be": pax({b"SCHILY.xattr.security.capability": b"v"}) + header(b"a") + END,
    "such an attribute of a directory": pax({b"SCHILY.xattr.security.capability": b"v"}) + header(b"a/", b"5")
    + END,
    "a PAX size that is no number": pax({b"size": b"-1"}) + header(b"a") + END,
    "a PAX name that climbs out": pax({b"path": b"../canary/secret"}) + header(b"a") + END,
    "a GNU name that climbs out": header(b"L", b"L", 17) + padded(b"../canary/secret\0") + header(b"a") + END,
    "a prefix that climbs out": header(b"secret", prefix=b"../canary") + END,
    "a sparse map beyond its file": pax({b"GNU.sparse.map": b"0,1,900,9", b"GNU.sparse.size": b"10"})
    + header(b"a", size=10) + padded(b"0123456789") + END,
    "a sparse map that overlaps": pax({b"GNU.sparse.map": b"0,5,4,5", b"GNU.sparse.size": b"10"})
    + header(b"a", size=10) + padded(b"0123456789") + END,
    "a sparse map of another length": pax({b"GNU.sparse.map": b"0,5", b"GNU.sparse.size": b"10"})
    + header(b"a", size=10) + padded(b"0123456789") + END,
    "a sparse map without an end": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"})
    + header(b"a", size=1024) + b"9" * 1024 + END,
    "a sparse map of too many extents": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"})
    + header(b"a", size=512) + padded(b"99999999999\n") + END,
}  # fmt: skip


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
def test_a_broken_archive_is_refused(data: bytes, unpacked: Unpack, canary: Path) -> None:
    with pytest.raises(LayerRefused):
        unpacked(data)


def test_bombs_stop_at_the_caps(unpacked: Unpack, root: Path, canary: Path) -> None:
    small = Limits(unpacked_bytes=1 << 20, entries=50, ratio=20, ratio_from_bytes=1 << 16)
    zeros = archive([f("zeros", bytes(8 << 20))])
    for bomb in (gzip.compress(zeros), zstd.compress(zeros)):
        with pytest.raises(LayerRefused, match="times its size"):
            unpacked(bomb, small)
        assert sum(file.stat().st_size for file in root.rglob("*")) <= 2 << 20
    with pytest.raises(LayerRefused, match=r"longer than|unpacks to more than"):  # whichever is seen first
        unpacked(zeros, small)
    with pytest.raises(LayerRefused, match="unpacks to more than"):
        unpacked(archive([f("a")]) + bytes(8 << 20), small)
    with pytest.raises(LayerRefused, match="entries"):
        unpacked(archive([d(f"d{n}") for n in range(51)]), small)
    holes = (
        pax({b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"%d" % (1 << 50)})
        + header(b"a", size=1)
        + padded(b"x")
    )
    with pytest.raises(LayerRefused, match="files are longer"):
        unpacked(holes + END, small)
    behind = gzip.compress(archive([f("a")]) + bytes(8 << 20))
    with pytest.raises(LayerRefused, match="times its size"):
        unpacked(behind, small)


def test_directories_that_names_imply_count_as_well(unpacked: Unpack, canary: Path) -> None:
    """One name of 4,095 bytes makes 2,000 directories, whose paths take 4 MB of memory."""
    deep = "/".join("d" * 400)
    with pytest.raises(LayerRefused, match="more than 300 directories"):
        unpacked(archive([f(f"{deep}/x")]), Limits(entries=300))
    with pytest.raises(LayerRefused, match="bytes of names"):
        unpacked(archive([f(f"{letter}/{deep}/x") for letter in "abcd"]), Limits(directories_bytes=400_000))


def test_a_map_of_very_many_extents_is_read(unpacked: Unpack, root: Path, canary: Path) -> None:
    lines = padded(b"100001\n" + b"0\n0\n" * 100_000 + b"5\n1\n")
    one = (
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}) + header(b"a", size=len(lines) + 1) + lines
    )
    unpacked(one + padded(b"x") + END)
    assert (root / "a").read_bytes() == b"\0" * 5 + b"x" + b"\0" * 3


def test_what_is_said_of_a_directory_is_not_applied_through_a_link_that_took_its_parents_place(
    unpacked: Unpack, root: Path, canary: Path
) -> None:
    unpacked(archive([d("c"), d("c/b", 0o755), d("a"), d("a/b", 0o700, uid=7), s("a", "c")]))
    status = (root / "c/b").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o755, 0)


NAMES = {
    "a newline": b"a\nb",
    "an escape": b"\x1b[31m",
    "not UTF-8": b"\xff\xfe",
    "a surrogate": b"\xed\xa0\x80",
    "dots alone": b"...",
    "spaces": b"  ",
    "a backslash": b"..\\canary\\secret",
    "an option": b"-rf",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_any_bytes_are_a_name(name: bytes, unpacked: Unpack, root: Path, canary: Path) -> None:
    made = [header(name), pax({b"path": name + b"1"}) + header(b"x")]
    long = header(b"L", b"L", len(name) + 2) + padded(name + b"2\0") + header(b"x")
    unpacked(b"".join([*made, long, END]))
    assert set(os.listdir(os.fsencode(root))) == {name, name + b"1", name + b"2"}


def test_entries_that_come_again_and_again_leave_the_last(unpacked: Unpack, root: Path, canary: Path) -> None:
    kinds = [f("a", b"1"), d("a"), f("a/x"), s("a", "../canary"), h("a", "keep"), E("a", tarfile.FIFOTYPE)]
    unpacked(archive([f("keep", b"kept"), *kinds, *reversed(kinds[3:]), f("a", b"last")]))
    assert (root / "a").read_bytes() == b"last"
    assert (root / "keep").read_bytes() == b"kept"


def test_links_and_whiteouts_of_one_name_never_reach_through_what_they_replace(
    unpacked: Unpack, root: Path, canary: Path
) -> None:
    unpacked(
        archive([
            d("dir"), f("dir/file"), s("dir/out", "../../canary"), h("two", "dir/out"), f(".wh.dir"),
            s("dir", "two"), f("two", b"mine"), f(".wh.two"), f(".wh..wh..opq"), s(".wh.gone", "../canary"),
        ])
    )  # fmt: skip
    assert (root / "dir").is_symlink()
    assert (root / "two").read_bytes() == b"mine"
    status = (root / "gone").lstat()
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == 0


COMPRESSED = {
    "cut gzip": gzip.compress(archive([f("a", os.urandom(5000))]))[:-1000],
    "damaged gzip": (lambda data: data[:2000] + b"\xff" * 100 + data[2100:])(
        gzip.compress(archive([f("a", os.urandom(5000))]))
    ),
    "something behind gzip": gzip.compress(archive([f("a")])) + b"more",
    "cut zstd": zstd.compress(archive([f("a", os.urandom(5000))]))[:-1000],
    "damaged zstd": zstd.compress(archive([f("a", os.urandom(5000))]))[:50] + b"\xff" * 5000,
    "a header of xz alone": b"\xfd7zXZ\x00" + b"\0" * 60,
}


@pytest.mark.parametrize("data", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_damaged_stream_is_refused(data: bytes, unpacked: Unpack, canary: Path) -> None:
    with pytest.raises(LayerRefused):
        unpacked(data)


def test_a_tree_too_deep_for_any_path_is_made_and_removed(unpacked: Unpack, root: Path, canary: Path) -> None:
    deep = "/".join("d" * 1900)
    unpacked(archive([f(deep + "/x"), s("l", deep), f("l/y"), d("a")]))
    assert (root / (deep + "/y")).is_file()
    parent = os.open(root.parent, os.O_RDONLY)
    try:
        os.mkdir("tree", dir_fd=parent)
        os.rename("root", "tree/root", src_dir_fd=parent, dst_dir_fd=parent)
        remove_tree(parent, "tree")
    finally:
        os.close(parent)
        root.mkdir()


def test_removal_follows_no_link(root: Path, canary: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub/out").symlink_to(canary)
    os.link(canary / "secret", root / "sub/hard")
    fd = os.open(root, os.O_RDONLY)
    try:
        remove_tree(fd, "sub")
        remove_tree(fd, "absent")
    finally:
        os.close(fd)
    assert list(root.iterdir()) == []
