"""Our client beside docker's: the same images, words and output; and trees to the last attribute."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import httpx
import pytest

from registry.client.images.store import Store
from tests.support import images, peers
from tests.support.hythe import Hythe
from tests.support.images import Entry, Image
from tests.support.peers import Client
from tests.support.server import Server
from tests.support.tars import archive
from tests.support.trees import snapshot

pytestmark = pytest.mark.peer


@pytest.fixture
def hythe(tmp_path: Path) -> Hythe:
    return Hythe(tmp_path / "client")


@pytest.fixture
def both(hythe: Hythe, docker: Client, server: Server, http: httpx.Client, repository: str) -> list[str]:
    """The same three images pulled by both, from one registry."""
    made = {
        "v1": images.busybox_image("one"),
        "v2": images.busybox_image("two", flavour=images.DOCKER),
        "odd": images.make_image([images.busybox_layer(), images.odd_layer()], labels={"team": "web"}),
    }
    found = []
    for tag, image in made.items():
        peers.upload(http, repository, image, tag)
        name = f"{server.host}/{repository}:{tag}"
        docker("pull", name)
        hythe("pull", name)
        found.append(name)
    for client in (hythe, docker):
        client("tag", found[0], "local/one:latest")
    return found


FORMATS = [
    "{{.ID}}: {{.Repository}}",
    "table {{.ID}}\\t{{.Repository}}",
    "table {{.Repository}}\\t{{.Tag}}\\t{{.Digest}}\\t{{.CreatedSince}}\\t{{.CreatedAt}}\\t{{.VirtualSize}}",
    "{{json .}}",
    '{{.Repository | upper}} {{.Tag | printf "%10s|"}} {{len .Tag}} {{truncate .ID 4}}',
    '{{if eq .Tag "v1"}}first{{else if eq .Tag "v2"}}second{{else}}other{{end}}',
    '{{with .Tag}}{{. | title}}{{end}} {{- " trimmed" -}} {{/* nothing */}} end',
    '{{split .Repository "/" | json}} {{join (split .Repository "/") ":"}} {{pad .Tag 1 2}}|',
]


def lines(text: str) -> list[str]:
    """Sorted: images of one moment have no order of their own."""
    return sorted(text.splitlines())


def test_lists_are_the_same(hythe: Hythe, docker: Client, both: list[str]) -> None:
    for words in (
        ["images"],
        ["images", "--no-trunc"],
        ["images", "--digests"],
        ["images", "-q"],
        ["image", "ls", "local/one"],
        ["images", both[2]],
        ["images", "--filter", "label=team"],
        ["images", "--filter", "label=team=api"],
        ["images", "--filter", "reference=local/*"],
        ["images", "--filter", "reference=*one*"],
        ["images", "--filter", "dangling=true"],
        *(["images", "--format", format] for format in FORMATS),
    ):
        assert lines(hythe(*words)) == lines(docker(*words)), words


INSPECTIONS = [
    "{{.Id}} {{.RepoTags}} {{.RepoDigests}} {{.Os}}/{{.Architecture}} {{.Size}}",
    "{{json .Config}}",
    "{{json .RootFS}} {{.Created}} {{.Parent}}|{{.Comment}}|{{.Author}}|{{.DockerVersion}}",
    "{{range .Config.Env}}{{.}};{{end}} {{range $i, $c := .Config.Cmd}}{{$i}}:{{$c}} {{end}}",
    "{{index .Config.Cmd 0}} {{len .RootFS.Layers}} {{.Config.Labels}} {{.Config.Entrypoint}} {{.Config.User}}|",
    '{{$x := .Config.Cmd}}{{join $x ","}} {{if and .Config.Cmd (not .Config.User)}}y{{else}}n{{end}}',
    '{{println .Id}}{{printf "%s %d %q" .Os (len .RepoTags) .Architecture}}',
]


def test_inspections_are_the_same(hythe: Hythe, docker: Client, both: list[str]) -> None:
    for name in both:
        for format in INSPECTIONS:
            assert hythe("inspect", "--format", format, name) == docker(
                "image", "inspect", "--format", format, name
            )
        ours, theirs = hythe.json("inspect", name)[0], docker.json("image", "inspect", name)[0]
        for document in (ours, theirs):
            for key in ("GraphDriver", "Metadata", "ContainerConfig"):
                document.pop(key)
        assert json.dumps(ours) == json.dumps(theirs)
        assert hythe("history", name) == docker("history", name)
        assert hythe("history", "--no-trunc", "-q", name) == docker("history", "--no-trunc", "-q", name)
        assert hythe("history", "-H=false", "--format", "{{.CreatedAt}} {{.Size}} {{.CreatedBy}}", name) == docker(
            "history", "-H=false", "--format", "{{.CreatedAt}} {{.Size}} {{.CreatedBy}}", name
        )


def test_pulls_pushes_and_removals_say_the_same(hythe: Hythe, docker: Client, both: list[str]) -> None:
    def plain(text: str) -> list[str]:
        return sorted(
            line for line in text.splitlines() if not re.match(r"[0-9a-f]{12}: |Deleted: |odd: digest: ", line)
        )

    for words in (
        ["pull", both[0]],
        ["pull", "-q", both[0]],
        ["push", both[2]],
        ["rmi", both[1]],
        ["rmi", "local/one"],
        ["rmi", both[0]],
    ):
        assert plain(hythe(*words)) == plain(docker(*words)), words
    assert plain(hythe("pull", both[1])) == plain(docker("pull", both[1]))
    for words in (
        ["rmi", "nothing:here"],
        ["inspect", "nothing:here"],
        ["tag", "nothing:here", "x"],
        ["history", "nothing:here"],
    ):
        ours, theirs = hythe.refused(*words), docker.refused(*words)
        assert "No such" in ours
        assert "No such" in theirs


def test_docker_loads_what_we_save_and_we_what_docker_saves(
    hythe: Hythe, docker: Client, both: list[str], tmp_path: Path
) -> None:
    hythe("save", "-o", tmp_path / "ours.tar", *both)
    docker("save", "-o", tmp_path / "theirs.tar", *both)
    docker("rmi", "-f", *both)
    assert lines(docker("load", "-i", tmp_path / "ours.tar"))[-1].startswith("Loaded image: ")
    other = Hythe(tmp_path / "other")
    assert lines(other("load", "-i", tmp_path / "theirs.tar")) == sorted(f"Loaded image: {name}" for name in both)
    ids = ["images", "-q", "--no-trunc"]
    for name in both:
        assert docker(*ids, name) == other(*ids, name) == hythe(*ids, name)


def test_docker_unpacks_to_the_same_directories(
    hythe: Hythe, docker: Client, server: Server, http: httpx.Client, repository: str
) -> None:
    from tests.client.test_unpack_layers import PLAIN

    upper = images.layer([Entry("srv/.wh.gone"), Entry("srv/.wh..wh..opq"), images.directory("srv")])
    image: Image = images.make_image(
        [images.odd_layer(), archive(entry for entry in PLAIN[:-1] if entry.kind != tarfile.LNKTYPE), upper]
    )
    peers.upload(http, repository, image, "v1")
    name = f"{server.host}/{repository}:v1"
    docker("pull", name)
    hythe("pull", name)
    data = docker.json("image", "inspect", name)[0]["GraphDriver"]["Data"]
    theirs = [*reversed(data["LowerDir"].split(":")), data["UpperDir"]]
    store = Store(hythe.root)
    for ours, peer in zip(store.layer_paths(store.find(name)), theirs, strict=True):
        first, second = snapshot(ours, implied_times=False), snapshot(Path(peer), implied_times=False)
        first.pop(".")
        second.pop(".")
        for tree in (first, second):
            for facts in tree.values():
                if facts.get("device") == (0, 0):  # a whiteout is of the moment in which it was made
                    facts.pop("mtime")
        assert first == second
    store.close()


def test_removals_name_the_same_layers(hythe: Hythe, docker: Client, both: list[str]) -> None:
    for words in (["rmi", both[2]], ["rmi", both[1]], ["rmi", "local/one"], ["rmi", both[0]]):
        assert lines(hythe(*words)) == lines(docker(*words)), words
    assert hythe("images", "-aq") == docker("images", "-aq") == ""


def test_an_image_for_another_platform_is_pulled_all_the_same(
    hythe: Hythe, docker: Client, server: Server, http: httpx.Client, repository: str
) -> None:
    peers.upload(http, repository, images.busybox_image("one"), "v1")
    words = ["pull", "--platform", "linux/s390x", f"{server.host}/{repository}:v1"]
    hythe(*words)
    docker(*words)
    assert hythe(*words) == docker(*words)  # this docker pulls and says nothing; later ones say what we say
    assert "WARNING: image with reference" in hythe.said(*words)


def test_a_loaded_image_is_pushed_with_the_same_lines_and_layers(
    hythe: Hythe, docker: Client, server: Server, http: httpx.Client, repository: str, tmp_path: Path
) -> None:
    name = f"{server.host}/{repository}"
    file = images.write_docker_archive(tmp_path / "in.tar", {f"{name}/ours:1": images.busybox_image("one")})
    hythe("load", "-i", file)
    said = lines(hythe("push", f"{name}/ours:1"))
    hythe("rmi", f"{name}/ours:1")
    docker("load", "-i", file)
    docker("tag", f"{name}/ours:1", f"{name}/theirs:1")
    theirs = lines(docker("push", f"{name}/theirs:1"))
    ids = re.compile("[0-9a-f]{12}(?=: )")
    assert {*ids.findall("\n".join(said))} == {*ids.findall("\n".join(theirs))}
    ours, peer = (
        json.loads(peers.stored_manifest(http, f"{repository}/{who}", "1").data) for who in ("ours", "theirs")
    )
    assert ours["config"]["digest"] == peer["config"]["digest"]
    assert [layer["mediaType"] for layer in ours["layers"]] == [layer["mediaType"] for layer in peer["layers"]]
    docker("rmi", "-f", f"{name}/ours:1", f"{name}/theirs:1")
    docker("pull", f"{name}/ours:1")


def test_an_archive_of_an_old_docker_makes_the_same_image(hythe: Hythe, docker: Client, tmp_path: Path) -> None:
    from tests.client.test_as_docker import write_legacy

    write_legacy(tmp_path / "old.tar", [images.busybox_layer(), images.odd_layer()])
    docker("load", "-i", tmp_path / "old.tar")
    hythe("load", "-i", tmp_path / "old.tar")
    ids = ["images", "-q", "--no-trunc"]
    for name in ("old/app:1", "old/app:lower"):
        assert hythe(*ids, name) == docker(*ids, name)
    steps = ["history", "--no-trunc", "--format", "{{.CreatedAt}} {{.CreatedBy}} {{.Size}}", "old/app:1"]
    assert hythe(*steps) == docker(*steps)


def test_space_is_told_in_the_same_tables(hythe: Hythe, docker: Client, both: list[str]) -> None:
    def images_of(client: Client) -> list[str]:
        return client("system", "df", "-v").partition("Containers space")[0].splitlines()

    ours, theirs = images_of(hythe), images_of(docker)
    assert ours[:3] == theirs[:3]
    assert sorted(ours) == sorted(theirs)


def test_manifests_are_shown_with_the_same_fields(
    hythe: Hythe, docker: Client, server: Server, http: httpx.Client, repository: str
) -> None:
    one, two = (images.busybox_image(word, flavour=images.DOCKER) for word in ("one", "two"))
    name = f"{server.host}/{repository}"
    peers.upload(http, repository, one, "v1")
    peers.upload(http, repository, images.make_index([one, two], flavour=images.DOCKER), "list")
    for words in ([f"{name}:v1"], ["-v", f"{name}:v1"], [f"{name}:list"], ["-v", f"{name}:list"]):
        asked = ["manifest", "inspect", "--insecure", *words]
        assert hythe.json(*asked) == docker.json(*asked), words


INFO = [
    "OSType", "Architecture", "NCPU", "MemTotal", "OperatingSystem", "KernelVersion", "Name", "Debug", "Labels",
    "SecurityOptions", "IndexServerAddress", "CgroupVersion", "Swarm.LocalNodeState",
]  # fmt: skip


def test_templates_of_search_version_and_info_are_dockers(
    hythe: Hythe, docker: Client, server: Server, http: httpx.Client, repository: str
) -> None:
    peers.upload(http, repository, images.busybox_image("one"), "v1")
    for format in ("{{json .}}", "{{.Name}}: {{.StarCount}}|{{.IsOfficial}}|{{.Description}}", "table {{.Name}}"):
        words = ["search", f"{server.host}/{repository}", "--format", format]
        assert hythe(*words) == docker(*words), format
    for field in INFO:
        words = ["info", "--format", f"{{{{.{field}}}}}"]
        assert hythe(*words) == docker(*words), field
    for field in ("Client.Os", "Client.Arch", "Server.Os", "Server.Arch", "Server.KernelVersion"):
        words = ["version", "--format", f"{{{{.{field}}}}}"]
        assert hythe(*words) == docker(*words), field
    for words in (["info", "-f", "{{.Nope}}"], ["version", "-f", "{{.Nope}}"]):
        assert "Nope" in hythe.refused(*words)
        assert "Nope" in docker.refused(*words)
