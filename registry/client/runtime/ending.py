"""How a container ends: asked to, killed, or found dead. What a dead command began is finished by the next one.

`settle` makes a record true; everything that reads records goes through it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from registry import failpoints
from registry.client.images import place as places
from registry.client.images.records import writing
from registry.client.images.unpack.removal import remove_tree
from registry.client.runtime import (
    cgroups,
    companions,
    kernel,
    monitor,
    networks,
    processes,
    records,
    telling,
)
from registry.client.runtime.errors import ContainerConflict, ContainerError, ContainerUnknown
from registry.client.runtime.place import locked
from registry.client.runtime.records import CREATED, CREATING, EXITED, REMOVING, RUNNING, STARTING, Container

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine

_UNKNOWN_CODE = 255  # docker's, for what ended while nobody looked
_EXIT_FILE_SECONDS = 5.0


def there(machine: Machine, identity: str) -> Container:
    """A container by its whole id, as it was recorded. Raises ContainerUnknown."""
    found = records.get(machine.db, identity)
    if found is None:
        raise ContainerUnknown(identity)
    return found


@contextlib.contextmanager
def holding(machine: Machine, identity: str, wait: bool = True) -> Iterator[None]:
    """Hold a container's lock. Raises ContainerUnknown; without *wait* ContainerConflict when it is busy."""
    try:
        with locked(machine.place, identity, wait):
            yield
    except FileNotFoundError as error:
        if str(error.filename).endswith("/lock"):
            raise ContainerUnknown(identity) from None
        raise


def settle(machine: Machine, container: Container) -> Container | None:
    """Make a container's record true; returns it, None when the container is gone.

    Costs one look at /proc for a container that runs. What a live command is busy with is left to it.
    """
    if container.state in (CREATED, EXITED):
        return container
    if container.state == RUNNING and processes.is_alive(container.process):
        if container.spec.health is not None:  # who asks for it may have been killed
            from registry.client.runtime import health

            health.watch(machine, container)
        return container
    if container.state == CREATING:
        if not processes.is_alive(container.owner):
            forget(machine, container.id)
        return records.get(machine.db, container.id)
    with (
        contextlib.suppress(ContainerConflict, ContainerUnknown),
        holding(machine, container.id, container.state == RUNNING),
    ):
        finish(machine, container.id)
    found = records.get(machine.db, container.id)
    if found is not None and found.state == REMOVING and not machine.place.container(container.id).exists():
        forget(machine, container.id)
        return None
    return found


def finish(machine: Machine, identity: str) -> None:
    """Write down how a container ended, and take away what its run needed. The lock is held by the caller."""
    container = records.get(machine.db, identity)
    if container is None or container.state in (CREATING, CREATED, EXITED):
        return
    if container.state == REMOVING:
        forget(machine, identity)
        return
    if container.state == STARTING:  # whoever started it died
        clear(machine, container)
        state = EXITED if container.started_ns else CREATED
        with writing(machine.db):
            records.change(machine.db, identity, state=state, error="the start was interrupted", exit_code=128)
        return
    if processes.is_alive(container.process):
        return
    code, ended_ns = _exit_of(machine, container)
    oom = (machine.place.bundle(identity) / "oom").exists()
    clear(machine, container)
    failpoints.reach("end.cleared")
    with writing(machine.db):
        records.change(
            machine.db, identity, state=EXITED, exit_code=code, finished_ns=ended_ns, paused=0, oom=oom,
            process=None, monitor=None,
        )  # fmt: skip
        if oom:
            telling.note(machine.db, container, "oom")
        telling.note(machine.db, container, "die", exitCode=code)
    failpoints.reach("end.recorded")


