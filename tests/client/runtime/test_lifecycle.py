"""From `create` to `rm`, the lists, logs, and commands in running containers."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, status_of
from tests.support.hythe import Hythe
from tests.support.processes import wait_until

pytestmark = needs_root
NONE = ("--network", "none")
FOREVER = ("busybox", "sleep", "600")


def state(hythe: Hythe, name: str) -> str:
    return hythe("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).strip()


def test_a_container_is_made_started_stopped_started_again_and_removed(hythe: Hythe) -> None:
    identity = hythe(
        "create", "--name", "one", *NONE, "busybox", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"
    ).strip()
    assert re.fullmatch("[0-9a-f]{64}", identity)
    assert state(hythe, "one") == "created 0"
    assert hythe("start", "one") == "one\n"
    assert state(hythe, identity[:5]) == "running 0"
    assert "You cannot remove a running container" in hythe.refused("rm", "one")
    time.sleep(0.2)
    assert hythe("stop", "one") == "one\n"
    assert state(hythe, "one") == "exited 3"
    assert hythe("restart", "-t", "0", "one") == "one\n"
    assert state(hythe, "one").startswith("running")
    assert hythe("kill", "one") == "one\n"
    assert state(hythe, "one") == "exited 137"
    assert "is not running" in hythe.refused("kill", "one")
    hythe("rename", "one", "two")
    assert hythe("rm", "two") == "two\n"
    assert "No such container: two" in hythe.refused("rm", "two")
    assert_nothing_is_left(hythe)


def test_what_a_container_wrote_lives_until_it_is_removed(hythe: Hythe) -> None:
    hythe("run", "--name", "one", *NONE, "busybox", "sh", "-c", "cat /n 2>/dev/null; echo x >> /n")
    assert hythe("start", "-a", "one") == "x\n"
    assert hythe("start", "-a", "one") == "x\nx\n"
    assert hythe("run", "--rm", *NONE, "busybox", "sh", "-c", "ls /n 2>/dev/null || echo no") == "no\n"


def test_ps_is_dockers_table(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "up", *NONE, "-l", "team=web", *FOREVER)
    status_of(hythe, "run", "--name", "done", *NONE, "busybox", "sh", "-c", "exit 4")
    heading, line = hythe("ps").splitlines()
    assert heading.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert re.fullmatch(r'[0-9a-f]{12}   busybox   "sleep 600"   .* ago   Up .*   up', line)
    lines = hythe("ps", "-a").splitlines()[1:]
    assert [each.split()[-1] for each in lines] == ["done", "up"]
    assert re.search(r"Exited \(4\) .* ago", lines[0])

    def names(*words: str) -> list[str]:
        return hythe("ps", "--format", "{{.Names}}", *words).split()

    assert names() == ["up"]
    assert names("-l") == ["done"]
    assert names("-n", "2") == ["done", "up"]
    assert names("-f", "status=exited") == ["done"]
    assert names("-f", "exited=4") == names("-f", "exited=4", "-f", "name=do") == ["done"]
    assert names("-af", "label=team=web") == ["up"]
    assert names("-af", "ancestor=busybox") == ["done", "up"]
    assert names("-af", "before=done") == ["up"]
    assert hythe("ps", "-aq", "--no-trunc").split()[0].startswith(hythe("ps", "-lq").strip())
    assert "0B (virtual" in hythe("ps", "-as")
    assert "invalid filter" in hythe.refused("ps", "-f", "colour=red")


def test_an_image_that_a_container_has_is_kept(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, *FOREVER)
    assert "is using its referenced image" in hythe.refused("rmi", "busybox")
    hythe("kill", "one")
    assert "is using its referenced image" in hythe.refused("rmi", "busybox")
    hythe("rm", "one")
    hythe("rmi", "busybox")


def test_two_containers_cannot_have_one_name(hythe: Hythe) -> None:
    identity = hythe("create", "--name", "one", "busybox").strip()
    status, _, said = status_of(hythe, "create", "--name", "one", "busybox")
    assert status == 1
    assert status_of(hythe, "run", "--name", "one", "busybox")[0] == 125
    assert f'The container name "/one" is already in use by container "{identity}"' in said
    assert "Invalid container name" in hythe.refused("create", "--name", "a/b", "busybox")


def test_names_are_made_up(hythe: Hythe) -> None:
    hythe("create", "busybox")
    assert re.fullmatch(r"[a-z]+_[a-z]+\n", hythe("ps", "-a", "--format", "{{.Names}}"))


def test_pausing_freezes_and_unpausing_goes_on(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, *FOREVER)
    hythe("pause", "one")
    assert "(Paused)" in hythe("ps")
    assert "is paused" in hythe.refused("exec", "one", "true")
    assert "already paused" in hythe.refused("pause", "one")
    hythe("unpause", "one")
    assert state(hythe, "one").startswith("running")
    hythe("pause", "one")
    hythe("rm", "-f", "one")


def test_wait_prints_the_code_also_of_one_that_removes_itself(hythe: Hythe) -> None:
    hythe("run", "-d", "--rm", "--name", "one", *NONE, "busybox", "sh", "-c", "sleep 0.5; exit 9")
    assert hythe("wait", "one") == "9\n"
    assert wait_until(lambda: hythe("ps", "-aq") == "")


def test_logs_are_what_was_said_where_and_when(hythe: Hythe) -> None:
    hythe.said(
        "run",
        "--name",
        "one",
        *NONE,
        "busybox",
        "sh",
        "-c",
        "echo bad >&2; sleep 0.2; for i in 1 2 3 4 5; do echo line $i; done; echo -n end",
    )
    status, out, complaint = status_of(hythe, "logs", "one")
    assert (status, out, complaint) == (0, "line 1\nline 2\nline 3\nline 4\nline 5\nend", "bad\n")
    assert hythe("logs", "-n", "2", "one") == "line 5\nend"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z end", hythe("logs", "-t", "--tail", "1", "one"))
    assert hythe("logs", "--since", "1h", "one").count("line") == 5
    assert hythe("logs", "--until", "1h", "one") == ""


def test_logs_are_followed_to_the_end(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sh", "-c", "echo one; sleep 0.6; echo two")
    begun = time.monotonic()
    assert hythe("logs", "-f", "one") == "one\ntwo\n"
    assert time.monotonic() - begun < 10


def test_exec_joins_a_running_container(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "-e", "A=a", "-w", "/tmp", *FOREVER)
    assert hythe("exec", "one", "pwd") == "/tmp\n"
    assert (
        hythe("exec", "-e", "B=b", "-u", "web", "-w", "/etc", "one", "sh", "-c", "echo $A$B; pwd; id -u")
        == "ab\n/etc\n1000\n"
    )
    assert status_of(hythe, "exec", "one", "sh", "-c", "exit 5")[0] == 5
    assert status_of(hythe, "exec", "one", "nosuch")[0] == 127
    assert status_of(hythe, "exec", "one", "/etc")[0] == 126
    assert status_of(hythe, "exec", "-i", "one", "cat", data=b"piped")[1] == "piped"
    hythe("exec", "-d", "one", "sh", "-c", "echo x > /made")
    assert wait_until(lambda: hythe("exec", "one", "ls", "/made") == "/made\n")
    assert "sleep 600" in hythe("top", "one")
    assert hythe("top", "one", "-o", "pid,comm").split()[:2] == ["PID", "COMMAND"]
    assert re.search(r"one +\d+\.\d\d% .*iB / ", hythe("stats", "--no-stream"))
    hythe("kill", "one")
    assert "is not running" in hythe.refused("exec", "one", "true")


def test_attach_shows_what_comes_and_ends_with_the_container(hythe: Hythe) -> None:
    hythe("run", "-d", "-i", "--name", "one", *NONE, "busybox", "sh", "-c", "read line; echo got $line; exit 6")
    process = subprocess.Popen(
        [*hythe.command, "attach", "one"],
        env=hythe.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate("word\n", timeout=20)
    assert (out, process.returncode) == ("got word\n", 6)


@pytest.mark.parametrize(("policy", "runs"), [("on-failure:2", 3), ("no", 1)])
def test_restart_policies_start_again_as_often_as_they_say(hythe: Hythe, policy: str, runs: int) -> None:
    hythe("run", "-d", "--name", "one", "--restart", policy, *NONE, "busybox", "sh", "-c", "echo run; exit 1")
    assert wait_until(lambda: hythe("logs", "one") == "run\n" * runs and state(hythe, "one") == "exited 1")
    assert hythe("inspect", "-f", "{{.RestartCount}}", "one") == f"{runs - 1}\n"


def test_a_stop_is_not_undone_by_a_restart_policy(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", "--restart", "always", *NONE, *FOREVER)
    first = hythe("inspect", "-f", "{{.State.Pid}}", "one")
    hythe("stop", "-t", "0", "one")
    time.sleep(0.3)
    assert state(hythe, "one") == "exited 137"
    assert hythe("start", "--all-restarting") == "one\n"
    assert hythe("inspect", "-f", "{{.State.Pid}}", "one") != first


def test_prune_removes_what_does_not_run(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "up", *NONE, *FOREVER)
    hythe("run", "--name", "old", *NONE, "busybox", "true")
    said = hythe("container", "prune", "-f").splitlines()
    assert said[0] == "Deleted Containers:"
    assert said[-1] == "Total reclaimed space: 0B"
    assert hythe("ps", "-a", "--format", "{{.Names}}") == "up\n"


def test_ten_at_once_all_run_and_all_go(hythe: Hythe) -> None:
    started = [
        subprocess.Popen(
            [*hythe.command, "run", "--rm", *NONE, "busybox", "echo", str(number)],
            env=hythe.environment,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for number in range(10)
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert said == [f"{number}\n" for number in range(10)]
    assert all(process.returncode == 0 for process in started)
    assert_nothing_is_left(hythe)


def test_two_commands_at_once_agree(hythe: Hythe) -> None:
    hythe("create", "--name", "one", *NONE, *FOREVER)
    both = [
        subprocess.Popen([*hythe.command, "start", "one"], env=hythe.environment, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert sorted(process.wait(30) for process in both)[0] == 0
    assert state(hythe, "one").startswith("running")
    gone = [
        subprocess.Popen([*hythe.command, "rm", "-f", "one"], env=hythe.environment, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert all(process.wait(30) in (0, 1) for process in gone)
    assert hythe("ps", "-aq") == ""
    assert_nothing_is_left(hythe)
