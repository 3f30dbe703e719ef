"""Containers of an ordinary user: every verb without root, owners kept, each storage and each network."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, busybox, status_of
from tests.client.runtime.people import Ordinary, eventually
from tests.client.runtime.terminal import Terminal
from tests.support import images, peers
from tests.support.images import Entry, Image
from tests.support.server import Server

pytestmark = needs_root
NONE = ("--network", "none")
MakePerson = Callable[..., Ordinary]


@functools.cache
def owned() -> Image:
    """busybox; then files of several owners, and what hides some of them."""
    program = next(entry for entry in images.busybox_entries() if entry.name == "bin/busybox")
    middle = [
        images.directory("srv", uid=33, gid=34),
        Entry("srv/file", b"of 33", 0o640, uid=33, gid=34),
        Entry("srv/gone", b""),
        images.directory("old"),
        Entry("old/hidden", b""),
        Entry("bin/busybox-raised", program.data, 0o4755),
    ]
    upper = [images.whiteout("srv/gone"), images.opaque("old"), Entry("old/new", b"")]
    return images.make_image([busybox().tars[0], images.layer(middle), images.layer(upper)])


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that an ordinary user can reach, which pytest's own are not."""
    with peers.private_directory() as path:
        path.chmod(0o755)
        yield path


@pytest.fixture
def make_person(home: Path) -> Iterator[MakePerson]:
    """Ordinary users with an image `owned`; afterwards nothing of them may be left."""
    peers.require_root("runc")
    peers.require_busybox()
    for program, package in (("runc", ""), ("conmon", ""), ("newuidmap", "uidmap"), ("pasta", "passt")):
        peers.program(program, package)
    archive = images.write_docker_archive(home / "owned.tar", {"owned:latest": owned()})
    archive.chmod(0o644)
    made: list[Ordinary] = []

    def make(load: bool = True, **options: object) -> Ordinary:
        person = Ordinary(home / f"user{len(made)}", **options)  # type: ignore[arg-type]
        made.append(person)
        if load:
            person("load", "-qi", archive)
        return person

    yield make
    for person in made:
        if left := person("ps", "-aq", "--no-trunc").split():
            person("rm", "-fv", *left)
    for person in made:
        assert_nothing_is_left(person)
        person.assert_nothing_runs()


@pytest.fixture
def person(make_person: MakePerson) -> Ordinary:
    return make_person()


def shell(person: Ordinary, *words: str, command: str) -> str:
    return person("run", "--rm", *NONE, *words, "owned", "sh", "-c", command)


