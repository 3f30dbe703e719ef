"""The classes of faults that other runtimes had, each tried here. The names of the faults are in the tests."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from registry.client.runtime import engine
from tests.client.conftest import needs_root
from tests.client.runtime.conftest import busybox, put, status_of
from tests.support import images
from tests.support.hythe import Hythe
from tests.support.images import Entry, Image, directory, symlink

pytestmark = needs_root
NONE = ("--network", "none")


def hostile(*entries: Entry, **config: object) -> Image:
    """busybox with a layer of a stranger's above it, and what its configuration says."""
    made = images.make_image([busybox().tars[0], images.layer(entries)] if entries else list(busybox().tars))
    if not config:
        return made
    document = made.config.document()
    document["config"] |= config
    blob = images.Blob(made.config.media_type, images.to_json(document))
    manifest = made.manifest.document() | {"config": blob.descriptor()}
    return Image(images.Blob(made.manifest.media_type, images.to_json(manifest)), blob, made.layers, made.tars)


def shell(hythe: Hythe, *words: str, command: str, image: str = "busybox") -> str:
    return hythe("run", "--rm", *NONE, *words, image, "sh", "-c", command)


def test_every_namespace_is_the_containers_own(hythe: Hythe) -> None:
    names = ("mnt", "net", "pid", "uts", "ipc", "cgroup")
    theirs = shell(hythe, command=f"for n in {' '.join(names)}; do ls -l /proc/self/ns/$n; done").splitlines()
    for name, line in zip(names, theirs, strict=True):
        assert os.readlink(f"/proc/self/ns/{name}") not in line, name


def test_seccomp_is_on_and_what_it_forbids_fails(hythe: Hythe) -> None:
    said = shell(
        hythe,
        command="cat /proc/self/status; busybox unshare -m true 2>&1; mount -t tmpfs none /tmp 2>&1; true",
    )
    assert "Seccomp:\t2" in said
    assert "Operation not permitted" in said or "permission denied" in said
    assert "Seccomp:\t0" in shell(hythe, "--security-opt", "seccomp=unconfined", command="cat /proc/self/status")
    assert "NoNewPrivs:\t1" in shell(hythe, "--security-opt", "no-new-privileges", command="cat /proc/self/status")


def test_masked_paths_are_empty_and_read_only_paths_cannot_be_written(hythe: Hythe) -> None:
    said = shell(
        hythe,
        command="wc -c < /proc/keys; wc -c < /proc/interrupts; ls /sys/firmware | wc -l; "
        "echo 1 > /proc/sys/kernel/domainname; echo b > /proc/sysrq-trigger; touch /sys/x; echo end 2>&1",
    )
    assert said.split() == ["0", "0", "0", "end"]


def test_no_descriptor_of_ours_leads_out_cve_2024_21626(hythe: Hythe) -> None:
    said = status_of(hythe, "run", "--rm", *NONE, "busybox", "sh", "-c", "ls -l /proc/1/fd")[1]
    assert str(hythe.root) not in said
    assert all(" -> pipe:" in line or "/dev/null" in line for line in said.splitlines() if " -> " in line)


@pytest.mark.parametrize("number", [3, 7, 8, 9])
def test_a_working_directory_in_proc_is_refused_cve_2024_21626(hythe: Hythe, number: int) -> None:
    said = status_of(hythe, "run", "--rm", *NONE, "-w", f"/proc/self/fd/{number}", "busybox", "true")
    assert said[0] == 125
    assert "leads into /proc" in said[2]
    if number == 7:
        put(hythe, hostile(symlink("work", "/proc/self/fd/7"), WorkingDir="/work"), "cwd")
        status, _, complaint = status_of(hythe, "run", "--rm", *NONE, "cwd", "true")
        assert status == 125
        assert "leads into /proc" in complaint or "not there" in complaint


