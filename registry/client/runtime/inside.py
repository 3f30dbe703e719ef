"""Work inside of a container's file system, whether it runs or not.

In a child with its own mounts, by descriptors.

Of a running container it is the root that its processes have, volumes and all. Else the overlay is mounted where
only the child sees it, read-only unless something is to be written. Nothing of the container's is ever executed:
CVE-2019-14271, CVE-2018-15664, CVE-2026-41567.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from registry.client.runtime import kernel, overlay, processes, rootfs
from registry.client.runtime.ending import holding
from registry.client.runtime.errors import ContainerError
from registry.client.runtime.records import RUNNING, Container
from registry.oci.errors import HytheError

if TYPE_CHECKING:
    from registry.client.runtime.machine import Machine


def run(
    machine: Machine,
    container: Container,
    work: Callable[[int], None],
    ours: Callable[[], None],
    writing: bool = False,
) -> None:
    """Run *work* with the container's root in a child, and *ours* here meanwhile. Raises what either raised.

    While a container that does not run is written to, it cannot be started.
    """
    if container.state == RUNNING:
        _both(lambda: _in_running(container, work), ours)
        return
    text = overlay.options(machine.store, container.image_id, container.id, False)
    if not writing:
        text = overlay.view(machine.store, container.image_id, container.id)
    with holding(machine, container.id), tempfile.TemporaryDirectory(dir=machine.place.run) as target:
        _both(lambda: _in_stopped(machine, container, text, target, work), ours)


def export(machine: Machine, container: Container, work: Callable[[int], None], ours: Callable[[], None]) -> None:
    """As `run`, with what is in the container's own layer and its image's, and nothing that is mounted there."""
    text = overlay.view(machine.store, container.image_id, container.id)
    with tempfile.TemporaryDirectory(dir=machine.place.run) as target:
        _both(lambda: _mounted(machine, text, target, work), ours)


def _in_running(container: Container, work: Callable[[int], None]) -> None:
    assert container.process is not None
    with rootfs.opened(f"/proc/{container.process.pid}/root") as root:
        if not processes.is_alive(container.process):  # else that root may be another's
            raise ContainerError(f"container {container.id[:12]} has just ended")
        work(root)


def _mounted(machine: Machine, text: str, target: str, work: Callable[[int], None]) -> None:
    kernel.private_mounts()
    overlay.mount(machine.store, text, target)
    try:
        with rootfs.opened(target) as root:
            work(root)
    finally:
        kernel.unmount(target)


def _in_stopped(
    machine: Machine, container: Container, text: str, target: str, work: Callable[[int], None]
) -> None:
    def with_volumes(root: int) -> None:
        for mount in container.spec.mounts:
            if mount.kind == "tmpfs":
                continue
            source = str(machine.place.volume(mount.source)) if mount.kind == "volume" else mount.source
            with contextlib.suppress(OSError):  # where nothing is there, there is nothing to see
                fd = kernel.open_in(root, mount.target, os.O_PATH)
                flags = kernel.MS_BIND | kernel.MS_REC
                kernel.mount(source, f"/proc/self/fd/{fd}", None, flags)
                os.close(fd)
        work(root)

    _mounted(machine, text, target, with_volumes)


def _both(child_work: Callable[[], None], ours: Callable[[], None]) -> None:
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            child_work()
            code = 0
        except HytheError as error:
            os.write(write, json.dumps(str(error)).encode())
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            os.write(write, json.dumps(f"{where}{error.strerror or error}").encode())
        except BaseException as error:
            os.write(write, json.dumps(repr(error)).encode())
        finally:
            os._exit(code)
    os.close(write)
    failure: BaseException | None = None
    try:
        ours()
    except (HytheError, OSError) as error:
        failure = error
    with os.fdopen(read, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    if said:
        raise ContainerError(json.loads(said))
    if failure is not None:
        raise failure


@contextlib.contextmanager
def closing(*descriptors: int) -> Iterator[None]:
    """Close descriptors at the end."""
    try:
        yield
    finally:
        for fd in descriptors:
            with contextlib.suppress(OSError):
                os.close(fd)
