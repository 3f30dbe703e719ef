"""A tree made by a process of its own: two threads that compute in Python take turns, and wait for each other.

Both sides of it: `walk_apart` sends the archive through a ring (`ring.py`), `main` is that process, which says on
its standard output what became of it, as one line of JSON. It is told nothing but an open directory and the
limits, and decides nothing: whether the bytes are the right ones is known to who sends them.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from registry.client.images.errors import LayerRefused
from registry.client.images.unpack import ring
from registry.client.images.unpack.limits import Limits
from registry.client.images.unpack.walk import Walked, walk

_PACKAGE = Path(__file__).resolve().parents[4]
# Without the site's packages, of which it needs none: that is half of the time of its start.
_MAIN = "import sys; sys.path.insert(0, {!r}); from registry.client.images.unpack.apart import main; main()"


def walk_apart(pieces: Iterable[bytes], root_fd: int, limits: Limits, keep: Sequence[int] = ()) -> Walked:
    """`walk` in another process, which keeps the descriptors *keep* open as long as it lives."""
    import subprocess

    memory_fd = os.memfd_create("layer")
    try:
        os.ftruncate(memory_fd, ring.SIZE_BYTES)
        words = [sys.executable, "-I", "-S", "-c", _MAIN.format(str(_PACKAGE)), json.dumps(asdict(limits))]
        with subprocess.Popen(
            [*words, str(root_fd), str(memory_fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(root_fd, memory_fd, *keep),
            start_new_session=True,  # the terminal's signals are for us
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                verdict = ring.send(pieces, memory_fd, process.stdin.fileno(), process.stdout.fileno())
                process.stdin.close()
                verdict += process.stdout.read()
            except BaseException:
                process.kill()
                raise
    finally:
        os.close(memory_fd)
    return _read_verdict(verdict.lstrip(b"\0"), process.returncode)


def _read_verdict(verdict: bytes, status: int) -> Walked:
    if not verdict:
        raise OSError(errno.EIO, f"the process that unpacks a layer ended with {status}")
    said: dict[str, Any] = json.loads(verdict)
    if "refused" in said:
        raise LayerRefused(said["refused"])
    if "fault" in said:
        raise OSError(*said["fault"])
    return Walked(**said)


def main() -> None:
    """The process: `LIMITS ROOT_FD MEMORY_FD`."""
    limits, root_fd, memory_fd = Limits(**json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    said: dict[str, Any]
    try:
        said = asdict(walk(ring.receive(memory_fd, 0, 1), root_fd, limits))
    except LayerRefused as error:
        said = {"refused": str(error)}
    except OSError as error:
        said = {"fault": [error.errno or errno.EIO, error.strerror or str(error)]}
    os.write(1, json.dumps(said).encode())
