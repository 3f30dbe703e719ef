"""What happens to a container: made, started, ended, removed.

Each step is safe to repeat after a kill at any point.

The row's state says what may exist: `creating`, a directory that is worth nothing; `starting`, perhaps a monitor
and a process; `running`, both; `removing`, what is left to remove. Whoever changes it holds the container's lock,
which dies with its holder; `settle` finishes what a dead holder began.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from registry import failpoints
from registry.client.images.records import Image, writing
from registry.client.runtime import (
    ending,
    monitor,
    names,
    overlay,
    parse,
    preparing,
    processes,
    records,
    stage,
    telling,
    volumes,
)
from registry.client.runtime.errors import ContainerConflict, OptionInvalid
from registry.client.runtime.records import CREATED, EXITED, REMOVING, RUNNING, STARTING, Container
from registry.client.runtime.spec import Spec

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

T = TypeVar("T")
_NAME_TRIES = 20


def create(machine: Machine, image: Image, spec: Spec, name: str = "") -> Container:
    """Make a container; it is not started. Raises ContainerConflict for a name that is taken."""
    identity = secrets.token_hex(32)
    me = processes.identify(os.getpid())
    assert me is not None
    for attempt in range(_NAME_TRIES):
        chosen = name or names.make(attempt)
        try:
            with writing(machine.db):
                records.add(machine.db, identity, chosen, image.id, spec, me, processes.now_ns())
            break
        except sqlite3.IntegrityError:
            taken = records.find(machine.db, chosen)
            if name or not taken:
                _refuse_name(machine, name, taken)
    failpoints.reach("container.noted")
    directory = machine.place.container(identity)
    try:
        directory.mkdir(mode=0o710)
        (directory / "lock").touch(mode=0o600)
        overlay.prepare(machine.store, image.id, directory)
        failpoints.reach("container.prepared")
        spec = volumes.provide(machine, identity, spec)
        with writing(machine.db):
            records.change(machine.db, identity, state=CREATED, owner=None, spec=spec)
            telling.note(machine.db, ending.there(machine, identity), "create")
    except BaseException:
        ending.forget(machine, identity)
        raise
    failpoints.reach("container.created")
    return ending.there(machine, identity)


def _refuse_name(machine: Machine, name: str, taken: list[Container]) -> None:
    if not taken:
        raise ContainerConflict("the image was removed while the container was made; pull it again")
    raise ContainerConflict(
        f'Conflict. The container name "/{name}" is already in use by container "{taken[0].id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


def rename(machine: Machine, container: Container, name: str) -> None:
    """Give a container another name. Raises ContainerConflict."""
    if name == container.name:
        raise OptionInvalid("Renaming a container with the same name as its current name")
    try:
        with writing(machine.db):
            records.change(machine.db, container.id, name=name)
            telling.note(machine.db, ending.there(machine, container.id), "rename", oldName=f"/{container.name}")
    except sqlite3.IntegrityError:
        taken = records.find(machine.db, name)[0].id
        raise ContainerConflict(
            f'Error when allocating new name: Conflict. The container name "/{name}" is already in use by '
            f'container "{taken}". You have to remove (or rename) that container to be able to reuse that name.'
        ) from None


def start(machine: Machine, identity: str, before: Callable[[Path], T]) -> T:
    """Start a container; *before* is called with its bundle when all is ready and nothing has run yet: to attach.

    Raises ContainerError; the container is then as it was, and its record says what went wrong.
    """
    with ending.holding(machine, identity):
        container = ending.there(machine, identity)
        if container.state not in (CREATED, EXITED):
            raise ContainerConflict(f"container {identity[:12]} is {container.state}")
        ending.clear(machine, container)
        (machine.place.exits() / identity).unlink(missing_ok=True)  # the code of an earlier run
        with writing(machine.db):
            records.change(
                machine.db,
                identity,
                state=STARTING,
                round=container.round + 1,
                stopped=0,
                error="",
                exit_code=0,
                oom=0,
            )
        try:
            return _start(machine, ending.there(machine, identity), before)
        except BaseException as error:
            ending.clear(machine, container)
            code = getattr(error, "status", 128)
            with writing(machine.db):
                records.change(
                    machine.db, identity, state=container.state if container.started_ns else CREATED,
                    error=str(error), exit_code=code, finished_ns=container.finished_ns,
                )  # fmt: skip
                telling.note(machine.db, container, "die", exitCode=code)
            raise


def _start(machine: Machine, container: Container, before: Callable[[Path], T]) -> T:
    engine = machine.engine_of(container)
    bundle = machine.place.bundle(container.id)
    bundle.mkdir(mode=0o700)
    spec = container.spec
    log = f"k8s-file:{machine.place.log(container.id)}" if spec.log_driver != "none" else "off"
    watch = monitor.Watch(
        container.id,
        container.round,
        spec.tty,
        spec.open_stdin,
        spec.tty or not spec.stdin_once,
        log,
        parse.log_bytes(spec.log_options),
    )
    words = monitor.command(monitor.find(), machine.place, engine, watch)
    environment = monitor.environment(machine.environment, machine.place, machine.store.place.root)
    prepare = preparing.plan(machine, container, bundle)
    failpoints.reach("start.begun")
    sync = stage.launch(prepare, words, environment, bundle / "complaints")
    failpoints.reach("start.launched")
    try:
        process = monitor.read_pid(sync)
    finally:
        os.close(sync)
    failpoints.reach("start.made")
    result = before(bundle)
    # The record comes first: a process that nobody knows of would be worse than one that is not there.
    with writing(machine.db):
        records.change(
            machine.db, container.id, state=RUNNING, process=process, monitor=monitor.read_monitor(bundle),
            started_ns=processes.now_ns(), paused=0, finished_ns=0,
        )  # fmt: skip
        telling.note(machine.db, container, "start")
    failpoints.reach("start.recorded")
    engine.run("start", container.id)
    failpoints.reach("start.started")
    if spec.health is not None:
        from registry.client.runtime import health

        health.watch(machine, ending.there(machine, container.id))
    return result


def remove(machine: Machine, container: Container, force: bool = False, with_volumes: bool = False) -> None:
    """Remove a container; one that runs only with *force*. Raises ContainerConflict."""
    if container.state in (RUNNING, STARTING):
        if not force:
            kind = "paused" if container.paused else "running"
            raise ContainerConflict(
                f"You cannot remove a {kind} container {container.id}. "
                "Stop the container before attempting removal or force remove"
            )
        ending.kill_now(machine, container)
    with ending.holding(machine, container.id):
        ending.finish(machine, container.id)
        current = records.get(machine.db, container.id)
        if current is None:
            return
        if current.state == RUNNING:
            raise ContainerConflict(f"container {container.id[:12]} was started again meanwhile")
        with writing(machine.db):
            records.change(machine.db, container.id, state=REMOVING)
        failpoints.reach("remove.noted")
        anonymous = volumes.anonymous_of(machine, container.id) if with_volumes else []
        ending.forget(machine, container.id)
        volumes.remove_unused(machine, anonymous)
