"""What a docker user does next: an archive is loaded and pushed, another platform asked for, everything pruned."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest

from registry.client.images.store import Store
from tests.client.conftest import needs_root
from tests.support import images, peers
from tests.support.hythe import Hythe
from tests.support.images import Image
from tests.support.server import Server

pytestmark = needs_root


def loaded(hythe: Hythe, tmp_path: Path, **named: Image) -> None:
    """Load images that an archive has with plain layers."""
    hythe("load", "-i", images.write_docker_archive(tmp_path / "in.tar", {f"{k}:1": v for k, v in named.items()}))


# --- push


def test_layers_that_came_uncompressed_are_pushed_compressed_and_always_alike(
    hythe: Hythe, server: Server, http: httpx.Client, repository: str, tmp_path: Path
) -> None:
    made = images.small("one", "two")
    name = f"{server.host}/{repository}"
    for client, tag in ((hythe, "v1"), (Hythe(tmp_path / "other"), "v2")):
        loaded(client, tmp_path, app=made)
        client("tag", "app:1", f"{name}:{tag}")
        client("push", f"{name}:{tag}")
    first, second = (peers.stored_manifest(http, repository, tag) for tag in ("v1", "v2"))
    assert first.data == second.data
    layers = json.loads(first.data)["layers"]
    assert [layer["mediaType"][-9:] for layer in layers] == [".tar.gzip", ".tar.gzip"]
    assert json.loads(first.data)["config"]["digest"] == made.config.digest
    third = Hythe(tmp_path / "third")
    third("pull", f"{name}:v1")
    assert third("images", "-q", "--no-trunc").strip() == made.config.digest
    plain = {images.digest_of(tar)[7:] for tar in made.tars}
    assert not plain & {path.name for path in (hythe.root / "blobs" / "sha256").iterdir()}
    assert hythe("save", "app:1", "-o", tmp_path / "again.tar") == ""
    assert Hythe(tmp_path / "fourth")("load", "-i", tmp_path / "again.tar") == "Loaded image: app:1\n"


def test_a_push_has_a_line_for_each_layer_that_is_there_already(
    hythe: Hythe, server: Server, http: httpx.Client, repository: str
) -> None:
    made = images.small("one", "two")
    peers.upload(http, repository, made, "v1")
    hythe("pull", f"{server.host}/{repository}:v1")
    said = hythe("image", "push", f"{server.host}/{repository}:v1").splitlines()
    ids = [images.digest_of(tar)[7:19] for tar in made.tars]
    assert said[1:3] == [f"{identity}: Layer already exists" for identity in ids]
    assert hythe("push", "-q", f"{server.host}/{repository}:v1") == f"{server.host}/{repository}:v1\n"


# --- platforms


def test_an_image_of_another_platform_is_pulled_with_dockers_warning(
    hythe: Hythe, server: Server, http: httpx.Client, repository: str
) -> None:
    here = "/".join(reversed(list(images.host_platform().values())))
    there = "/".join(reversed(list(images.foreign_platform().values())))
    for tag, platform in (("here", images.host_platform()), ("there", images.foreign_platform())):
        peers.upload(http, repository, images.small("one", platform=platform), tag)
    name = f"{server.host}/{repository}"
    said = hythe.said("pull", "--platform", there, f"{name}:here").splitlines()
    assert said[-1] == (
        f"WARNING: image with reference {name}:here was found but does not match the specified platform: "
        f"wanted {there}, actual: {here}"
    )
    assert "WARNING" not in hythe.said("pull", "--platform", there, f"{name}:there")
    assert f"wanted {here}, actual: {there}" in hythe.said("pull", f"{name}:there")


# --- removal


def test_removed_layers_are_named_by_their_chain_as_docker_names_them(hythe: Hythe, tmp_path: Path) -> None:
    below, above = images.small("one"), images.small("one", "two")
    loaded(hythe, tmp_path, below=below, above=above)
    lower, upper = (images.digest_of(tar) for tar in above.tars)
    chain = images.digest_of(f"{lower} {upper}".encode())
    assert hythe("rmi", "above:1").splitlines() == [
        "Untagged: above:1",
        f"Deleted: {above.config.digest}",
        f"Deleted: {chain}",
    ]
    assert hythe("image", "remove", "below:1").splitlines()[1:] == [
        f"Deleted: {below.config.digest}",
        f"Deleted: {lower}",
    ]


def test_prune_has_all_of_dockers_forms(hythe: Hythe, tmp_path: Path) -> None:
    loaded(hythe, tmp_path, one=images.small("one", labels={"keep": "yes"}), two=images.small("two"))
    asked = hythe.fed(b"n\n", "system", "prune")
    assert asked.startswith("WARNING! This will remove:\n  - all stopped containers\n")
    assert "\n  - all dangling images\n" in asked
    assert "all images without at least one container" in hythe.fed(b"", "image", "prune", "--all")
    assert hythe("system", "prune", "-f") == "Total reclaimed space: 0B\n"
    said = hythe.fed(b"y\n", "image", "prune", "-a", "--filter", "label!=keep")
    assert "Deleted Images:\nuntagged: two:1\ndeleted: sha256:" in said
    assert said.endswith("\nTotal reclaimed space: 3B\n")
    assert hythe("images", "--format", "{{.Repository}}") == "one\n"
    hythe("system", "prune", "-a", "--force")
    assert hythe("images", "-q") == ""


def test_what_takes_space_is_told_in_both_spellings(hythe: Hythe, tmp_path: Path) -> None:
    loaded(hythe, tmp_path, one=images.small("one"), two=images.small("one", "three"))
    assert hythe("df") == hythe("system", "df")
    assert hythe("df").splitlines()[1].split() == ["Images", "2", "0", "8B", "8B", "(100%)"]
    rows = hythe("system", "df", "-v").splitlines()
    assert rows[0] == "Images space usage:"
    assert rows[2].split("   ")[0] == "REPOSITORY"
    assert {tuple(line.split()[index] for index in (0, -4, -3, -2, -1)) for line in rows[3:5]} == {
        ("one", "3B", "3B", "0B", "0"),
        ("two", "8B", "3B", "5B", "0"),
    }
    assert hythe("system", "df", "--format", "{{.Type}}={{.TotalCount}}").splitlines()[0] == "Images=2"


def test_every_verb_of_images_has_dockers_other_spelling(hythe: Hythe, tmp_path: Path) -> None:
    loaded(hythe, tmp_path, one=images.small("one"))
    said = hythe.refused("image").split("Commands:")[1].split()
    assert set(said) >= {
        "ls",
        "list",
        "rm",
        "remove",
        "inspect",
        "history",
        "save",
        "load",
        "tag",
        "prune",
        "import",
    }
    assert set(said) >= {"pull", "push"}
    for first, second in (("images", "ls"), ("images", "list"), ("inspect", "inspect"), ("history", "history")):
        words = [] if first == "images" else ["one:1"]
        assert hythe(first, *words) == hythe("image", second, *words)


# --- archives


def test_what_is_saved_never_replaces_a_device_nor_a_link(hythe: Hythe, tmp_path: Path) -> None:
    loaded(hythe, tmp_path, one=images.small("one"))
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file.tar"
    os.mkfifo(pipe)
    link.symlink_to(file)
    hythe("save", "-o", link, "one:1")
    assert link.is_symlink()
    before = file.read_bytes()
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    hythe("save", "-o", pipe, "one:1")
    assert reader.communicate()[0] == before
    assert pipe.is_fifo()
    os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    said = hythe.refused("save", "-o", tmp_path / "full", "one:1")
    assert said == f"hythe: {tmp_path / 'full'}: No space left on device; free some, or write to another disk\n"
    assert (tmp_path / "full").is_char_device()
    assert "is a directory" in hythe.refused("save", "-o", tmp_path, "one:1")
    assert "No such file or directory; make " in hythe.refused("save", "-o", tmp_path / "no" / "such.tar", "one:1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "client",
        "file.tar",
        "full",
        "in.tar",
        "link",
        "pipe",
    ]


@pytest.mark.parametrize("words", [["images"], ["save", "one:1"], ["inspect", "one:1"], ["df"]], ids=str)
def test_a_full_standard_output_is_said_in_one_line(hythe: Hythe, tmp_path: Path, words: list[str]) -> None:
    loaded(hythe, tmp_path, one=images.small("one"))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*hythe.command, *words], stdout=full, stderr=subprocess.PIPE, env=hythe.environment, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"hythe: No space left on device\n")


# --- archives from before docker 1.10


def write_legacy(path: Path, tars: list[bytes], names: dict[str, dict[str, str]] | None = None) -> list[str]:
    """An archive of docker 1.9, and the layers' ids in it."""
    ids = [f"{place + 1:064x}" for place in range(len(tars))]
    files: dict[str, bytes] = {}
    for place, tar in enumerate(tars):
        document = {
            "id": ids[place],
            **({"parent": ids[place - 1]} if place else {}),
            "created": f"2015-11-0{place + 1}T10:00:00.123456789Z",
            "container_config": {"Cmd": ["/bin/sh", "-c", f"#(nop) ADD file:{place} <&>"]},
            "docker_version": "1.9.1",
            "config": {"Cmd": ["true"], "Env": None, "Labels": {"b": "1", "a": "2"}},
            "architecture": "amd64",
            "os": "linux",
            "Size": len(tar),
        }
        files |= {f"{ids[place]}/VERSION": b"1.0", f"{ids[place]}/json": json.dumps(document).encode()}
        files[f"{ids[place]}/layer.tar"] = tar
    files["repositories"] = json.dumps(names or {"old/app": {"1": ids[-1], "lower": ids[0]}}).encode()
    with tarfile.open(path, "w") as tar_file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar_file.addfile(member, __import__("io").BytesIO(data))
    return ids


