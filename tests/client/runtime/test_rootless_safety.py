"""What an ordinary user's container must not be able to do, whatever is in its image; and kills at any point."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, status_of
from tests.client.runtime.people import Ordinary, eventually
from tests.client.runtime.test_rootless import NONE, MakePerson, home, make_person, owned, person, shell
from tests.support.processes import wait_until
from tests.support.server import Server

pytestmark = needs_root
__all__ = ("home", "make_person", "owned", "person")


def ids_of(pid: int) -> set[int]:
    """All user ids of a process, as this machine counts them."""
    said = re.search(r"^Uid:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert said is not None
    return {int(each) for each in said[1].split()}


def test_root_of_a_container_is_the_user_and_no_more(person: Ordinary) -> None:
    theirs = person.directory.parent / "theirs"
    theirs.mkdir()
    secret = theirs / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    raised = theirs / "raised"  # of this machine's root, in a place that the user mounts
    raised.write_bytes(b"#!/bin/true")
    raised.chmod(0o4755)
    said = shell(
        person,
        "--privileged",
        "-v",
        f"{theirs}:/theirs",
        command="""
        id -u
        cat /theirs/secret; echo x > /theirs/secret; rm /theirs/secret; touch /theirs/new; chmod 777 /theirs
        chown 0:0 /theirs/secret; ln /theirs/secret /tmp/link; echo x > /theirs/raised
        mknod /tmp/memory c 1 1 && cat /tmp/memory | head -c 1
        mknod /tmp/tty c 5 0
        echo 1 > /proc/sys/kernel/panic; echo b > /proc/sysrq-trigger; hostname still-mine
        echo end
        """,
    )
    assert said.split() == ["0", "end"]
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("of root", 0o600)
    assert sorted(os.listdir(theirs)) == ["raised", "secret"]
    assert theirs.stat().st_mode & 0o777 != 0o777
    assert os.uname().nodename != "still-mine"


def test_a_setuid_program_of_an_image_makes_nobody_root_of_this_machine(person: Ordinary) -> None:
    words = ("busybox-raised", "ping", "127.0.0.1")  # which keeps what set-id gives, as others of busybox do not
    person("run", "-d", "--name", "one", "-u", "33", *NONE, "owned", *words)
    pid = json.loads(person("inspect", "one"))[0]["State"]["Pid"]
    assert eventually(lambda: "ping" in Path(f"/proc/{pid}/cmdline").read_text())
    assert ids_of(pid) == {person.first + 32, person.uid}  # root of the container is the user
    for each in person.processes():
        assert all(person.owns(uid) for uid in ids_of(each))
    # On the machine the program is the user's own, behind a directory that nobody else may enter.
    [file] = person.root.glob("layers/*/bin/busybox-raised")
    assert (file.stat().st_uid, file.stat().st_mode & 0o7777) == (person.uid, 0o4755)
    assert person.root.stat().st_mode & 0o777 == 0o700


def test_what_listens_on_this_machines_loopback_alone_is_not_reached(person: Ordinary, server: Server) -> None:
    port = server.host.rpartition(":")[2]
    command = f"""
        gateway=$(busybox ip route | busybox sed -n 's/default via \\([^ ]*\\) .*/\\1/p'); echo $gateway
        for address in $gateway 127.0.0.1; do busybox timeout 2 wget -qO- http://$address:{port}/v2/; done
        echo end"""
    gateway, *reached = person("run", "--rm", "owned", "sh", "-c", command).split()
    assert gateway.startswith("10.90.")
    assert reached == ["end"]


def test_killed_monitors_and_containers_leave_nothing(person: Ordinary) -> None:
    person("run", "-d", "--name", "one", "-p", "127.0.0.1::80", "owned", "httpd", "-f", "-h", "/srv", "-u", "33")
    [found] = json.loads(person("inspect", "one"))
    monitor = int((person.directory / "run" / found["Id"] / "conmon.pid").read_text())
    os.kill(monitor, signal.SIGKILL)
    assert eventually(lambda: monitor not in person.processes())
    assert person("ps", "--format", "{{.State}}") == "running\n"
    assert person("exec", "one", "cat", "/srv/file") == "of 33"  # it is found without its monitor
    os.kill(found["State"]["Pid"], signal.SIGKILL)
    assert eventually(lambda: person("ps", "-a", "--format", "{{.State}}") == "exited\n")
    person.assert_nothing_runs()
    assert_nothing_is_left(person)
    assert person("start", "one") == "one\n"
    assert person("rm", "-f", "one") == "one\n"
    person.assert_nothing_runs()


def test_when_everything_of_the_user_is_killed_the_next_command_finds_its_way(person: Ordinary) -> None:
    person("run", "-d", "--name", "one", "--restart", "always", "owned", "sleep", "600")
    while found := person.processes():  # the monitor first: who is left cannot start it again
        for pid in sorted(found, key=lambda pid: "conmon" not in found[pid]):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda: not person.processes(), timeout=1)
    assert person("ps", "-a", "--format", "{{.Names}} {{.State}}") == "one exited\n"
    assert_nothing_is_left(person)
    person("rm", "one")
    assert shell(person, command="echo works") == "works\n"


@pytest.mark.parametrize("point", ["start.launched", "start.made", "start.recorded", "end.cleared"])
def test_a_run_that_was_killed_is_brought_to_its_end(person: Ordinary, point: str) -> None:
    person.environment["HYTHE_FAILPOINT"] = point
    status, _, _ = status_of(person, "run", "--name", "one", "owned", "true")
    assert status == -signal.SIGKILL or point == "end.cleared"
    del person.environment["HYTHE_FAILPOINT"]
    assert person("ps", "-a", "--format", "{{.State}}").strip() in ("created", "running", "exited")
    assert person("rm", "-f", "one") == "one\n"
    person.assert_nothing_runs()
    assert_nothing_is_left(person)


def test_a_run_directory_that_others_could_replace_is_refused(make_person: MakePerson) -> None:
    person = make_person(load=False)
    own = person.environment["HYTHE_RUN_ROOT"]
    shared, fine, link = (person.directory / name for name in ("shared", "fine", "link"))
    for path in (shared, fine):
        path.mkdir()
        os.chown(path, person.uid, person.uid)
    shared.chmod(0o777)
    link.symlink_to(fine)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    for path in (shared / "run", link / "run", link):
        person.environment["HYTHE_RUN_ROOT"] = str(path)
        status, _, said = status_of(person, "ps")
        assert (status, "is open to others" in said) == (125, True), path
    os.chown(link, 0, 0, follow_symlinks=False)
    person.environment["HYTHE_RUN_ROOT"] = str(link / "run")
    assert status_of(person, "ps", "-q") == (0, "", "")  # as administrators have them, in /var/run for instance
    person.environment["HYTHE_RUN_ROOT"] = own
    shared.chmod(0o755)


def test_without_any_variable_the_places_are_those_of_xdg(make_person: MakePerson) -> None:
    person = make_person(load=False)
    for name in ("HYTHE_CLIENT_ROOT", "HYTHE_RUN_ROOT"):
        del person.environment[name]
    runtime = person.directory / "runtime"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, person.uid, person.uid)
    person.environment |= {"XDG_RUNTIME_DIR": str(runtime), "XDG_DATA_HOME": str(person.directory / "data")}
    said = person.json("info", "--json")
    assert said["Root Dir"] == str(person.directory / "data/hythe/client")
    assert said["Run Dir"].startswith(f"{runtime}/hythe/")
    del person.environment["XDG_RUNTIME_DIR"], person.environment["XDG_DATA_HOME"]
    said = person.json("info", "--json")
    assert said["Root Dir"] == str(person.directory / ".local/share/hythe/client")
    assert f"/hythe-{person.uid}/hythe/" in said["Run Dir"]
    subprocess.run(["rm", "-rf", f"/tmp/hythe-{person.uid}"], check=True)
    person.environment |= {"HYTHE_CLIENT_ROOT": str(person.root), "HYTHE_RUN_ROOT": str(person.directory / "run")}
