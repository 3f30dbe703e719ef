"""A container's files from outside: cp both ways, diff, export; and volumes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import status_of
from tests.support.hythe import Hythe

pytestmark = needs_root
NONE = ("--network", "none")


def test_diff_says_what_was_added_changed_and_deleted(hythe: Hythe) -> None:
    hythe(
        "run",
        "--name",
        "one",
        *NONE,
        "busybox",
        "sh",
        "-c",
        "mkdir /dir; echo x > /dir/new; echo y >> /etc/passwd; rm /etc/group; touch /t; rm /t",
    )
    assert hythe("diff", "one").splitlines() == ["A /dir", "A /dir/new", "C /etc", "D /etc/group", "C /etc/passwd"]


@pytest.mark.parametrize("running", [True, False])
def test_files_go_in_and_come_out(hythe: Hythe, running: bool, tmp_path: Path) -> None:
    hythe(
        "run",
        *(("-d",) if running else ()),
        "--name",
        "one",
        *NONE,
        "-v",
        "vol:/vol",
        "busybox",
        *(("sleep", "600") if running else ("true",)),
    )
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("words")
    (tree / "sub/file").chmod(0o640)
    (tree / "link").symlink_to("sub/file")
    hythe("cp", tree, "one:/")
    hythe("cp", f"{tree}/.", "one:/new")
    hythe("cp", tree / "sub/file", "one:/vol/renamed")
    assert (hythe.root / "volumes/vol/_data/renamed").read_text() == "words"
    for path in ("tree", "new"):
        hythe("cp", f"one:/{path}", tmp_path / f"back-{path}")
        assert (tmp_path / f"back-{path}/sub/file").read_text() == "words"
        assert (tmp_path / f"back-{path}/sub/file").stat().st_mode & 0o777 == 0o640
        assert os.readlink(tmp_path / f"back-{path}/link") == "sub/file"
    hythe("cp", "one:/tree/sub/file", tmp_path)
    assert (tmp_path / "file").read_text() == "words"
    data = hythe.bytes_of("cp", "one:/tree", "-")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["tree", "tree/link", "tree/sub", "tree/sub/file"]
    hythe.fed(data, "cp", "-", "one:/tmp")
    assert b"words" in hythe.bytes_of("cp", "one:/tmp/tree/sub/file", "-")
    assert "Could not find the file /none" in hythe.refused("cp", "one:/none", tmp_path)
    assert "no such file" in hythe.refused("cp", tmp_path / "none", "one:/")


def test_a_container_is_exported_whole(hythe: Hythe, tmp_path: Path) -> None:
    hythe(
        "run",
        "--name",
        "one",
        *NONE,
        "-v",
        "vol:/vol",
        "busybox",
        "sh",
        "-c",
        "echo new > /new; rm /etc/group; echo v > /vol/v",
    )
    with tarfile.open(fileobj=io.BytesIO(hythe.bytes_of("export", "one"))) as archive:
        names = set(archive.getnames())
        assert archive.extractfile("new").read() == b"new\n"  # type: ignore[union-attr]
    assert {"bin/busybox", "etc/passwd", "new"} <= names
    assert not {"etc/group", "vol/v"} & names
    hythe("export", "-o", tmp_path / "out.tar", "one")
    assert tarfile.is_tarfile(tmp_path / "out.tar")
    hythe("import", tmp_path / "out.tar", "again:1")
    assert hythe("run", "--rm", *NONE, "again:1", "cat", "/new") == "new\n"


def test_volumes_are_made_shown_and_removed(hythe: Hythe) -> None:
    assert hythe("volume", "create", "--label", "a=b", "data") == "data\n"
    [document] = json.loads(hythe("volume", "inspect", "data"))
    assert document["Labels"] == {"a": "b"}
    assert document["Mountpoint"] == str(hythe.root / "volumes/data/_data")
    hythe("create", "--name", "one", "-v", "data:/d", "-v", "/e", "busybox")
    assert len(hythe("volume", "ls", "-q").split()) == 2
    assert "volume is in use" in hythe.refused("volume", "rm", "data")
    assert hythe("volume", "ls", "-qf", "dangling=true") == ""
    hythe("rm", "one")
    assert len(hythe("volume", "prune", "-f").splitlines()) == 4
    assert hythe("volume", "ls", "-q") == "data\n"
    assert hythe("volume", "rm", "data") == "data\n"
    assert "no such volume" in hythe.refused("volume", "rm", "data")
    assert status_of(hythe, "volume", "create", "bad/name")[0] != 0


def test_the_doctor_finds_what_containers_need(hythe: Hythe) -> None:
    assert "Containers can run here." in hythe("doctor")
    assert json.loads(hythe("doctor", "--json"))["works"] is True
    assert json.loads(hythe("info", "--json"))["Containers"] == 0


def test_a_missing_prerequisite_is_named_with_its_package(hythe: Hythe, tmp_path: Path) -> None:
    status, _, said = status_of(hythe, "run", "--rm", "--engine", "no-such-engine", *NONE, "busybox")
    assert status == 125
    assert "there is no engine no-such-engine" in said
