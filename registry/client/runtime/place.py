"""Where containers lie.

In the store, which outlives a reboot:
  containers/ID/      upper and work (overlay's), init (the layer of our own), log, lock, hosts, resolv.conf, …
  volumes/NAME/_data  volumes
In /run, which does not:
  ID/                 the bundle, the monitor's sockets, pid and exit files
  engine/             the engine's own state
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.client.runtime.errors import ContainerConflict, ContainerError


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of containers. *root* is the image store's directory."""

    root: Path
    run: Path

    def container(self, identity: str) -> Path:
        """What a container keeps."""
        return self.root / "containers" / identity

    def bundle(self, identity: str) -> Path:
        """What a running container has."""
        return self.run / identity

    def engine(self) -> Path:
        """The engine's directory."""
        return self.run / "engine"

    def exits(self) -> Path:
        """Where monitors write exit codes."""
        return self.run / "exits"

    def log(self, identity: str) -> Path:
        """What a container has said."""
        return self.container(identity) / "log"

    def volume(self, name: str) -> Path:
        """The directory of a volume's files."""
        return self.root / "volumes" / name / "_data"


def run_root(root: Path, environment: Mapping[str, str]) -> Path:
    """Where the running containers of the store at *root* are known: HYTHE_RUN_ROOT, else a directory in /run.

    Sockets live there, whose paths may have 107 bytes, so it is short.
    """
    if chosen := environment.get("HYTHE_RUN_ROOT"):
        return Path(chosen)
    short = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:12]
    return Path(_run_base(environment), "hythe", short)


def _run_base(environment: Mapping[str, str]) -> str:
    """/run, and for others than root what the login made, even where its variable is not set (su, cron)."""
    uid = os.geteuid()
    if uid == 0:
        return "/run"
    if given := environment.get("XDG_RUNTIME_DIR"):
        return given
    usual = f"/run/user/{uid}"
    return usual if os.access(usual, os.W_OK) else f"/tmp/hythe-{uid}"  # noqa: S108 -- made with mode 0700, checked


def prepare(place: Place) -> None:
    """Make the directories that all containers share."""
    try:
        for path in (place.root / "containers", place.engine(), place.exits()):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.run.stat().st_uid != os.geteuid():
            raise ContainerError(f"{place.run} is somebody else's; HYTHE_RUN_ROOT names another directory")
    except OSError as error:
        raise ContainerError(f"{error.filename}: {error.strerror}; HYTHE_RUN_ROOT names another place") from None


@contextmanager
def locked(place: Place, identity: str, wait: bool = True) -> Iterator[None]:
    """Hold a container's lock: who holds it alone changes its state. A process that dies gives it back.

    Raises FileNotFoundError when the container is gone, ContainerConflict when another has it and *wait* is False.
    """
    path = place.container(identity) / "lock"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise ContainerConflict(f"container {identity[:12]} is busy") from None
            there = os.stat(path)  # it may have been removed while we waited
            if there.st_ino == os.fstat(fd).st_ino:
                yield
                return
        finally:
            os.close(fd)
