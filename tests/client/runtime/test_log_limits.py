"""What a container's log may take, and what of it there is."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from registry.client.runtime import parse
from registry.client.runtime.errors import OptionInvalid
from tests.client.conftest import needs_root
from tests.client.runtime.conftest import status_of
from tests.support.hythe import Hythe

NONE = ("--network", "none")
COMMON = ("null", "zero", "full", "tty", "random", "urandom", "console", "ptmx")


def test_the_limit_is_of_all_files_together() -> None:
    assert parse.log_bytes({}) == parse.log_bytes({"max-size": "-1"}) == 0
    assert parse.log_bytes({"max-size": "1m", "max-file": "3"}) == 3 << 20
    for wrong in ({"max-size": "1k"}, {"max-file": "0"}, {"max-size": "much"}, {"colour": "red"}):
        with pytest.raises(OptionInvalid):
            parse.log_bytes(wrong)


@needs_root
def test_a_log_does_not_outgrow_its_limit_and_its_end_is_kept(hythe: Hythe) -> None:
    script = "i=0; while [ $i -lt 6000 ]; do echo line $i; i=$((i+1)); done"
    hythe("run", "--name", "one", *NONE, "--log-opt", "max-size=64k", "busybox", "sh", "-c", script)
    path = Path(hythe("inspect", "-f", "{{.LogPath}}", "one").strip())
    assert path.stat().st_size < 80 << 10
    said = hythe("logs", "one").splitlines()
    assert said == [f"line {number}" for number in range(6000 - len(said), 6000)]
    assert json.loads(hythe("inspect", "-f", "{{json .HostConfig.LogConfig}}", "one")) == {
        "Type": "json-file",
        "Config": {"max-size": "64k"},
    }


@needs_root
def test_who_follows_a_log_with_a_limit_sees_its_end(hythe: Hythe) -> None:
    script = "sleep 0.5; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo the end"
    hythe("run", "-d", "--name", "one", *NONE, "--log-opt", "max-size=32k", "busybox", "sh", "-c", script)
    assert hythe("logs", "-f", "one").endswith("line 2999\nthe end\n")


@needs_root
def test_without_a_driver_nothing_is_kept(hythe: Hythe) -> None:
    hythe("run", "--name", "one", *NONE, "--log-driver", "none", "busybox", "echo", "x")
    assert "nothing of what it says is kept" in hythe.refused("logs", "one")
    code, _, said = status_of(hythe, "create", "--log-driver", "syslog", "busybox")
    assert (code, "unknown log driver syslog" in said) == (125, True)


@needs_root
def test_a_privileged_container_has_the_machines_devices_and_no_other_has(hythe: Hythe) -> None:
    there = [path for path in Path("/dev").iterdir() if not path.is_symlink() and path.name not in COMMON]
    devices = [
        each for each in there if stat.S_ISCHR(os.stat(each).st_mode) or stat.S_ISBLK(os.stat(each).st_mode)
    ]
    if not devices:
        pytest.skip("this machine has only the devices that every container has")
    wanted = str(devices[0])
    assert status_of(hythe, "run", "--rm", *NONE, "busybox", "ls", wanted)[0] != 0
    assert hythe("run", "--rm", "--privileged", *NONE, "busybox", "ls", wanted) == f"{wanted}\n"
