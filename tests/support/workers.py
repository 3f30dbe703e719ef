"""Asking each worker of a server by itself: connections that stay with the process that accepted them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from tests.support import processes
from tests.support.server import Server
from tests.support.wire import Answer, Closed, Wire, request

_TRIES = 300


class Workers:
    """A connection to each worker of *server*, made again when it was closed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wires: dict[int, Wire] = {}

    def close(self) -> None:
        """Leave."""
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> list[Answer]:
        """What each worker answers to the same request."""
        asked = request(method, target, headers)
        try:
            return self._ask(asked, method)
        except Closed:
            self.close()
            return self._ask(asked, method)

    def _ask(self, asked: bytes, method: str) -> list[Answer]:
        if not self._wires:
            self._connect()
        return [wire.ask(asked, method) for wire in self._wires.values()]

    def _connect(self) -> None:
        """Open connections until every worker has accepted one."""
        count = self._server.settings["server"].get("workers", 1)
        # A server answers as soon as its first worker does.
        assert processes.wait_until(lambda: len(processes.workers(self._server.pid)) == count)
        wanted = set(processes.workers(self._server.pid))
        spare: list[Wire] = []
        try:
            for _ in range(_TRIES):
                wire = Wire(self._server.port)
                wire.ask(request("GET", "/healthz"))  # the answer says that somebody accepted it
                pid = _holder(wire, self._server.port, wanted)
                if pid in self._wires:
                    spare.append(wire)  # kept open, so that whoever holds it is not the idlest
                else:
                    self._wires[pid] = wire
                if len(self._wires) == len(wanted):
                    return
        finally:
            for wire in spare:
                wire.close()
        raise AssertionError(f"of the workers {sorted(wanted)} only {sorted(self._wires)} accept connections")


def _holder(wire: Wire, port: int, pids: set[int]) -> int:
    """Which of *pids* has the server's end of a connection open."""
    ours = wire.socket.getsockname()[1]
    wanted = (f":{port:04X}", f":{ours:04X}")
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    [inode] = [row[9] for row in rows if row[1].endswith(wanted[0]) and row[2].endswith(wanted[1])]
    for pid in pids:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{entry}") == f"socket:[{inode}]":
                    return pid
    raise AssertionError(f"none of {sorted(pids)} has the connection from port {ours}")
