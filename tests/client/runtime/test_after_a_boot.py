"""Restart policies beyond the machine's own life: what stops with it and what comes back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.client.conftest import needs_root
from tests.support.hythe import Hythe

pytestmark = needs_root
NONE = ("--network", "none")


def running(hythe: Hythe) -> list[str]:
    return sorted(hythe("ps", "--format", "{{.Names}}").split())


def test_what_stops_with_the_machine_comes_back_with_it_but_not_what_a_person_stopped(hythe: Hythe) -> None:
    for name, policy in (("aa", "always"), ("bb", "unless-stopped"), ("cc", "unless-stopped"), ("dd", "no")):
        hythe("run", "-d", "--name", name, "--restart", policy, *NONE, "busybox", "sleep", "600")
    hythe("stop", "-t", "0", "cc")
    assert sorted(hythe("stop", "-t", "0", "--all-restarting").split()) == ["aa", "bb"]
    assert running(hythe) == ["dd"]
    assert hythe("start", "--all-restarting").split() == ["aa", "bb"]
    assert running(hythe) == ["aa", "bb", "dd"]
    assert "requires at least 1 argument" in hythe.refused("stop")


def test_the_unit_is_one_that_systemd_takes(hythe: Hythe, tmp_path: Path) -> None:
    text = hythe("generate-unit")
    assert f"Environment=HYTHE_CLIENT_ROOT={hythe.root}\n" in text
    assert f"RequiresMountsFor={hythe.root}\n" in text
    assert "start --all-restarting\n" in text
    unit = tmp_path / "hythe.service"
    unit.write_text(text)
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if unit.name in line] == []
