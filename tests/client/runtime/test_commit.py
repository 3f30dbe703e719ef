"""`commit`: a container's changes as an image's layer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import busybox, put
from tests.support import images
from tests.support.hythe import Hythe

pytestmark = needs_root
NONE = ("--network", "none")


def document(hythe: Hythe, image: str) -> Any:
    return json.loads(hythe("image", "inspect", image))[0]


@pytest.mark.parametrize("flavour", [images.OCI, images.DOCKER], ids=["oci", "docker"])
def test_what_a_container_changed_is_in_the_image_and_nothing_else(hythe: Hythe, flavour: images.Flavour) -> None:
    put(hythe, images.make_image(busybox().tars, flavour=flavour), "base")
    hythe(
        "run", "--name", "one", *NONE, "-e", "A=old", "-v", "/data", "base", "sh", "-c",
        "rm /etc/passwd; echo new > /made; ln /made /second; echo x > /data/file",
    )  # fmt: skip
    identity = hythe(
        "commit", "-a", "me", "-m", "why", "-c", "ENV A=new B=2", "-c", 'CMD ["cat", "/made"]', "-c", "EXPOSE 80",
        "one", "mine:v1",
    ).strip()  # fmt: skip
    found = document(hythe, "mine:v1")
    assert (found["Id"], found["Author"], found["Comment"]) == (identity, "me", "why")
    assert found["RootFS"]["Layers"][:-1] == document(hythe, "base")["RootFS"]["Layers"]
    assert {"A=new", "B=2"} <= set(found["Config"]["Env"])
    assert found["Config"]["Cmd"] == ["cat", "/made"]
    assert found["Config"]["ExposedPorts"] == {"80/tcp": {}}
    assert hythe("run", "--rm", *NONE, "mine:v1") == "new\n"
    assert (
        hythe("run", "--rm", *NONE, "mine:v1", "sh", "-c", "ls /etc/passwd /data 2>&1; ls -i /made /second") != ""
    )
    assert "No such file" in hythe("run", "--rm", *NONE, "mine:v1", "sh", "-c", "ls /etc/passwd 2>&1; true")
    assert hythe("run", "--rm", *NONE, "mine:v1", "ls", "/data") == ""
    saved = hythe.directory / "saved.tar"
    hythe("save", "-o", saved, "mine:v1")
    hythe("rm", "one")
    hythe("rmi", "mine:v1")
    assert "Loaded image: mine:v1" in hythe("load", "-i", saved)


def test_the_same_changes_give_the_same_image(hythe: Hythe) -> None:
    hythe.environment["SOURCE_DATE_EPOCH"] = "1700000000"
    made = []
    for name in ("one", "two"):
        hythe("run", "--name", name, *NONE, "busybox", "sh", "-c", "echo x > /b; echo y > /a; mkdir -p /d/e")
        made.append(hythe("commit", name).strip())
    assert made[0] == made[1]


def test_a_running_container_is_paused_meanwhile_and_goes_on(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sh", "-c", "echo x > /x; sleep 600")
    first = hythe("commit", "one").strip()
    assert hythe("inspect", "-f", "{{.State.Status}}", "one") == "running\n"
    said = hythe("events", "--since", "1h", "--until", "0s", "-f", "type=container", "--format", "{{.Action}}")
    assert said.split()[-3:] == ["pause", "unpause", "commit"]
    assert hythe("run", "--rm", *NONE, first, "cat", "/x") == "x\n"


def test_a_container_without_changes_gives_an_image_without_a_layer(hythe: Hythe) -> None:
    hythe("create", "--name", "one", *NONE, "busybox", "true")
    hythe("commit", "one", "same")
    assert document(hythe, "same")["RootFS"] == document(hythe, "busybox")["RootFS"]
    assert "not a valid change" in hythe.refused("commit", "-c", "RUN x", "one")
    assert "No such container" in hythe.refused("commit", "nobody")
