"""A real server process for tests: started, stopped, killed and restarted as an operator would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

Settings = dict[str, Any]


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def merged(base: Settings, over: Settings) -> Settings:
    """*base* with the settings of *over* laid upon it, section by section."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def surroundings(settings: Settings) -> Settings:
    """What servers run on where a test's *settings* say nothing of it.

    With TEST_INDEX=postgres a database of their own, with TEST_STORAGE=s3 a part of a bucket of their own.
    """
    found: Settings = {}
    if os.environ.get("TEST_INDEX") == "postgres" and "url" not in settings.get("index", {}):
        from tests.support.postgres import shared

        found["index"] = {"url": shared().url(shared().database())}
    if os.environ.get("TEST_STORAGE") == "s3" and "kind" not in settings.get("storage", {}):
        from tests.support import s3

        found["storage"] = s3.shared(s3.Ceph).settings()
    return found


class Server:
    """One `hythe serve` on a port of its own, its data and log under *directory*.

    `settings` are those of the configuration file, by section: `{"server": {"workers": 2}}`.
    """

    def __init__(
        self, directory: Path, settings: Settings | None = None, environment: dict[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.data = directory / "data"
        self.log_path = directory / "server.log"
        self.environment = environment or {}
        base: Settings = {
            "server": {"host": "127.0.0.1", "port": self.port},
            "storage": {"directory": str(self.data)},
            "logging": {"format": "json"},
        }
        self.settings = merged(merged(base, surroundings(settings or {})), settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._said_before = 0

    @property
    def host(self) -> str:
        """Host and port as a client names the registry: `127.0.0.1:5000`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base address, without a slash at its end."""
        scheme = "https" if self.settings["server"].get("tls_certificate") else "http"
        return f"{scheme}://{self.host}"

    @property
    def pid(self) -> int:
        """The process that was started (with several workers, their parent)."""
        assert self.process is not None
        return self.process.pid

    def start(self, timeout: float = 30.0) -> Server:
        """Start the process and return when it answers; raise with its log when it does not."""
        self.launch()
        self.wait_until_ready(timeout)
        return self

    def launch(self) -> None:
        """Start the process, and do not wait for it."""
        config = self.directory / "config.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        self._said_before = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "registry", "serve", "--config", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Return when it listens and has said so; raise with its log when it does not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    if b"Hythe serves" in self.log_path.read_bytes()[self._said_before :]:
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"the server did not answer within {timeout} s:\n{self.log()}")

    def stop(self, timeout: float = 30.0) -> int:
        """End it as an operator does, with SIGTERM, and return its exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """`kill -9` for the process and all its workers."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def wait_dead(self, timeout: float = 30.0) -> int:
        """Wait for a process that ends by itself (a failpoint, a worker's crash)."""
        assert self.process is not None
        return self.process.wait(timeout)

    def restart(self) -> Server:
        """Stop it if it runs, and start it again on the same port and data."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        return self.start()

    def log(self) -> str:
        """All that it has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """The log's JSON lines."""
        lines = [line for line in self.log().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    def remove(self) -> None:
        """Kill it and delete its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
