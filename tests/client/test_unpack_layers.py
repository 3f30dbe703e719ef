"""What layers unpack to: every attribute, every format, whiteouts as overlay wants them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack.layer import unpack
from registry.client.images.unpack.limits import Limits
from registry.client.images.unpack.removal import remove_tree
from registry.oci.digest import Digest
from tests.client.conftest import Unpack, needs_root
from tests.support import images, peers
from tests.support.tars import END, E, archive, as_file, d, f, h, header, padded, pax, s
from tests.support.trees import snapshot

pytestmark = needs_root

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
PLAIN = [
    d("etc", 0o750, uid=1000, gid=2000),
    f("etc/passwd", b"root\n", mode=0o600, uid=1000, gid=1001, mtime=1_600_000_000.25),
    f("etc/empty", b"", mode=0),
    f("etc/set", b"#!", mode=0o6755, uid=5),
    s("etc/link", "/etc/passwd"),
    h("etc/hard", "etc/passwd"),
    d("tmp", 0o1777),
    d("closed", 0),
    f("closed/in", b"x" * 70_000),
    d("shared", 0o2775, gid=7),
    f("shared/file"),
    E("dev-null", tarfile.CHRTYPE, device=(1, 3), mode=0o666),
    E("disk", tarfile.BLKTYPE, device=(8, 300), mode=0o660, gid=6),
    E("pipe", tarfile.FIFOTYPE, mode=0o622, uid=3),
    h("null-too", "dev-null"),
    h("link-too", "etc/link"),
    f("ping", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}),
    f("marked", pax={"SCHILY.xattr.user.note": "hello"}),
    f("grüße/日本"),
    f("n" * 255),
    f("/".join(["deep" * 20] * 10) + "/end"),
    f("many", uid=165536, gid=4294967294),
    f("old", mtime=-5),
]


def test_every_kind_of_entry_arrives_with_every_attribute(unpacked: Unpack, root: Path) -> None:
    data = archive(PLAIN)
    done = unpacked(data)
    assert (done.diff_id, done.digest, done.entries) == (Digest.of(data), Digest.of(data), len(PLAIN))
    tree = snapshot(root)
    for entry in PLAIN:
        if entry.kind == tarfile.LNKTYPE:
            assert tree[entry.name]["same_as"] == min(entry.name, entry.target)
            continue
        facts = tree[entry.name]
        assert facts["owner"] == (entry.uid, entry.gid)
        assert int(facts["mode"], 8) & 0o7777 == entry.mode
        assert facts["mtime"] == int(entry.mtime * 4) * 250_000_000
        assert facts.get("device", (0, 0)) == entry.device
        assert facts.get("target", "") == entry.target
    assert tree["marked"]["xattrs"] == {"user.note": b"hello"}
    assert tree["ping"]["xattrs"] == {"security.capability": CAPABILITY}
    assert (root / "closed/in").read_bytes() == b"x" * 70_000


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress, lzma.compress, bz2.compress])
def test_formats_and_compressions_make_the_same_tree(
    format: int, compress: object, unpacked: Unpack, root: Path
) -> None:
    entries = [
        d("a"),
        f("a/" + "b" * 90 + "/" + "c" * 20, b"data" * 200_000, mtime=5),
        s("l", "t" * 90),
        h("h", "l"),
    ]
    data = archive(entries, format)
    packed = compress(data)  # type: ignore[operator]
    done = unpacked(packed)
    assert (done.digest, done.diff_id) == (Digest.of(packed), Digest.of(data))
    assert (done.size_bytes, done.unpacked_bytes, done.files_bytes) == (len(packed), len(data), 800_090)
    assert (root / entries[1].name).read_bytes() == b"data" * 200_000
    assert (root / "h").readlink() == Path("t" * 90)


def test_several_members_of_a_stream_are_one_archive(unpacked: Unpack, root: Path) -> None:
    data = archive([f("a", b"1" * 3000), f("b", b"2" * 3000)])
    packed = gzip.compress(data[:1000]) + gzip.compress(b"") + gzip.compress(data[1000:]) + bytes(100)
    assert unpacked(packed).diff_id == Digest.of(data)
    shutil.rmtree(root)
    root.mkdir()
    packed = zstd.compress(data[:1000]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd.compress(data[1000:])
    assert unpacked(packed).diff_id == Digest.of(data)
    assert (root / "b").read_bytes() == b"2" * 3000


def test_the_diff_id_covers_what_follows_the_end_of_the_archive(unpacked: Unpack) -> None:
    data = archive([f("a")]) + b"trailing bytes" * 1000
    assert unpacked(gzip.compress(data)).diff_id == Digest.of(data)


def test_an_archive_without_its_end_marks_and_an_empty_one_are_taken(unpacked: Unpack, root: Path) -> None:
    assert unpacked(archive([f("a")], end=False)).entries == 1
    assert unpacked(END).entries == 0
    assert unpacked(b"").entries == 0
    assert (root / "a").is_file()


def opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def is_whiteout(path: Path) -> bool:
    return stat.S_ISCHR(path.lstat().st_mode) and path.lstat().st_rdev == 0


def test_whiteouts_become_what_overlay_understands(unpacked: Unpack, root: Path) -> None:
    gone = f("etc/.wh.passwd", b"")
    unpacked(archive([d("etc", uid=9), gone, d("var"), f("var/.wh..wh..opq", b""), f("var/x"), f(".wh.top")]))
    assert is_whiteout(root / "etc/passwd")
    assert is_whiteout(root / "top")
    assert opaque(root / "var")
    assert not opaque(root / "etc")
    assert not list(root.rglob(".wh.*"))


@pytest.mark.parametrize(
    "entries",
    [
        [f(".wh.a"), d("a"), f("a/b/c")],
        [f(".wh.a"), f("a/b/c")],
        [f(".wh.a"), f("a/.wh.b"), f("a/b/c")],
        [d("a"), f("a/b/c"), f(".wh.a")],
    ],
)
def test_a_directory_that_was_deleted_and_made_anew_hides_what_lies_below(
    entries: list[E], unpacked: Unpack, root: Path
) -> None:
    unpacked(archive(entries))
    assert opaque(root / "a")
    assert (root / "a/b/c").is_file()


def test_a_file_beside_its_own_whiteout_stays_in_either_order(unpacked: Unpack, root: Path) -> None:
    unpacked(archive([f("a"), f(".wh.a"), f(".wh.b"), f("b"), f(".wh..wh.plnk/3.4"), d(".wh..wh.orph")]))
    assert (root / "a").read_bytes() == (root / "b").read_bytes() == b"x"


def test_of_two_entries_the_last_counts(unpacked: Unpack, root: Path) -> None:
    unpacked(
        archive([f("a", b"1", mode=0o777), f("a", b"2"), d("b", 0o700), d("b", 0o711), f("b/c"), d("b", 0o755)])
    )
    assert (root / "a").read_bytes() == b"2"
    assert stat.S_IMODE((root / "b").stat().st_mode) == 0o755
    assert (root / "b/c").exists()


def test_parents_without_an_entry_are_roots_own(unpacked: Unpack, root: Path) -> None:
    unpacked(archive([f("a/b/c", uid=5)]))
    for name in ("a", "a/b"):
        status = (root / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o755)


def test_global_headers_say_nothing_and_old_tars_mark_directories_by_a_slash(unpacked: Unpack, root: Path) -> None:
    everywhere = header(b"g", b"g", 13) + padded(b"13 path=evil\n")
    unpacked(everywhere + header(b"a/", b"\0") + header(b"a/b", b"\0", 1, magic=b"\0" * 8) + padded(b"x") + END)
    assert (root / "a/b").read_bytes() == b"x"


def test_sparse_files_of_every_format_have_their_holes(unpacked: Unpack, root: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/sparse").open("wb") as file:
        for place in range(0, 60 << 20, 1 << 20):
            file.seek(place)
            file.write(b"data%d" % place)
        file.truncate(64 << 20)
    formats = (["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")))
    for options in formats:
        tar = subprocess.run(
            ["tar", "-c", "--sparse", *options, "-C", tmp_path / "in", "sparse"], check=True, capture_output=True
        ).stdout
        assert len(tar) < 8 << 20
        unpacked(tar)
        assert (root / "sparse").read_bytes() == (tmp_path / "in/sparse").read_bytes()
        assert (root / "sparse").stat().st_blocks * 512 < 4 << 20


def test_gnu_tars_own_archives_of_a_real_tree_come_out_the_same(unpacked: Unpack, root: Path) -> None:
    for options in (["--format=gnu"], ["--format=posix", "--xattrs"], ["--format=v7"]):
        shutil.rmtree(root)
        root.mkdir()
        tar = ["tar", "-c", *options, "--sort=name", "-C", "/", "etc", "bin", "sbin", "usr/lib/python3"]
        data = subprocess.run(tar, capture_output=True, check=False).stdout
        unpacked(data)
        beside = root.parent / "reference"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        subprocess.run(["tar", "-xp", "--numeric-owner", "-C", beside], input=data, check=True)
        ours, theirs = snapshot(root, implied_times=False), snapshot(beside, implied_times=False)
        ours.pop(".")
        theirs.pop(".")
        assert ours == theirs
    shutil.rmtree(root.parent / "reference")


LAYERS = [
    images.odd_layer(),
    archive(PLAIN),
    archive([d("a"), f("a/b"), s("c", "a"), f("c/through"), h("d", "a/b")]),
]


@pytest.mark.peer
def test_umoci_unpacks_to_the_same_tree(tmp_path: Path, root: Path) -> None:
    umoci = peers.program("umoci")
    for number, layer in enumerate(LAYERS):
        layout = images.write_layout(tmp_path / f"layout{number}", {"v1": images.make_image([layer])})
        out = tmp_path / f"bundle{number}"
        subprocess.run([umoci, "raw", "unpack", "--image", f"{layout}:v1", out], check=True, capture_output=True)
        here = tmp_path / f"ours{number}"
        here.mkdir()
        unpack(as_file(layer), here)
        ours, theirs = snapshot(here, implied_times=False), snapshot(out, implied_times=False)
        assert ours.keys() == theirs.keys()
        differing = {name for name in ours if ours[name] != theirs[name]} - {"."}
        assert not differing, [(ours[name], theirs[name]) for name in differing]


names = st.lists(
    st.sampled_from(
        [b"a", b"b", b"c", b"..", b".", b"canary", b"secret", b".wh.a", b".wh.b", b".wh..wh..opq", b"", b"l"]
    ),
    min_size=1,
    max_size=4,
).map(b"/".join)
kinds = st.sampled_from([b"0", b"0", b"1", b"2", b"2", b"5", b"5", b"3", b"6", b"4", b"\0", b"7"])
targets = st.one_of(names, names.map(lambda name: b"/" + name), names.map(lambda name: b"../" * 3 + name))
entry = st.builds(
    lambda name, kind, target, absolute, long: (
        (pax({b"path": name or b".", b"linkpath": target or b"."}) if long else b"")
        + header((b"/" if absolute else b"") + name, kind, 4 if kind in b"0\x007" else 0, target)
        + (padded(b"data") if kind in b"0\x007" else b"")
    ),
    names, kinds, targets, st.booleans(), st.booleans(),
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(entry, max_size=25))
def test_no_combination_of_entries_changes_anything_outside(
    entries: list[bytes], root: Path, canary: Path
) -> None:
    outside = snapshot(canary)
    parent = os.open(root.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(LayerRefused):
            unpack(as_file(b"".join(entries) + END), root, Limits(unpacked_bytes=1 << 20))
        assert snapshot(canary) == outside
        assert sorted(os.listdir(parent)) == ["canary", "root"]
        remove_tree(parent, "root")
        assert sorted(os.listdir(parent)) == ["canary"]
        os.mkdir("root", dir_fd=parent)
    finally:
        os.close(parent)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_refused_or_taken_but_never_a_crash(
    data: st.DataObject, root: Path, canary: Path
) -> None:
    good = bytearray(
        archive(PLAIN[:8]) + pax({b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"9"}) + header(b"a", size=1)
    )
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    parent = os.open(root.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(LayerRefused):
            unpack(as_file(bytes(good)), root, Limits(unpacked_bytes=1 << 20))
        remove_tree(parent, "root")
        os.mkdir("root", dir_fd=parent)
    finally:
        os.close(parent)
