"""`hythe run`: exit codes, streams, and each option where it shows: inside of the container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, status_of
from tests.support.hythe import Hythe
from tests.support.processes import wait_until

pytestmark = needs_root
NONE = ("--network", "none")


def inside(hythe: Hythe, *words: str, command: str) -> str:
    """What a shell command says in a container with these options."""
    return hythe("run", "--rm", *NONE, *words, "busybox", "sh", "-c", command).rstrip("\n")


def test_the_image_says_what_runs(hythe: Hythe) -> None:
    assert hythe("run", "--rm", *NONE, "busybox") == "hello from the image\n"
    assert_nothing_is_left(hythe)
    assert hythe("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("busybox", "sh", "-c", "exit 7"), 7, ""),
        (("busybox", "nosuch"), 127, "executable file not found in $PATH"),
        (("busybox", "/etc"), 126, "permission denied"),
        (("--nonsense", "busybox"), 125, "unknown flag: --nonsense"),
        (("--memory", "lots", "busybox"), 125, "invalid size: 'lots'"),
        (("--pull", "never", "nothing-here"), 125, "No such image: nothing-here"),
        (("-u", "nobody-here", "busybox"), 125, "unable to find user nobody-here"),
        (("-v", "relative:x", "busybox"), 125, "mount path must be absolute"),
    ],
)
def test_the_exit_status_is_dockers(hythe: Hythe, words: tuple[str, ...], code: int, said: str) -> None:
    status, out, complaint = status_of(hythe, "run", "--rm", *NONE, *words)
    assert (status, out) == (code, "")
    assert said in complaint
    assert "Traceback" not in complaint
    assert hythe("ps", "-aq") == ""


def test_streams_are_kept_apart_and_a_pipe_is_read_to_its_end(hythe: Hythe) -> None:
    status, out, complaint = status_of(
        hythe,
        "run",
        "-i",
        "--rm",
        *NONE,
        "busybox",
        "sh",
        "-c",
        "wc -c; echo bad >&2; exit 3",
        data=b"x" * 300_000,
    )
    assert (status, out.strip(), complaint) == (3, "300000", "bad\n")


def test_a_large_output_comes_whole(hythe: Hythe) -> None:
    data = hythe.bytes_of("run", "--rm", *NONE, "busybox", "dd", "if=/dev/zero", "bs=1000", "count=3000")
    assert len(data) == 3_000_000


def test_environment_working_directory_user_and_names(hythe: Hythe, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# said before\nFROM_FILE=1\nBOTH=file\n")
    said = inside(
        hythe,
        "-e",
        "BOTH=word",
        "--env-file",
        str(tmp_path / "env"),
        "-w",
        "/made/here",
        "-u",
        "web",
        "-h",
        "box",
        "--add-host",
        "db:10.1.2.3",
        "--label",
        "a=b",
        command="echo $BOTH $FROM_FILE $HOSTNAME $HOME; pwd; id; hostname; cat /etc/hosts /etc/hostname",
    ).splitlines()
    assert said[:4] == ["word 1 box /", "/made/here", "uid=1000(web) gid=1000(web)", "box"]
    assert "10.1.2.3\tdb" in said
    assert said[-1] == "box"


def test_entrypoint_and_command_join_as_docker_joins_them(hythe: Hythe) -> None:
    assert hythe("run", "--rm", *NONE, "--entrypoint", "echo", "busybox", "a", "b") == "a b\n"
    assert hythe("run", "--rm", *NONE, "--entrypoint", "", "busybox", "echo", "c") == "c\n"
    status, _, complaint = status_of(hythe, "run", "--rm", *NONE, "--entrypoint", "", "busybox")
    assert (status, complaint) == (125, "hythe: No command specified\n")


def test_mounts_of_every_kind(hythe: Hythe, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("ours")
    said = inside(
        hythe,
        "-v",
        f"{tmp_path}/here:/a:ro",
        "--mount",
        f"type=bind,source={tmp_path}/here,target=/b",
        "-v",
        "named:/c",
        "-v",
        "/d",
        "--tmpfs",
        "/e:size=1m",
        "--mount",
        "type=tmpfs,dst=/f,tmpfs-mode=700",
        command="cat /a/file; touch /a/x 2>&1; echo new > /b/new; echo kept > /c/kept; echo y > /d/y; "
        "mount | grep -E ' /(e|f) '; ls -ld /f | head -c 10",
    ).splitlines()
    assert said[0] == "ourstouch: /a/x: Read-only file system"
    assert any("on /e type tmpfs" in line and "size=1024k" in line for line in said)
    assert said[-1] == "drwx------"
    assert (tmp_path / "here" / "new").read_text() == "new\n"
    assert inside(hythe, "-v", "named:/c", command="cat /c/kept") == "kept"
    assert hythe("volume", "ls", "-q") == "named\n"  # the nameless one went with its container
    assert hythe.refused("run", "--rm", "--mount", "type=bind,src=/not/there,dst=/x", "busybox").count(
        "does not exist"
    )


def test_a_new_volume_has_what_the_image_has_there(hythe: Hythe) -> None:
    assert "root:x" in inside(hythe, "-v", "etc:/etc", command="cat /etc/passwd")
    assert (hythe.root / "volumes/etc/_data/passwd").exists()


def test_a_read_only_root_and_what_can_still_be_written(hythe: Hythe) -> None:
    said = inside(hythe, "--read-only", "--tmpfs", "/run", command="touch /x 2>&1; touch /run/x && echo yes")
    assert said.splitlines() == ["touch: /x: Read-only file system", "yes"]


def test_limits_are_set_where_the_kernel_counts(hythe: Hythe) -> None:
    said = inside(
        hythe,
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "20",
        "--ulimit",
        "nofile=100:200",
        "--shm-size",
        "2m",
        command="cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max "
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids/pids.max "
        "/sys/fs/cgroup/pids.max 2>/dev/null; ulimit -n; ulimit -Hn; mount | grep /dev/shm",
    )
    words = said.split()
    assert words[0] == str(64 << 20)
    assert words[1] == "50000"
    assert "20" in words[2:4]
    assert words[-9:-7] != []
    assert "100\n200\n" in said + "\n"
    assert "size=2048k" in said


def test_too_much_memory_kills_and_too_many_processes_are_refused(hythe: Hythe) -> None:
    status, _, _ = status_of(
        hythe,
        "run",
        "--name",
        "big",
        *NONE,
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=64M",
        "count=1",
    )
    assert status in (1, 137)
    if status == 137:
        assert hythe("inspect", "-f", "{{.State.OOMKilled}}", "big").strip() in ("true", "false")
    said = status_of(
        hythe,
        "run",
        "--rm",
        *NONE,
        "--pids-limit",
        "5",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done",
    )[2]
    assert "can't fork" in said


def test_capabilities_are_dockers_and_change_as_asked(hythe: Hythe) -> None:
    def effective(*words: str) -> int:
        said = inside(hythe, *words, command="cat /proc/self/status")
        return next(int(line.split()[1], 16) for line in said.splitlines() if line.startswith("CapEff"))

    assert effective() == 0xA80425FB
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "net_admin") == 1 << 12
    assert effective("-u", "1000") == 0
    assert effective("--privileged") > 0xA80425FB


def test_init_reaps_and_hands_signals_on(hythe: Hythe) -> None:
    if not any(Path(f"/usr/bin/{name}").exists() for name in ("tini-static", "catatonit", "docker-init")):
        pytest.skip("no small init here (Debian has one in tini)")
    said = inside(hythe, "--init", command="cat /proc/1/cmdline | head -c 16")
    assert said.startswith("/sbin/hythe-init")


def test_the_id_goes_into_its_file_once(hythe: Hythe, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    made = hythe("create", *NONE, "--cidfile", file, "busybox").strip()
    assert file.read_text() == made
    assert "container ID file found" in hythe.refused("create", "--cidfile", file, "busybox")
    other = tmp_path / "other"
    hythe.refused("create", "--cidfile", other, "--pull", "never", "nothing-here")
    assert not other.exists()


def test_a_signal_to_the_client_is_the_containers(hythe: Hythe) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*hythe.command, "run", "--rm", *NONE, "busybox", "sh", "-c", script],
        env=hythe.environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "bye\n"
    assert process.returncode == 5


def test_a_client_that_is_killed_leaves_its_container_running(hythe: Hythe) -> None:
    process = subprocess.Popen(
        [*hythe.command, "run", "--rm", *NONE, "--name", "goes-on", "busybox", "sh", "-c", "echo up; sleep 60"],
        env=hythe.environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert hythe("ps", "--format", "{{.Names}}") == "goes-on\n"
    hythe("kill", "goes-on")
    assert wait_until(lambda: hythe("ps", "-aq") == "")  # its monitor removed it


def test_what_is_missing_is_pulled_and_said(hythe: Hythe) -> None:
    status, _, said = status_of(hythe, "run", "--rm", "127.0.0.1:1/none:v1")
    assert status == 125
    assert said.startswith("Unable to find image '127.0.0.1:1/none:v1' locally\n")


def test_inspect_is_dockers_document(hythe: Hythe) -> None:
    hythe(
        "create",
        "--name",
        "one",
        *NONE,
        "-p",
        "8080:80",
        "-e",
        "A=b",
        "-v",
        "data:/data",
        "-m",
        "32m",
        "busybox",
        "true",
    )
    [document] = json.loads(hythe("inspect", "one"))
    assert document["Name"] == "/one"
    assert document["State"]["Status"] == "created"
    assert document["Config"]["Env"] == ["A=b", "PATH=/bin"]
    assert document["Config"]["Cmd"] == ["true"]
    assert document["HostConfig"]["Memory"] == 32 << 20
    assert document["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert document["Mounts"][0]["Destination"] == "/data"
    assert hythe("container", "inspect", "-f", "{{.Id}}", "one").strip() == document["Id"]
