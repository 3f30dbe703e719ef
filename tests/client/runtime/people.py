"""An ordinary user of this machine, with `hythe`, a home, and ids of its own that nobody else has."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path

from tests.support import ordinary
from tests.support.hythe import Hythe
from tests.support.processes import wait_until

_COUNT = 65536
eventually = functools.partial(wait_until, timeout=60.0)


class Ordinary(Hythe):
    """`hythe` of a user who is not root; what is asked of it runs in mounts where that user exists."""

    def __init__(self, home: Path, ids: int = _COUNT, devices: str = "666", **environment: str) -> None:
        number = os.getpid() % 1000  # nobody else's, even where two test runs share a machine
        self.uid, self.first = 61000 + number, 10_000_000 + number * _COUNT
        super().__init__(home, HYTHE_RUN_ROOT=str(home / "run"), **environment)
        os.chown(home, self.uid, self.uid)
        home.chmod(0o755)
        self.environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
        words = [str(word) for word in (self.uid, self.first, ids, home, devices)]
        self.command = [sys.executable, str(Path(ordinary.__file__).resolve()), *words, *self.command]

    def owns(self, uid: int) -> bool:
        """Whether this is the user's own id, or one of the range."""
        return uid == self.uid or self.first <= uid < self.first + _COUNT

    def processes(self) -> dict[int, str]:
        """What runs as this user or as one of the user's ids, by pid; what is dead already does not count."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                status = (path / "status").read_text()
                words = (path / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            uids = re.search(r"^Uid:\s+(.*)$", status, re.MULTILINE)
            if uids and words and any(self.owns(int(uid)) for uid in uids[1].split()):
                found[int(path.name)] = words.replace(b"\0", b" ").decode("utf-8", "replace")
        return found

    def assert_nothing_runs(self) -> None:
        """Wait until no process is left, whatever it was for."""
        eventually(lambda: not self.processes())
        assert not self.processes()