def test_an_archive_of_an_old_docker_is_loaded_with_its_history(hythe: Hythe, tmp_path: Path) -> None:
    tars = list(images.small("one", "two").tars)
    write_legacy(tmp_path / "old.tar", tars)
    assert sorted(hythe("load", "-i", tmp_path / "old.tar").splitlines()) == [
        "Loaded image: old/app:1",
        "Loaded image: old/app:lower",
    ]
    [document] = hythe.json("inspect", "old/app:1")
    assert document["RootFS"]["Layers"] == [images.digest_of(tar) for tar in tars]
    assert document["Config"]["Cmd"] == ["true"]
    assert document["Created"] == "2015-11-02T10:00:00.123456789Z"
    assert hythe("history", "--format", "{{.CreatedBy}}", "old/app:1").splitlines() == [
        "/bin/sh -c #(nop) ADD file:1 <&>",
        "/bin/sh -c #(nop) ADD file:0 <&>",
    ]
    store = Store(hythe.root)
    paths = store.layer_paths(store.find("old/app:1"))
    assert [sorted(file.name for file in path.rglob("etc/*")) for path in paths] == [["one"], ["two"]]
    store.close()


@pytest.mark.parametrize(
    "names", [{"a": {"1": "f" * 64}}, {"a": {"1": "../../etc"}}, {"a": {"1": ""}}, {"a": 1}], ids=str
)
def test_a_broken_archive_of_an_old_docker_is_refused_in_one_line(
    hythe: Hythe, tmp_path: Path, names: dict[str, dict[str, str]]
) -> None:
    write_legacy(tmp_path / "old.tar", list(images.small("one").tars), names)
    said = hythe.refused("load", "-i", tmp_path / "old.tar")
    assert said.count("\n") == 1
    assert said.startswith(f"hythe: {tmp_path / 'old.tar'}: ")
