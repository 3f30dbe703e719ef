"""From a record to a monitored container: what is prepared in a mount namespace of the container's own.

The overlay is mounted where only the monitor and what it starts can see it. So no mount can be left behind: when
the last of them dies, by whatever signal, the kernel takes the mount away.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from registry.client.runtime import kernel
from registry.client.runtime.errors import CommandNotFound, ContainerError, NotExecutable
from registry.oci.errors import HytheError

_SYNC_FD = 3
_KINDS = {kind.__name__: kind for kind in (ContainerError, CommandNotFound, NotExecutable)}


def launch(prepare: Callable[[], None], command: list[str], environment: dict[str, str], complaints: Path) -> int:
    """Run *prepare* in a child with its own mounts, which then becomes *command*; the monitor's pipe to us.

    Raises what *prepare* raised. The child inherits no descriptor but that pipe: CVE-2024-21626.
    """
    sync_read, sync_write = os.pipe()
    error_read, error_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become(prepare, command, environment, complaints, sync_write, error_write)
    os.close(sync_write)
    os.close(error_write)
    with os.fdopen(error_read, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    if said:
        os.close(sync_read)
        found = json.loads(said)
        raise _KINDS.get(found["kind"], ContainerError)(found["text"])
    return sync_read


def _become(
    prepare: Callable[[], None],
    command: list[str],
    environment: dict[str, str],
    complaints: Path,
    sync: int,
    errors: int,
) -> NoReturn:
    try:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGWINCH):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            kernel.private_mounts()
            prepare()
            _arrange(sync, errors, complaints)
            os.execve(command[0], command, {**environment, "_OCI_SYNCPIPE": str(_SYNC_FD)})  # noqa: S606 -- a shell is what we avoid
        except HytheError as error:
            _tell(errors, type(error).__name__, str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _tell(errors, "ContainerError", f"{where}{error.strerror or error}")
        except BaseException as error:
            _tell(errors, "ContainerError", f"unexpected: {error!r}")
    finally:
        os._exit(1)


def _tell(fd: int, kind: str, text: str) -> None:
    os.write(fd, json.dumps({"kind": kind, "text": text}).encode())


def _arrange(sync: int, errors: int, complaints: Path) -> None:
    """Nothing on stdin and stdout, a file for what the monitor says, the pipe at its number, and nothing else."""
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(complaints, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    if sync != _SYNC_FD:
        if errors == _SYNC_FD:
            raise ContainerError("descriptor 3 is taken")
        os.dup2(sync, _SYNC_FD)
    os.set_inheritable(_SYNC_FD, True)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > _SYNC_FD:
            try:
                os.set_inheritable(number, False)
            except OSError:
                continue
