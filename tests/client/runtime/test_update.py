"""`update`: limits of running and stopped containers, and what restarts them."""

from __future__ import annotations

import json
import os
import signal

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import soon
from tests.support.hythe import Hythe

pytestmark = needs_root
NONE = ("--network", "none")
MEGABYTE = 1 << 20


def limits(hythe: Hythe, name: str = "one") -> dict[str, object]:
    found: dict[str, object] = json.loads(hythe("inspect", "-f", "{{json .HostConfig}}", name))
    return found


def memory(hythe: Hythe) -> str:
    """The limit that the kernel has, as the container sees it."""
    return hythe(
        "exec", "one", "sh", "-c",
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true",
    ).strip()  # fmt: skip


def test_the_limits_of_a_running_container_change_at_once_and_stay(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", "-m", "64m", *NONE, "busybox", "sleep", "600")
    assert memory(hythe) == str(64 * MEGABYTE)
    assert hythe("update", "-m", "96m", "--pids-limit", "77", "--cpus", "0.5", "one") == "one\n"
    assert memory(hythe) == str(96 * MEGABYTE)
    found = limits(hythe)
    assert (found["Memory"], found["MemorySwap"], found["PidsLimit"], found["NanoCpus"]) == (
        96 * MEGABYTE, 128 * MEGABYTE, 77, 500_000_000,
    )  # fmt: skip
    said = hythe.refused("update", "-m", "1g", "one")
    assert "update the memoryswap at the same time" in said
    hythe("update", "-m", "1g", "--memory-swap", "2g", "one")
    hythe("restart", "-t", "0", "one")
    assert memory(hythe) == str(1024 * MEGABYTE)


def test_a_stopped_container_has_its_new_limits_when_it_starts(hythe: Hythe) -> None:
    hythe("create", "--name", "one", *NONE, "busybox", "sleep", "600")
    hythe("update", "-m", "32m", "--memory-reservation", "16m", "one")
    hythe("start", "one")
    assert memory(hythe) == str(32 * MEGABYTE)


def test_a_restart_policy_can_be_given_and_taken_away(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sh", "-c", "echo run; sleep 600")
    hythe("update", "--restart", "on-failure:1", "one")
    assert limits(hythe)["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 1}
    hythe("update", "--restart", "always", "one")
    pid = hythe("inspect", "-f", "{{.State.Pid}}", "one").strip()
    os.kill(int(pid), signal.SIGKILL)
    assert soon(lambda: hythe("logs", "one") == "run\nrun\n")
    assert soon(lambda: hythe("inspect", "-f", "{{.State.Status}}", "one") == "running\n")
    hythe("run", "-d", "--rm", "--name", "two", *NONE, "busybox", "sleep", "600")
    assert "AutoRemove is enabled" in hythe.refused("update", "--restart", "always", "two")


def test_an_update_of_nothing_or_nobody_is_refused(hythe: Hythe) -> None:
    assert "You must provide one or more flags" in hythe.refused("update", "one")
    assert "No such container: one" in hythe.refused("update", "-m", "64m", "one")
    hythe("create", "--name", "one", "busybox")
    assert "Minimum memory limit allowed is 6MB" in hythe.refused("update", "-m", "1m", "one")
    said = hythe.refused("update", "--memory-swap", "1m", "--memory", "64m", "one")
    assert "should be larger than memory limit" in said
