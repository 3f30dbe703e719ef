"""Health checks: asked by a process that lives as long as the container, judged as docker does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from registry.client.runtime.health import HEALTHY, STARTING, UNHEALTHY, State, judge
from registry.client.runtime.probing import Probe
from registry.client.runtime.spec import Health
from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, busybox, put, soon, status_of
from tests.support import images
from tests.support.hythe import Hythe

NONE = ("--network", "none")
FOREVER = ("busybox", "sleep", "600")
OFTEN = ("--health-interval", "50ms")
SECOND = 10**9


def health(hythe: Hythe, name: str = "one") -> str:
    return hythe("inspect", "-f", "{{.State.Health.Status}}", name).strip()


def status(hythe: Hythe) -> str:
    return hythe("ps", "-a", "--format", "{{.Status}}")


def askers(hythe: Hythe) -> list[int]:
    """The processes that ask for the health of this command line's containers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            asks = b"watch" in (path / "cmdline").read_bytes().split(b"\0")
            if asks and os.fsencode(hythe.root) in (path / "environ").read_bytes():
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_failures_count_in_a_row_and_not_in_the_start_period() -> None:
    check = Health(("CMD", "x"), retries=2, start_period_ns=10 * SECOND)

    def after(*probes: tuple[int, int]) -> list[tuple[str, int]]:
        state, found = State(), []
        for seconds, code in probes:
            state = judge(state, Probe(seconds * SECOND, seconds * SECOND, code, ""), check, 0)
            found.append((state.status, state.streak))
        assert len(state.log) <= 5
        return found

    assert after((1, 1), (9, 1), (11, 1), (12, 1)) == [
        (STARTING, 0), (STARTING, 0), (STARTING, 1), (UNHEALTHY, 2),
    ]  # fmt: skip
    assert after((1, 0), (2, 1), (3, 1), (4, 0)) == [(HEALTHY, 0), (HEALTHY, 1), (UNHEALTHY, 2), (HEALTHY, 0)]
    assert after(*[(1, 0)] * 9)[-1] == (HEALTHY, 0)


@needs_root
def test_a_container_is_starting_then_healthy_then_unhealthy(hythe: Hythe) -> None:
    hythe(
        "run", "-d", "--name", "one", *NONE, "--health-cmd", "echo seen; cat /well", "--health-retries", "2",
        *OFTEN, "--health-start-period", "1h", *FOREVER,
    )  # fmt: skip
    assert health(hythe) == "starting"
    assert status(hythe).endswith(" (health: starting)\n")
    assert hythe("ps", "-q", "-f", "health=starting")
    hythe("exec", "one", "touch", "/well")
    assert soon(lambda: health(hythe) == "healthy")
    assert status(hythe).endswith(" (healthy)\n")
    hythe("exec", "one", "rm", "/well")
    assert soon(lambda: health(hythe) == "unhealthy")
    assert status(hythe).endswith(" (unhealthy)\n")
    assert hythe("ps", "-q", "-f", "health=unhealthy", "-f", "health=healthy")
    assert not hythe("ps", "-q", "-f", "health=none")
    assert soon(lambda: hythe("inspect", "-f", "{{len .State.Health.Log}}", "one") == "5\n")
    [found] = json.loads(hythe("inspect", "one"))
    told = found["State"]["Health"]
    assert told["FailingStreak"] >= 2
    assert len(told["Log"]) == 5
    assert told["Log"][-1]["ExitCode"] == 1
    assert "seen\n" in told["Log"][-1]["Output"]
    assert found["Config"]["Healthcheck"] == {
        "Test": ["CMD-SHELL", "echo seen; cat /well"], "Interval": 50_000_000,
        "StartPeriod": 3600 * SECOND, "Retries": 2,
    }  # fmt: skip
    hythe("stop", "-t", "0", "one")
    assert "(" not in status(hythe).replace("(137)", "").replace("(143)", "")
    assert health(hythe) == "unhealthy"
    assert soon(lambda: not askers(hythe))
    assert_nothing_is_left(hythe)


@needs_root
def test_the_images_check_is_used_unless_it_is_refused_or_another_is_named(hythe: Hythe) -> None:
    check = {"Test": ["CMD", "ls", "/etc/passwd"], "Interval": SECOND // 20, "Retries": 7}
    image = images.make_image(busybox().tars, command=("sleep", "600"), more={"Healthcheck": check})
    put(hythe, image, "checked")
    hythe("run", "-d", "--name", "one", *NONE, "checked")
    hythe("run", "-d", "--name", "two", *NONE, "--no-healthcheck", "checked")
    hythe("run", "-d", "--name", "three", *NONE, "--health-cmd", "false", "--health-retries", "1", "checked")
    assert soon(lambda: health(hythe) == "healthy")
    assert soon(lambda: health(hythe, "three") == "unhealthy")
    assert hythe("inspect", "-f", "{{.Config.Healthcheck.Retries}}", "one") == "7\n"
    assert hythe("ps", "-f", "health=none", "--format", "{{.Names}}") == "two\n"
    hythe("rm", "-f", "one", "two", "three")
    assert_nothing_is_left(hythe)


@needs_root
def test_a_check_that_takes_too_long_is_killed_and_has_failed(hythe: Hythe) -> None:
    hythe(
        "run", "-d", "--name", "one", *NONE, "--health-cmd", "exec sleep 333", "--health-timeout", "100ms",
        "--health-retries", "1", *OFTEN, *FOREVER,
    )  # fmt: skip
    assert soon(lambda: health(hythe) == "unhealthy")
    last = json.loads(hythe("inspect", "-f", "{{json (index .State.Health.Log 0)}}", "one"))
    assert (last["ExitCode"], last["Output"]) == (-1, "Health check exceeded timeout (100ms)")
    hythe("pause", "one")  # nobody is asked now
    hythe("unpause", "one")
    hythe("rm", "-f", "one")


@needs_root
def test_who_asks_is_begun_again_when_it_was_killed(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "--health-cmd", "test -e /well", *OFTEN, *FOREVER)
    [asker] = askers(hythe)
    os.kill(asker, signal.SIGKILL)
    assert soon(lambda: asker not in askers(hythe))
    hythe("exec", "one", "touch", "/well")
    assert soon(lambda: health(hythe) == "healthy")
    assert len(askers(hythe)) == 1


@needs_root
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--health-interval", "soon"), 'time: invalid duration "soon"'),
        (("--health-timeout", "-1s"), "--health-timeout cannot be negative"),
        (("--health-interval", "1us"), "--health-interval cannot be less than 1ms"),
        (("--no-healthcheck", "--health-cmd", "x"), "--no-healthcheck conflicts with --health-* options"),
    ],
)
def test_what_is_no_check_is_refused(hythe: Hythe, words: tuple[str, ...], complaint: str) -> None:
    code, _, said = status_of(hythe, "create", *words, "busybox")
    assert (code, complaint in said) == (125, True)
