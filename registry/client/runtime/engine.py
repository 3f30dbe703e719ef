"""The engine: runc or crun, whichever works here, and what it is asked to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.client.images.unpack.removal import remove_tree
from registry.client.runtime.errors import CommandNotFound, ContainerError, Missing, NotExecutable

NAMES = ("runc", "crun")
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MESSAGE = re.compile(r'level=(?:error|fatal) msg="((?:[^"\\]|\\.)*)"')
_NOT_FOUND = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "exec format error")


def program(name: str) -> str | None:
    """Where a program is: on PATH, or where a user's PATH does not look."""
    if "/" in name:
        return os.path.abspath(name) if os.access(name, os.X_OK) else None
    for directory in f"{os.environ.get('PATH', '')}:{SEARCH}".split(":"):
        path = os.path.join(directory, name)
        if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def hybrid_cgroups() -> bool:
    """Whether the machine has cgroup v1 and v2 side by side, which crun refuses."""
    return os.path.ismount("/sys/fs/cgroup/unified")


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that works here."""

    path: str
    root: Path

    @property
    def name(self) -> str:
        """runc or crun."""
        return os.path.basename(self.path)

    def command(self, *words: str) -> list[str]:
        """A call of the engine."""
        return [self.path, "--root", str(self.root), *words]

    def run(self, *words: str) -> str:
        """Call the engine; returns what it printed. Raises ContainerError with its own words."""
        with self._begin(*words) as process:
            printed, said = process.communicate()
        if process.returncode != 0:
            raise failure(said or f"{self.name} {words[0]} ended with {process.returncode}")
        return printed

    def state(self, identity: str) -> dict[str, Any] | None:
        """What the engine knows of a container; None when it knows none."""
        try:
            found: dict[str, Any] = json.loads(self.run("state", identity))
        except ContainerError:
            return None
        return found

    def delete(self, identity: str, ended: bool = False, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Remove what the engine has of a container, its processes as well; nothing there is fine.

        *ended*: its first process ran, and is dead. *meanwhile* is done while the engine works.
        """
        if not (self.root / identity).exists() or (ended and self._forgot(identity)):
            meanwhile()
            return
        with self._begin("delete", "--force", identity) as process:
            meanwhile()
            _, said = process.communicate()
        if process.returncode != 0 and (self.root / identity).exists():
            raise failure(said or f"{self.name} delete ended with {process.returncode}")

    def _forgot(self, identity: str) -> bool:
        """Do what runc does for a container that has ended well, without the 10 ms that its start takes.

        It has written down the cgroups, which must be empty. False for whatever is otherwise: that is left to it.
        """
        if self.name != "runc":
            return False
        try:
            state = json.loads((self.root / identity / "state.json").read_bytes())
            paths = set(state["cgroup_paths"].values())
            if state.get("intel_rdt_path") or not paths:  # without a cgroup, nothing says that all have ended
                return False
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(path)
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(root_fd, identity)
        finally:
            os.close(root_fd)
        return True

    def _begin(self, *words: str) -> subprocess.Popen[str]:
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(self.command(*words), stdin=null, stdout=pipe, stderr=pipe, text=True)


def find(wanted: str, root: Path) -> Engine:
    """The engine: the one that was asked for, else the first that works. Raises Missing."""
    if wanted:
        path = program(wanted)
        if path is None:
            raise Missing(f"there is no engine {wanted} on this machine; without --engine runc or crun is used")
        return Engine(path, root)
    for name in NAMES:
        path = program(name)
        if path is not None and not (name == "crun" and hybrid_cgroups()):
            return Engine(path, root)
    if program("crun"):
        raise Missing("crun refuses this machine's hybrid cgroups; install runc: apt-get install runc")
    raise Missing("containers need runc or crun: apt-get install runc")


def complaint(text: str) -> str:
    """What the engine complains of, out of its log lines."""
    found = _MESSAGE.findall(text)
    return found[-1].replace('\\"', '"') if found else text.strip().splitlines()[-1] if text.strip() else text


def failure(text: str) -> ContainerError:
    """The engine's complaint, as the error whose exit status docker gives."""
    message = complaint(text)
    kind = ContainerError
    if "exec" in message or "stat " in message:
        if any(words in message for words in _NOT_EXECUTABLE):
            kind = NotExecutable
        elif any(words in message for words in _NOT_FOUND):
            kind = CommandNotFound
    return kind(f"OCI runtime create failed: {message}")
