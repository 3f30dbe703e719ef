"""The client's command line as a program, with a store, a home and settings of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.peers import Client


class Hythe(Client):
    """`hythe`, called like a function; its store is `root`."""

    def __init__(self, directory: Path, **environment: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.root = directory / "store"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HYTHE_", "XDG_"))}
        own = {"HOME": str(directory), "HYTHE_CLIENT_ROOT": str(self.root), "TZ": "UTC"}
        own["HYTHE_SYSTEM_CONFIG"] = str(directory / "etc")
        super().__init__([sys.executable, "-m", "registry"], kept | own | environment, directory)

    def fed(self, data: bytes, *arguments: str | Path) -> str:
        """Run it with *data* as its standard input."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            input=data,
            capture_output=True,
            env=self.environment,
            cwd=self.directory,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def bytes_of(self, *arguments: str | Path) -> bytes:
        """What it writes to its standard output, as bytes."""
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            capture_output=True,
            env=self.environment,
            cwd=self.directory,
            check=True,
        )
        return done.stdout
