"""conmon: who owns a container's stdio, writes its log, and knows its exit code, without a daemon.

Source: conmon(8), and its source for the pipe by which it says the container's pid.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.client.runtime import engine as engines
from registry.client.runtime.engine import Engine
from registry.client.runtime.errors import ContainerError, Missing
from registry.client.runtime.place import Place
from registry.client.runtime.processes import Process, identify

_KEPT = ("PATH", "HOME", "TZ", "LANG", "TMPDIR", "PYTHONPATH")
_PACKAGE = Path(__file__).resolve().parents[3]
_MAIN = "import sys; sys.path.insert(0, {!r}); from registry.cli.main import run; run()"


@dataclass(frozen=True, slots=True)
class Watch:
    """What the monitor is told about a container."""

    id: str
    round: int
    tty: bool
    stdin: bool
    keep_stdin: bool
    log: str
    log_bytes: int = 0  # at most; 0 is no limit


def find() -> str:
    """The program. Raises Missing."""
    path = engines.program("conmon")
    if path is None:
        raise Missing("containers need the monitor conmon: apt-get install conmon")
    return path


def command(path: str, place: Place, engine: Engine, watch: Watch) -> list[str]:
    """The monitor's command line. When the container has ended, it calls us to tidy up."""
    bundle = place.bundle(watch.id)
    words = [path, "--api-version", "1", "-c", watch.id, "-u", watch.id, "-n", watch.id[:12]]
    words += ["-r", engine.path, "--runtime-arg", "--root", "--runtime-arg", str(engine.root)]
    words += ["-b", str(bundle), "-p", str(bundle / "pid"), "-P", str(bundle / "conmon.pid")]
    words += ["--exit-dir", str(place.exits()), "--full-attach", "-l", watch.log, "--log-level", "error"]
    words += ["--log-size-max", str(watch.log_bytes)] if watch.log_bytes else []
    words += ["-t"] if watch.tty else []
    words += ["-i"] if watch.stdin else []
    words += ["--leave-stdin-open"] if watch.keep_stdin else []
    first, *rest = own_command("container", "tidy", watch.id, str(watch.round))
    words += ["--exit-command", first]
    for word in rest:
        words += ["--exit-command-arg", word]
    return words


def own_command(*words: str) -> list[str]:
    """A call of ourselves, wherever we are installed."""
    return [sys.executable, "-P", "-c", _MAIN.format(str(_PACKAGE)), *words]


def environment(given: Mapping[str, str], place: Place, root: Path) -> dict[str, str]:
    """What the monitor, the engine and the exit command get to know of the caller's environment."""
    kept = {name: value for name, value in given.items() if name in _KEPT or name.startswith(("HYTHE_", "XDG_"))}
    kept.setdefault("PATH", engines.SEARCH)
    return kept | {"HYTHE_CLIENT_ROOT": str(root), "HYTHE_RUN_ROOT": str(place.run)}


def read_pid(fd: int) -> Process:
    """Wait for the monitor's word on the container it made. Raises ContainerError with the engine's complaint."""
    data = b""
    while piece := os.read(fd, 65536):
        data += piece
        if data.endswith(b"\n"):
            break
    try:
        said = json.loads(data.decode("utf-8", "replace").strip() or "{}", strict=False)
    except ValueError:
        said = {"message": data.decode("utf-8", "replace")}
    pid = said.get("data", -1)
    if pid <= 0:
        raise engines.failure(str(said.get("message") or "the monitor conmon ended without a word"))
    found = identify(pid)
    if found is None:
        raise ContainerError("the container's first process died before it was started")
    return found


def read_monitor(bundle: Path) -> Process | None:
    """The monitor itself, by the pid that it wrote."""
    try:
        return identify(int((bundle / "conmon.pid").read_text()))
    except (FileNotFoundError, ValueError):
        return None
