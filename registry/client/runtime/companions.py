"""Programs that run beside a container: pasta or slirp4netns before its network, fuse-overlayfs under its files.

Each has its pid in the container's bundle before there is anything to serve; whoever takes the bundle away ends
them first. So none is left, whatever was killed.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from registry.client.runtime import processes

NAMES = ("pasta", "slirp4netns", "fuse-overlayfs")
_GRACE_SECONDS = 2


def stop(bundle: Path) -> None:
    """End those of a container; none is fine. That a pid is still theirs, its command line says."""
    for name in NAMES:
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            process = processes.identify(int((bundle / f"{name}.pid").read_text()))
            if process is not None:
                said = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
                if any(os.fsencode(bundle) in word for word in said):
                    processes.kill(process, signal.SIGTERM)
                    if not processes.wait(process, _GRACE_SECONDS):
                        processes.kill(process)
