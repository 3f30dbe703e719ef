"""The servers under measurement: started side by side on one file system, watched, and stopped by pid."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.bench.load import HOST, LoadError, Request, ask
from tests.support.server import Server, free_port

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
LOG_SHOWN_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry; *pid* is the root of its process tree."""

    name: str
    port: int
    pid: int
    log: Path

    def log_end(self) -> str:
        """The last lines that it wrote."""
        return self.log.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace") if self.log.exists() else ""

    def forget_peak(self) -> None:
        """Begin to measure the peak of memory anew."""
        for pid in _tree(self.pid):
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                continue  # it ended just now

    def peak_bytes(self) -> int:
        """The peaks of resident memory of all its processes, added up, since `forget_peak`.

        An upper bound: they need not fall together, and pages that processes share count for each.
        """
        return sum(_peak_bytes(pid) for pid in _tree(self.pid))

    def cpu_seconds(self) -> float:
        """What its living processes, and the dead that they waited for, have used of the cores."""
        return cpu_seconds(self.pid)


@contextmanager
def ours(directory: Path) -> Iterator[Registry]:
    """Our server with two workers."""
    for name in [name for name in os.environ if name.startswith("HYTHE_")]:
        del os.environ[name]  # a figure must not depend on somebody's settings
    server = Server(directory, {"server": {"workers": 2}, "logging": {"level": "error"}})
    try:
        server.start(READY_SECONDS)
        registry = Registry("ours", server.port, server.pid, server.log_path)
        _wait_until_ready(registry)
        yield registry
    finally:
        _stop_ours(server)


@contextmanager
def docker_registry(directory: Path) -> Iterator[Registry]:
    """Debian's docker-registry, its logs off."""
    directory.mkdir(parents=True)
    port = free_port()
    config = directory / "config.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": "0.1",
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(directory / "data")},
                    "delete": {"enabled": True},
                },
                "http": {"addr": f"{HOST}:{port}"},
            }
        )
    )
    log = directory / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        registry = Registry("docker-registry", port, process.pid, log)
        _wait_until_ready(registry)
        yield registry
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def docker_registry_version() -> str:
    """What the peer says it is: `2.8.2+ds1`."""
    said = subprocess.run(["docker-registry", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[-1]


def flush(directory: Path) -> None:
    """Write out the file system's dirty pages, so that nobody is measured with another's on its back."""
    subprocess.run(["sync", "--file-system", str(directory)], check=True)


def _stop_ours(server: Server) -> None:
    if server.process is None:
        return
    try:
        if server.process.poll() is None:
            server.stop(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"our server did not stop within {STOP_SECONDS} s and was killed", file=sys.stderr)
    finally:
        server.kill()


def _wait_until_ready(registry: Registry) -> None:
    """Return when it answers its first endpoint; raise LoadError with its log when it does not."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            ask(registry.port, [Request("GET", "/v2/", 200)])
            return
        except LoadError as error:
            if time.monotonic() > deadline:
                raise LoadError(f"{registry.name} is not ready: {error}\n{registry.log_end()}") from error
            time.sleep(0.05)


def cpu_seconds(root: int) -> float:
    """What a process and its living descendants, and the dead that they waited for, have used of the cores."""
    return sum(_cpu_seconds(pid) for pid in _tree(root))


def _tree(root: int) -> list[int]:
    """*root* and its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    ticks = stat.rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
