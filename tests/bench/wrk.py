"""Small GETs, measured by wrk: it costs a tenth of what any client in Python would."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from tests.bench.load import HOST, LoadError

SCRIPT = Path(__file__).with_name("get.lua")
END_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Summary:
    """What wrk counted: whole responses, and all bytes that it read, heads included."""

    requests: int
    seconds: float
    received_bytes: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def wrk(port: int, paths: Sequence[str], accept: str, connections: int, seconds: float) -> Summary:
    """GET *paths* in turn for *seconds*.

    Raises LoadError when any request failed. wrk takes a 3xx for a success and does not look at lengths:
    the caller compares `received_bytes` with what the answers must have.
    """
    command = [
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={ceil(seconds) + END_SECONDS}s",
        "--timeout=30s",
        f"--header=Accept: {accept}",
        f"--script={SCRIPT}",
        f"http://{HOST}:{port}",
        "--",
        *paths,
    ]
    status, out, err = _interrupted(command, seconds)
    line = next((line for line in out.splitlines() if line.startswith("summary ")), None)
    if status or line is None:
        raise LoadError(f"wrk ended with {status}:\n{out}{err}")
    requests, microseconds, received, *errors = map(int, line.split()[1:])
    if any(errors) or not requests:
        raise LoadError(f"wrk met errors (connect, read, write, status, timeout) {errors}:\n{out}{err}")
    return Summary(requests, microseconds / 1e6, received)


def _interrupted(command: Sequence[str], seconds: float) -> tuple[int, str, str]:
    """Status, output and errors of wrk, told to sum up after *seconds*: it knows whole ones only.

    The time that it reports is what it measured, up to its real end.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=END_SECONDS)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise LoadError(f"wrk did not end: {error}") from error
            raise
    return process.returncode, out, err