def fetched(person: Ordinary, name: str) -> str:
    """What a container's web server says at its published port."""
    [line] = person("port", name).splitlines()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        try:
            with opener.open(f"http://{line.rpartition(' ')[2]}/file", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_pull_keeps_the_owners_and_a_removal_takes_all_of_it(
    make_person: MakePerson, server: Server, http: httpx.Client, repository: str
) -> None:
    person = make_person(load=False)
    peers.upload(http, repository, owned(), "v1")
    name = f"{server.host}/{repository}:v1"
    said = person("run", "--rm", *NONE, name, "sh", "-c", "ls -ln /srv; ls /old; id -u")
    file, last = said.splitlines()[1], said.splitlines()[-2:]
    assert file.split()[:4] == ["-rw-r-----", "1", "33", "34"]
    assert last == ["new", "0"]
    [found] = person.root.glob("layers/*/srv/file")
    assert (found.stat().st_uid, found.stat().st_gid) == (person.first + 32, person.first + 33)
    person("rmi", name)
    assert not list(person.root.glob("layers/*"))
    assert not list(person.root.glob("trash/*"))


def test_users_of_the_container_are_the_users_own_ids(person: Ordinary) -> None:
    assert shell(person, "-u", "33:34", command="id -u; id -g; cat /srv/file").split() == ["33", "34", "of", "33"]
    status, _, said = status_of(person, "run", "--rm", *NONE, "-u", "70000", "owned", "true")
    assert status == 125
    assert "has the id 70000" in said
    assert person("ps", "-aq") == ""


def test_a_container_in_the_background_is_reached_and_asked_and_ended(person: Ordinary) -> None:
    person(
        "run", "-d", "--name", "web", "-p", "127.0.0.1::80", "owned", "httpd", "-f", "-h", "/srv", "-u", "33:34"
    )
    assert "127.0.0.1:" in person("ps", "--format", "{{.Ports}}")
    assert fetched(person, "web") == "of 33"
    assert person("exec", "-u", "33", "-w", "/srv", "web", "sh", "-c", "id -u; pwd").split() == ["33", "/srv"]
    assert "httpd -f" in person("top", "web")
    assert len(person("top", "web").splitlines()) == 2
    assert person("stats", "--no-stream", "--format", "{{.PIDs}}", "web") == "1\n"
    [found] = json.loads(person("inspect", "web"))
    assert found["NetworkSettings"]["IPAddress"] in person("exec", "web", "cat", "/etc/hosts")
    person("stop", "-t", "0", "web")
    assert person("ps", "-a", "--format", "{{.State}} {{.Ports}}").split() == ["exited"]
    person.assert_nothing_runs()
    person("start", "web")
    assert fetched(person, "web") == "of 33"
    person("rm", "-f", "web")


def test_slirp4netns_serves_where_it_is_chosen(make_person: MakePerson) -> None:
    peers.program("slirp4netns")
    person = make_person(HYTHE_USER_NETWORK="slirp4netns")
    person("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "owned", "httpd", "-f", "-h", "/srv")
    assert fetched(person, "web") == "of 33"
    assert any("slirp4netns" in words for words in person.processes().values())


def test_containers_share_a_network_or_have_the_machines(person: Ordinary) -> None:
    person("run", "-d", "--name", "web", "owned", "httpd", "-f", "-h", "/srv")
    said = person("run", "--rm", "--network", "container:web", "owned", "wget", "-qO-", "http://127.0.0.1/file")
    assert said == "of 33"
    status, _, complaint = status_of(person, "run", "--rm", "owned", "wget", "-O-", "http://127.0.0.1/file")
    assert status == 1
    assert "refused" in complaint
    said = person(
        "run",
        "--rm",
        "--network",
        "host",
        "owned",
        "sh",
        "-c",
        "readlink /proc/self/ns/net || ls -l /proc/self/ns/net",
    )
    assert os.readlink("/proc/self/ns/net") in said


def test_a_terminal(person: Ordinary) -> None:
    command = ("sh", "-c", 'echo ready; while read -r line; do eval "$line"; done')
    typist = Terminal(person, "run", "-it", "--rm", *NONE, "owned", *command, rows=30, columns=100)
    typist.expect("ready")
    typist.type("until stty size | busybox grep '30 100'; do sleep 0.05; done; echo sized $(id -u)\n")
    typist.expect("sized 0")
    typist.type("exit 5\n")
    assert typist.end() == 5


@pytest.mark.parametrize("storage", ["overlay", "fuse-overlayfs", "copy"])
def test_files_change_and_are_copied_on_each_storage(make_person: MakePerson, storage: str) -> None:
    if storage == "fuse-overlayfs":
        peers.program("fuse-overlayfs")
    person = make_person()
    if storage != "overlay":  # which is what is found out here
        (person.root / "storage").write_text(storage)
    change = "rm /srv/file; mkdir /made; echo text > /made/one; ln /made/one /made/two; chown 33:34 /made/one"
    person("run", "--name", "one", *NONE, "owned", "sh", "-c", change)
    assert person("diff", "one").splitlines() == ["A /made", "A /made/one", "A /made/two", "C /srv", "D /srv/file"]
    taken = person.directory / "taken"
    person("cp", "one:/made/one", taken)
    assert (taken.read_text(), taken.stat().st_uid) == ("text\n", person.uid)
    person("cp", taken, "one:/srv/back")
    listed = subprocess.run(["tar", "tv"], input=person.bytes_of("export", "one"), capture_output=True, check=True)
    lines = {line.split()[5]: line.split()[1] for line in listed.stdout.decode().splitlines()}
    assert lines["made/one"] == lines["made/two"] == "33/34"
    assert lines["srv/back"] == "0/0"
    assert "srv/file" not in lines
    assert "srv/gone" not in lines
    assert "old/hidden" not in lines
    assert person("start", "-a", "one") == ""
    assert shell(person, command="cat /srv/file") == "of 33"  # the image is as it was
    assert (person.root / "storage").read_text().strip() == storage
    person("rm", "one")


def test_volumes_hold_files_of_every_owner_and_go(person: Ordinary) -> None:
    mine = person.directory / "mine"
    mine.mkdir()
    os.chown(mine, person.uid, person.uid)
    shell(
        person,
        "-v",
        f"{mine}:/mine",
        "-v",
        "kept:/srv",
        command="echo x > /mine/a; echo y > /srv/b; chown 40 /srv/b",
    )
    assert (mine / "a").stat().st_uid == person.uid
    assert shell(person, "-u", "40", "-v", "kept:/srv", command="cat /srv/b") == "y\n"
    assert (person.root / "volumes/kept/_data/b").stat().st_uid == person.first + 39
    person("volume", "rm", "kept")
    assert not (person.root / "volumes/kept").exists()


def test_several_started_at_once_are_in_one_namespace(person: Ordinary) -> None:
    words = [*person.command, "run", "-d", *NONE, "owned", "sleep", "600"]
    started = [
        subprocess.Popen(words, env=person.environment, cwd=person.directory, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    ids = [each.communicate(timeout=120)[0].decode().strip() for each in started]
    spaces = {person("exec", each, "sh", "-c", "ls -l /proc/1/ns/user").split()[-1] for each in ids}
    assert len(spaces) == 1
    person("rm", "-f", *ids)


def test_a_policy_starts_it_again(person: Ordinary) -> None:
    person(
        "run", "-d", "--name", "again", "--restart", "on-failure:2", *NONE, "owned", "sh", "-c", "echo try; exit 3"
    )
    assert eventually(lambda: person("logs", "again") == "try\n" * 3)
    assert eventually(
        lambda: person("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "again") == "exited 3\n"
    )


def test_without_ranges_there_is_one_id_and_that_is_said(make_person: MakePerson) -> None:
    person = make_person(ids=0)
    status, said, complaint = status_of(
        person, "run", "--rm", *NONE, "owned", "sh", "-c", "id -u; ls -ln /srv/file"
    )
    assert (status, said.split()[0]) == (0, "0")
    assert "usermod --add-subuids" in complaint
    [found] = person.root.glob("layers/*/srv/file")
    assert found.stat().st_uid == person.uid
    status, _, complaint = status_of(person, "run", "--rm", *NONE, "-u", "33", "owned", "true")
    assert (status, "you have one id" in complaint) == (125, True)
    assert "mend it with: sudo usermod --add-subuids" in person("doctor")


def test_what_a_user_cannot_have_is_named_with_what_mends_it(make_person: MakePerson) -> None:
    person = make_person(devices="600")
    status, _, said = status_of(person, "run", "--rm", "owned", "true")
    assert (status, "/dev/net/tun: sudo" in said) == (125, True)
    assert shell(person, command="echo fine") == "fine\n"
    person.environment["HYTHE_USER_NETWORK"] = "pasta-of-another-name"
    assert "apt-get install pasta-of-another-name" in status_of(person, "run", "--rm", "owned", "true")[2]
    assert "only root can make" in status_of(person, "network", "create", "mine")[2]
    assert "only root can make" in status_of(person, "run", "--rm", "--network", "mine", "owned", "true")[2]
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    person.environment.pop("HYTHE_USER_NETWORK")
    if first > 80:
        person = make_person()
        said = status_of(person, "run", "--rm", "-p", "80:80", "owned", "true")[2]
        assert "net.ipv4.ip_unprivileged_port_start=80" in said
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        status, _, said = status_of(
            person, "run", "-d", "--name", "one", "-m", "64m", *NONE, "owned", "sleep", "600"
        )
        assert (status, "--memory limits nothing here" in said) == (0, True)
        assert "cgroup v2" in status_of(person, "pause", "one")[2]
        assert "limits: none" in person("doctor")
