"""`kill -9` of the client, the monitor and the engine, at any stage: `ps` is true, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from registry import failpoints
from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, status_of
from tests.support.hythe import Hythe
from tests.support.processes import wait_until

pytestmark = needs_root
NONE = ("--network", "none")


def run_path(hythe: Hythe) -> Path:
    return Path(hythe.environment["HYTHE_RUN_ROOT"])


def states(hythe: Hythe) -> list[str]:
    return hythe("ps", "-a", "--format", "{{.State}}").split()


def processes_of(hythe: Hythe, name: str) -> tuple[int, int]:
    """The monitor's pid and the container's."""
    [found] = json.loads(hythe("inspect", name))
    return int((run_path(hythe) / found["Id"] / "conmon.pid").read_text()), found["State"]["Pid"]


@pytest.mark.parametrize(
    "point", [each for each in failpoints.CONTAINERS if each.startswith(("container.", "start."))]
)
def test_a_run_that_was_killed_anywhere_leaves_a_list_that_is_true(hythe: Hythe, point: str) -> None:
    hythe.environment["HYTHE_FAILPOINT"] = point
    assert status_of(hythe, "run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")[0] == -signal.SIGKILL
    del hythe.environment["HYTHE_FAILPOINT"]
    found = states(hythe)
    if point in ("container.noted", "container.prepared"):
        assert found == []  # a name that is free again
    elif point in ("start.recorded", "start.started"):
        # It is made, and perhaps not started: the engine's part is done, ours is written down.
        assert found == ["running"]
    else:
        assert found == ["created"]
        assert hythe("start", "one") == "one\n"
        assert states(hythe) == ["running"]
    if found:
        hythe("rm", "-f", "one")
    assert_nothing_is_left(hythe)
    hythe("run", "--rm", "--name", "one", *NONE, "busybox", "true")


@pytest.mark.parametrize(
    "point", ["end.cleared", "end.recorded", "remove.noted", "remove.discarded", "remove.forgotten"]
)
def test_an_end_that_was_interrupted_is_brought_to_its_end(hythe: Hythe, point: str) -> None:
    hythe.environment["HYTHE_FAILPOINT"] = point  # the monitor's last call has it too, and dies there
    status_of(hythe, "run", "--rm", *NONE, "busybox", "true")
    del hythe.environment["HYTHE_FAILPOINT"]
    left = states(hythe)
    assert left in ([], ["exited"])
    hythe("container", "prune", "-f")
    assert states(hythe) == []
    assert_nothing_is_left(hythe)


def test_a_container_whose_monitor_was_killed_runs_on_and_can_be_removed(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
    monitor, _ = processes_of(hythe, "one")
    os.kill(monitor, signal.SIGKILL)
    assert states(hythe) == ["running"]
    assert hythe("exec", "one", "echo", "alive") == "alive\n"
    hythe("rm", "-f", "one")
    assert_nothing_is_left(hythe)


def test_when_monitor_and_container_were_killed_the_list_says_so_at_once(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
    for pid in processes_of(hythe, "one"):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: states(hythe) == ["exited"])
    assert hythe("inspect", "-f", "{{.State.ExitCode}}", "one") == "255\n"
    assert hythe("start", "one") == "one\n"


def test_an_image_is_not_kept_by_a_container_that_was_killed_unseen(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
    image = hythe("inspect", "-f", "{{.Image}}", "one").strip()
    assert "running container" in hythe.refused("rmi", image)
    pids = processes_of(hythe, "one")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert "stopped container" in hythe.refused("rmi", image)


def test_the_exit_code_of_a_killed_container_is_its_own(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
    os.kill(processes_of(hythe, "one")[1], signal.SIGKILL)
    assert wait_until(lambda: states(hythe) == ["exited"])
    assert hythe("inspect", "-f", "{{.State.ExitCode}}", "one") == "137\n"


def test_a_record_of_another_boot_or_of_a_reused_number_is_not_believed(hythe: Hythe) -> None:
    from registry.client.images.store import Store

    for change in (
        "pid start another-boot",
        f"{os.getpid()} 1 {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}",
    ):
        hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
        pids = processes_of(hythe, "one")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda pids=pids: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        store = Store(hythe.root)
        text = change.replace("pid start", f"{os.getpid()} 1")
        store.db.execute("UPDATE containers SET process = ?, monitor = ?", (text, text))
        store.close()
        assert states(hythe) == ["exited"]
        hythe("rm", "one")


def test_a_directory_of_run_that_a_reboot_emptied_is_made_anew(hythe: Hythe) -> None:
    import shutil

    hythe("run", "--name", "one", *NONE, "busybox", "true")
    assert wait_until(lambda: not [path for path in run_path(hythe).glob("*") if len(path.name) == 64])
    shutil.rmtree(run_path(hythe))
    assert states(hythe) == ["exited"]
    assert hythe("start", "-a", "one") == ""
