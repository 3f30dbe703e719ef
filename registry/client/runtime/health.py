"""Whether a container is well: a command is executed in it again and again, and its exit status judged.

There is no daemon: each container that is asked has a process for it, which begins and ends with it. That holds a
lock in the container's bundle; whoever looks at the container and finds the lock free begins another.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.client.images.records import writing
from registry.client.runtime import monitor, probing, processes, records, telling
from registry.client.runtime.probing import Probe
from registry.client.runtime.records import RUNNING, Container
from registry.client.runtime.spec import Health

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

STARTING, HEALTHY, UNHEALTHY, NONE = "starting", "healthy", "unhealthy", "none"
_KEPT = 5
_USUAL_NS = 30 * 10**9
_USUAL_RETRIES = 3


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a container's health: the last probes, and how many failed in a row."""

    status: str = STARTING
    streak: int = 0
    log: tuple[Probe, ...] = ()


def judge(state: State, probe: Probe, check: Health, started_ns: int) -> State:
    """The state after one more probe. What fails in the start period does not count before the first success."""
    log = (*state.log, probe)[-_KEPT:]
    if probe.exit_code == 0:
        return State(HEALTHY, 0, log)
    if state.status == STARTING and probe.start_ns - started_ns < check.start_period_ns:
        return State(STARTING, state.streak, log)
    streak = state.streak + 1
    return State(UNHEALTHY if streak >= (check.retries or _USUAL_RETRIES) else state.status, streak, log)


def read(machine: Machine, container: Container) -> State | None:
    """The health in the present or last run; of one that has ended unhealthy, of one that is not asked None."""
    if container.spec.health is None or not container.round:
        return None
    row = machine.db.execute(
        "SELECT document FROM health WHERE container = ? AND round = ?", (container.id, container.round)
    ).fetchone()
    found = State() if row is None else _state(row[0])
    return found if container.state == RUNNING else dataclasses.replace(found, status=UNHEALTHY)


def _state(text: str) -> State:
    document = json.loads(text)
    log = tuple(Probe(**each) for each in document["log"])
    return State(document["status"], document["streak"], log)


def _write(machine: Machine, container: Container, before: State, after: State) -> None:
    document = json.dumps(dataclasses.asdict(after), separators=(",", ":"))
    with writing(machine.db):
        current = records.get(machine.db, container.id)
        if current is None or current.round != container.round:
            return
        machine.db.execute(
            "INSERT OR REPLACE INTO health VALUES (?, ?, ?)", (container.id, container.round, document)
        )
        if before.status != after.status:
            telling.note(machine.db, container, f"health_status: {after.status}")


# --- the process that asks


def watch(machine: Machine, container: Container) -> None:
    """See to it that somebody asks for a running container's health."""
    try:
        lock = os.open(machine.place.bundle(container.id) / "health", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # it has just ended
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        subprocess.Popen(
            monitor.own_command("container", "watch", container.id, str(container.round)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=monitor.environment(machine.environment, machine.place, machine.store.place.root),
            cwd="/",
            start_new_session=True,
            pass_fds=(lock,),  # the lock is the child's from now on
        )
    except BlockingIOError:
        return
    finally:
        os.close(lock)


def ask(machine: Machine, identity: str, turn: int) -> None:
    """Ask for a container's health until this run of it has ended."""
    container = records.get(machine.db, identity)
    if container is None or container.process is None or container.spec.health is None:
        return
    check = container.spec.health
    while not processes.wait(container.process, (check.interval_ns or _USUAL_NS) / 1e9):
        current = records.get(machine.db, identity)
        if current is None or current.round != turn or current.state != RUNNING:
            return
        if current.paused:
            continue
        probe = probing.probe(machine, current, check.words, check.timeout_ns or _USUAL_NS)
        before = read(machine, current)
        if before is not None and probe is not None:
            _write(machine, current, before, judge(before, probe, check, current.started_ns))