def exit_code(machine: Machine, identity: str) -> int | None:
    """The code that the monitor wrote for a container's last run, even when the container is gone since."""
    try:
        return int((machine.place.exits() / identity).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _exit_of(machine: Machine, container: Container) -> tuple[int, int]:
    """Exit code and time; of one whose monitor died before it, docker's code for that."""
    found = exit_code(machine, container.id)
    deadline = processes.now_ns() + int(_EXIT_FILE_SECONDS * 1e9)
    while found is None and processes.is_alive(container.monitor) and processes.now_ns() < deadline:
        if container.monitor is not None and processes.wait(container.monitor, 0.002):
            break
        found = exit_code(machine, container.id)
    found = exit_code(machine, container.id) if found is None else found
    with contextlib.suppress(FileNotFoundError):
        return (
            _UNKNOWN_CODE if found is None else found,
            (machine.place.exits() / container.id).stat().st_mtime_ns,
        )
    return _UNKNOWN_CODE, processes.now_ns()


def clear(machine: Machine, container: Container) -> None:
    """Take away all that a run has outside of the records: processes, engine's state, network, bundle, cgroup."""
    bundle = machine.place.bundle(container.id)
    if not bundle.exists():
        return
    unstarted = container.state in (STARTING, CREATED, EXITED)
    if unstarted:  # a monitor of a start that failed or was interrupted has nothing left to do
        processes.kill(monitor.read_monitor(bundle), signal.SIGKILL)
    machine.engine_of(container).delete(container.id, not unstarted, lambda: _detach(bundle))
    companions.stop(bundle)
    networks.release(machine, container, bundle)
    if unstarted:
        (machine.place.exits() / container.id).unlink(missing_ok=True)
    for name in ("rootfs", "netns"):  # seen only by the monitor's last call, which is in the container's mounts
        with contextlib.suppress(OSError):
            kernel.unmount(str(bundle / name))
    _discard_bundle(machine, container.id)


def _detach(bundle: Path) -> None:
    """Take the root's mount point away. The kernel unmounts it wherever it is mounted, which takes it 10 ms; a
    process that has it mounted itself is told that it is busy, and unmounts it later."""
    with contextlib.suppress(OSError):
        os.rmdir(bundle / "rootfs")


def _discard_bundle(machine: Machine, identity: str) -> None:
    fd = os.open(machine.place.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, identity)
    finally:
        os.close(fd)


def signal_to(machine: Machine, container: Container, number: int) -> None:
    """Send a signal to a container's first process."""
    if container.state != RUNNING:
        raise ContainerConflict(f"Container {container.id} is not running")
    telling.tell(machine.db, container, "kill", signal=number)  # before: its end may be told at once
    try:
        machine.engine_of(container).run("kill", container.id, str(number))
    except ContainerError:
        if processes.is_alive(container.process):
            raise


def stop(machine: Machine, container: Container, seconds: float, number: int, stopped: int = 1) -> None:
    """End a container with a signal, and with SIGKILL when it takes longer than *seconds* (below 0: for ever).

    *stopped* is 2 when the machine stops: then it comes back with it.
    """
    with writing(machine.db):  # also of one that has ended: its restart may be waiting
        records.change(machine.db, container.id, stopped=stopped)
    if container.state != RUNNING or container.process is None:
        return
    if container.paused:
        unpause(machine, container)
    signal_to(machine, container, number)
    if not processes.wait(container.process, None if seconds < 0 else seconds):
        signal_to(machine, container, signal.SIGKILL)
        processes.wait(container.process, 10)
    if records.get(machine.db, container.id) is not None:
        settle(machine, there(machine, container.id))
    telling.tell(machine.db, container, "stop")


def pause(machine: Machine, container: Container) -> None:
    """Freeze all processes."""
    if container.state != RUNNING:
        raise ContainerConflict(f"Container {container.id} is not running")
    if container.paused:
        raise ContainerConflict(f"Container {container.id} is already paused")
    if machine.is_rootless and container.process is not None and not cgroups.has_own(container.process.pid):
        raise ContainerConflict("a user's containers can be paused with cgroup v2 only: `hythe doctor` says more")
    with holding(machine, container.id):
        machine.engine_of(container).run("pause", container.id)
        with writing(machine.db):
            records.change(machine.db, container.id, paused=1)
            telling.note(machine.db, container, "pause")


def unpause(machine: Machine, container: Container) -> None:
    """Let them go on."""
    if not container.paused:
        raise ContainerConflict(f"Container {container.id} is not paused")
    with holding(machine, container.id):
        machine.engine_of(container).run("resume", container.id)
        with writing(machine.db):
            records.change(machine.db, container.id, paused=0)
            telling.note(machine.db, container, "unpause")


def kill_now(machine: Machine, container: Container) -> None:
    """End a container at once, and for good."""
    with writing(machine.db):
        records.change(machine.db, container.id, stopped=1)
    with contextlib.suppress(ContainerError, ContainerConflict):
        signal_to(machine, container, signal.SIGKILL)
        if container.paused:
            machine.engine_of(container).run("resume", container.id)
    processes.kill(container.process)
    if container.process is not None:
        processes.wait(container.process, 10)


def forget(machine: Machine, identity: str) -> None:
    """Files out of sight, then the row, then the files for good."""
    _discard_bundle(machine, identity)
    places.discard(machine.store.place, machine.place.container(identity))
    failpoints.reach("remove.discarded")
    found = records.get(machine.db, identity)
    with writing(machine.db):
        if found is not None and found.state != CREATING:
            telling.note(machine.db, found, "destroy")
        records.remove(machine.db, identity)
    failpoints.reach("remove.forgotten")
    places.empty(machine.store.place, "trash")
