"""What is decided for an ordinary user before anything runs: ids, the configuration, words, files of a copy."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from registry.client.images.unpack import rights
from registry.client.runtime import bundle, differences, flatten, networks, rootless, usernet, userns
from registry.client.runtime.bundle import Facts
from registry.client.runtime.errors import ContainerError
from registry.client.runtime.spec import Port, Spec
from registry.client.runtime.users import User
from tests.client.conftest import needs_root

RANGES = "ann:100000:65536\n# ann:1:1\nbob:165536:65536\nann:x:5\nann:300000\n 1000:400000:10 \nann:500000:0\n"


def test_ranges_are_those_of_the_name_and_of_the_number() -> None:
    assert userns.read_ranges(RANGES, ("ann", "1000")) == ((100000, 65536), (400000, 10))
    assert userns.read_ranges("", ("ann", "1000")) == ()


@pytest.mark.parametrize(
    ("text", "ids"), [("0 1000 1\n1 100000 65536", 65537), ("1 100000 5\n0 7 1\n10 8 5", 6), ("0 5 1", 1)]
)
def test_ids_count_from_zero_to_the_first_gap(tmp_path: Path, text: str, ids: int) -> None:
    (tmp_path / "map").write_text(text)
    assert rights.first_ids(str(tmp_path / "map")) == ids


def configured(spec: Spec, ids: int = 65537, user: User | None = None) -> dict[str, Any]:
    document = bundle.configuration(spec, user or User(), "/", Facts("id", "/r", "/f", "x86_64"))
    return rootless.adapt(document, ids)


def test_what_needs_the_machines_namespace_is_bound_and_what_needs_a_cgroup_goes() -> None:
    own = {each["destination"]: each for each in configured(Spec("i"))["mounts"]}
    assert own["/sys"]["type"] == "sysfs"
    assert own["/proc"]["type"] == "proc"
    document = configured(Spec("i", network="host", pid="host", memory=64 << 20))
    bound = {each["destination"]: each for each in document["mounts"]}
    assert (bound["/sys"]["type"], "ro" in bound["/sys"]["options"]) == ("bind", True)
    assert bound["/proc"]["type"] == "bind"
    assert "cgroupsPath" not in document["linux"]
    if "memory" not in rootless.delegated():
        assert "memory" not in document["linux"]["resources"]
        assert rootless.without_limits(Spec("i", memory=1, nano_cpus=1)) == ["--memory", "--cpus"]


def test_a_user_beyond_the_ids_is_refused_before_anything_runs() -> None:
    assert configured(Spec("i"), user=User(65536, 1))["process"]["user"]["uid"] == 65536
    for user in (User(65537), User(1, 65537), User(0, 0, (65537,))):
        with pytest.raises(ContainerError, match="has the id 65537"):
            configured(Spec("i"), user=user)
    single = configured(Spec("i"), 1, User(0, 0, (10,)))
    assert single["process"]["user"]["additionalGids"] == []
    assert not any("gid=5" in each["options"] for each in single["mounts"])


def test_pasta_forwards_what_is_published_and_nothing_else() -> None:
    plan = usernet.Plan("pasta", "10.90.0.2", 24, "10.90.0.1", ())
    words = usernet.pasta_words(plan, "/n", "/p")
    assert [words[at + 1] for at, word in enumerate(words) if word in ("-t", "-u", "-T", "-U")] == ["none"] * 4
    assert "--no-map-gw" in words
    ports = (Port(80, "tcp", "127.0.0.1", 8080), Port(53, "udp", "", 5353), Port(81, "tcp", "", 8081))
    words = usernet.pasta_words(usernet.Plan("pasta", "10.90.0.2", 24, "10.90.0.1", ports), "/n", "/p")
    assert [words[at + 1] for at, word in enumerate(words) if word in ("-t", "-u")] == [
        "127.0.0.1/8080:80", "8081:81", "5353:53",
    ]  # fmt: skip
    assert networks.DEFAULT == "bridge"


# --- a copy of layers


def layers(directory: Path, outside: Path) -> list[Path]:
    """Two layers, of which the upper one has directories where the lower one has links that lead out."""
    lower, upper = directory / "lower", directory / "upper"
    (lower / "kept").mkdir(parents=True)
    (lower / "kept/one").write_text("one")
    os.link(lower / "kept/one", lower / "kept/two")
    (lower / "out").symlink_to(outside)
    (lower / "file").symlink_to(outside / "file")
    (lower / "gone").write_text("")
    (lower / "hidden").mkdir()
    (lower / "hidden/old").write_text("")
    (upper / "out").mkdir(parents=True)
    (upper / "out/file").write_text("in the copy")
    (upper / "file").write_text("in the copy")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (upper / "hidden").mkdir()
    os.setxattr(upper / "hidden", "user.overlay.opaque", b"y")
    os.chown(upper / "file", 33, 34)
    (upper / "file").chmod(0o4711)
    return [lower, upper]


@needs_root
def test_a_copy_follows_no_link_of_a_layer_and_shares_no_file_with_one(tmp_path: Path) -> None:
    outside, whole = tmp_path / "outside", tmp_path / "whole"
    outside.mkdir()
    whole.mkdir()
    (outside / "file").write_text("outside")
    found = layers(tmp_path, outside)
    flatten.copy(found, whole)
    assert (outside / "file").read_text() == "outside"
    assert os.listdir(outside) == ["file"]
    assert (whole / "out/file").read_text() == (whole / "file").read_text() == "in the copy"
    assert sorted(os.listdir(whole)) == ["file", "hidden", "kept", "out"]
    assert os.listdir(whole / "hidden") == []
    assert os.listxattr(whole / "hidden") == []
    status = (whole / "file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (33, 34, 0o4711)
    assert (whole / "kept/one").stat().st_ino == (whole / "kept/two").stat().st_ino
    assert (whole / "kept/one").stat().st_nlink == 2  # none of them the layer's
    assert (whole / "kept/one").stat().st_ino != (found[0] / "kept/one").stat().st_ino
    lowers = [str(each) for each in reversed(found)]
    assert list(differences.of_copy(str(whole), lowers)) == []
    (whole / "kept/one").write_text("other")
    (whole / "file").unlink()
    assert list(differences.of_copy(str(whole), lowers)) == [
        ("D", "/file"), ("C", "/kept"), ("C", "/kept/one"), ("C", "/kept/two"),
    ]  # fmt: skip
