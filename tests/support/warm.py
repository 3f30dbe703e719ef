"""Servers that start in a tenth of a second, for tests that start hundreds.

A process imports everything that `hythe serve` imports, once, and forks a server for each start. From there
on it is the same program in a process of its own: the same command line, signals, files and exit status.
What is not tested this way is the interpreter's start; `Server` does that.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.support.server import Server, Settings

_Command = dict[str, Any]


class Forker:
    """The process that forks; one command and one answer at a time, each a line of JSON."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(self, arguments: list[str], environment: dict[str, str], log: Path, reached: Path) -> Process:
        """Run `hythe` with *arguments*; it writes to *log*, and the failpoints that it comes to to *reached*."""
        command = {"arguments": arguments, "environment": environment, "log": str(log), "reached": str(reached)}
        return Process(self, self.ask(do="start", **command))

    def ask(self, **command: Any) -> Any:
        """One command's answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks servers is gone"
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextmanager
def forker() -> Iterator[Forker]:
    """A Forker that ends with the context."""
    running = Forker()
    try:
        yield running
    finally:
        running.close()


class Process:
    """What `Server` needs of a `subprocess.Popen`, for a process that is the forker's child."""

    def __init__(self, forker: Forker, pid: int) -> None:
        self._forker = forker
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forker.ask(do="poll", pid=self.pid)
        return self.returncode

    def wait(self, timeout: float = 30.0) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("hythe serve", timeout)
            time.sleep(0.003)
        return status

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class WarmServer(Server):
    """A `Server` that a Forker starts. `reached` is where the failpoints that it came to are written."""

    def __init__(
        self,
        forker: Forker,
        directory: Path,
        settings: Settings | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory, settings, environment)
        self._forker = forker
        self._reached = directory / "reached"

    def start(self, timeout: float = 30.0) -> WarmServer:
        config = self.directory / "config.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        self.process = self._forker.start(  # type: ignore[assignment]
            ["serve", "--config", str(config)], self.environment, self.log_path, self._reached
        )
        self.wait_until_ready(timeout)
        return self

    def reached(self) -> list[str]:
        """The failpoints that all its starts came to, in order."""
        return self._reached.read_text().split() if self._reached.exists() else []


def _main() -> None:
    """The forker's life: commands from standard input, until that ends."""
    from registry.cli import main, serve  # noqa: F401 - imported now, so that servers need not

    for module in ("uvloop", "httptools", "uvicorn.lifespan.on", "uvicorn.loops.auto", "alembic.command"):
        importlib.import_module(module)
    importlib.import_module("sqlalchemy.dialects.sqlite")
    running: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            pid = os.fork()
            if pid == 0:
                _serve(command)
            running.add(pid)
            print(pid, flush=True)
        else:
            print(json.dumps(_poll(command["pid"], running)), flush=True)
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _poll(pid: int, running: set[int]) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        return None
    running.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _serve(command: _Command) -> None:
    """Become a server; does not return."""
    os.setsid()
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the forker's own has read ahead
    os.environ.update(command["environment"])
    _trace_failpoints(command["reached"])
    from registry.cli import main

    status = 1
    try:
        main.run(command["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _trace_failpoints(path: str) -> None:
    """Read the environment anew, and write down each failpoint before it may kill."""
    from registry import failpoints

    importlib.reload(failpoints)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    reach = failpoints.reach

    def traced(name: str) -> None:
        os.write(fd, f"{name}\n".encode())
        reach(name)

    failpoints.reach = traced


if __name__ == "__main__":
    _main()