def test_exec_with_such_a_working_directory_is_refused_cve_2024_21626(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sh", "-c", "ln -s /proc/self/fd/7 /leak; sleep 600")
    for path in ("/proc/self/fd/7", "/leak"):
        assert status_of(hythe, "exec", "-w", path, "one", "pwd")[0] != 0


def test_the_engine_cannot_be_overwritten_cve_2019_5736(hythe: Hythe) -> None:
    path = engine.program("runc")
    assert path is not None
    before = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    put(hythe, hostile(Entry("evil", b"#!/proc/self/exe\n", 0o755)), "selfexe")
    script = "for i in 1 2 3; do echo overwritten > /proc/$$/exe; done; ls -l /proc/self/exe"
    status_of(hythe, "run", "--rm", *NONE, "selfexe", "/evil")
    status_of(hythe, "run", "--rm", *NONE, "selfexe", "sh", "-c", script)
    hythe("run", "-d", "--name", "one", *NONE, "selfexe", "sleep", "600")
    status_of(hythe, "exec", "one", "/evil")
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == before


@pytest.mark.parametrize("name", ["dev", "etc", "proc", "sys"])
def test_an_image_whose_directory_is_a_link_decides_nothing_cve_2026_41579(
    hythe: Hythe, name: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    lower = [entry for entry in images.busybox_entries() if not entry.name.startswith(name)]
    put(hythe, images.make_image([images.layer([*lower, symlink(name, f"../../../../..{canary}")])]), "linked")
    said = shell(hythe, image="linked", command=f"[ -d /{name} ] && [ ! -L /{name} ] && cat /etc/hosts")
    assert "127.0.0.1\tlocalhost" in said
    assert list(canary.iterdir()) == []


def test_a_device_file_or_link_in_the_place_of_etc_hosts_is_not_written_through(
    hythe: Hythe, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    put(
        hythe,
        hostile(
            directory("etc"), symlink("etc/hosts", str(canary)), symlink("etc/resolv.conf", "/proc/1/environ")
        ),
        "hosts",
    )
    assert "localhost" in shell(hythe, image="hosts", command="cat /etc/hosts")
    assert canary.read_text() == "untouched"


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "/proc/self/environ", "/sys/kernel/notes", "../../../../../../etc/passwd"]
)
def test_passwd_is_never_read_through_a_link_out_of_the_root_cve_2024_9676(hythe: Hythe, target: str) -> None:
    owner = next(
        line.split(":")[0]
        for line in Path("/etc/passwd").read_text().splitlines()
        if line.split(":")[2] not in ("0", "1000")
    )
    put(hythe, hostile(directory("etc"), symlink("etc/passwd", target)), "linked")
    status, _, said = status_of(hythe, "run", "--rm", *NONE, "-u", owner, "linked", "true")
    assert status == 125
    assert f"unable to find user {owner}" in said


def test_a_passwd_that_is_a_pipe_makes_nobody_wait(hythe: Hythe) -> None:
    lower = [entry for entry in images.busybox_entries() if entry.name != "etc/passwd"]
    fifo = Entry("etc/passwd", kind=tarfile.FIFOTYPE)
    entries = [*lower, fifo]
    put(hythe, images.make_image([images.layer(entries)]), "fifo")
    status, _, said = status_of(hythe, "run", "--rm", *NONE, "fifo", "echo", "works")
    assert (status, said) == (125, "hythe: /etc/passwd of the image is not a file\n")


def test_the_machines_files_and_processes_are_out_of_sight(hythe: Hythe) -> None:
    said = shell(hythe, command=f"ls {hythe.root} 2>&1; ps | wc -l; ls /dev")
    assert "No such file" in said
    assert not {"vda", "mem", "kmsg", "fuse"} & set(said.split())
    made = shell(hythe, command="busybox mknod /x b 254 0; dd if=/x of=/dev/null count=1 2>&1; echo end")
    assert "not permitted" in made


def test_a_mount_in_a_container_is_not_the_machines(hythe: Hythe, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    shell(
        hythe,
        "--privileged",
        "-v",
        f"{tmp_path}/shared:/s",
        command="mount -t tmpfs none /s; touch /s/inside; mount | grep ' /s '",
    )
    assert list((tmp_path / "shared").iterdir()) == []
    assert str(tmp_path / "shared") not in Path("/proc/mounts").read_text()


def test_the_image_is_the_same_after_a_container_tried_to_change_it(hythe: Hythe) -> None:
    shell(hythe, command="rm -f /bin/cat; echo evil > /etc/passwd; rm -rf /tmp")
    assert "root:x" in shell(hythe, command="cat /etc/passwd; ls -d /tmp")


def test_secrets_of_the_callers_environment_stay_outside(hythe: Hythe) -> None:
    hythe.environment["SECRET_TOKEN"] = "do-not-show"
    assert "do-not-show" not in shell(hythe, command="env; cat /proc/1/environ")
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
    assert "do-not-show" not in hythe("exec", "one", "env")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                path.read_bytes().split(b"\0")[0].endswith(b"conmon")
                and os.fsencode(hythe.environment["HYTHE_RUN_ROOT"]) in path.read_bytes()
            ):
                assert b"do-not-show" not in (path.parent / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.parametrize("running", [True, False])
def test_cp_executes_nothing_and_leaves_no_root_cve_2019_14271(
    hythe: Hythe, running: bool, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("ours")
    # tar, sh and the resolver's libraries of the container are not ours to run; links lead nowhere.
    put(
        hythe,
        hostile(
            Entry("bin/tar", b"#!/bin/sh\ntouch /ran\n", 0o755),
            Entry("lib/libnss_files.so.2", b"\x7fELFevil", 0o755),
            symlink("out", str(canary)),
            symlink("up", "../../../../../.." + str(canary)),
            symlink("proc-link", "/proc/1/root"),
        ),
        "evil",
    )
    hythe(
        "run",
        *(("-d",) if running else ()),
        "--name",
        "one",
        *NONE,
        "evil",
        *(("sleep", "600") if running else ("true",)),
    )
    (tmp_path / "file").write_text("sent")
    for link in ("/out", "/up"):
        assert status_of(hythe, "cp", f"one:{link}/secret", str(tmp_path / "stolen"))[0] != 0
        status_of(hythe, "cp", str(tmp_path / "file"), f"one:{link}/planted")
        status_of(hythe, "cp", str(tmp_path / "file"), f"one:{link}")
    assert sorted(path.name for path in canary.iterdir()) == ["secret"]
    assert not (tmp_path / "stolen").exists()
    said = status_of(hythe, "cp", "one:/proc-link/etc/hostname", str(tmp_path / "host"))
    assert said[0] != 0 or (tmp_path / "host").read_text().strip() != os.uname().nodename
    hythe("cp", "one:/etc/passwd", tmp_path / "passwd")
    assert "/ran" not in hythe("diff", "one")


def test_what_comes_out_of_a_container_stays_where_it_was_sent(hythe: Hythe, tmp_path: Path) -> None:
    hythe(
        "run", "--name", "one", *NONE, "busybox", "sh", "-c", "mkdir /d; ln -s / /d/a; touch /d/b; chmod 4755 /d/b"
    )
    (tmp_path / "here").mkdir()
    hythe("cp", "one:/d", tmp_path / "here")
    assert os.readlink(tmp_path / "here/d/a") == "/"
    hythe("cp", "one:/d/.", tmp_path / "here/d")  # again, over the links of the first time
    assert sorted(os.listdir(tmp_path / "here/d")) == ["a", "b"]
