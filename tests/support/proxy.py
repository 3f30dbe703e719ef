"""A TCP proxy that does to connections what networks do: cut them, hold them up, refuse them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_PIECE_BYTES = 64 << 10


class Proxy:
    """Forwards connections to a *port* of the loopback address until it is told something else."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._flowing = {True: threading.Event(), False: threading.Event()}
        self.port = 0
        # Sees each piece that a client sends, before it is forwarded.
        self.sees: Callable[[bytes], None] = lambda piece: None
        # Asked of each piece that a client sends: True cuts its connection, before or after it is forwarded.
        self.cuts_before: Callable[[bytes], bool] = lambda piece: False
        self.cuts_after: Callable[[bytes], bool] = lambda piece: False
        self.thaw()
        self.accept()

    def accept(self) -> None:
        """Take connections, on the same port as before."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(128)
        self.port = int(listening.getsockname()[1])
        self._listening = listening
        threading.Thread(target=self._accept_from, args=(listening,), daemon=True).start()

    def refuse(self) -> None:
        """Take no connection any more, and cut those that there are."""
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def freeze(self, requests: bool = True, answers: bool = True) -> None:
        """Forward nothing any more, though all stays connected."""
        for from_client, frozen in ((True, requests), (False, answers)):
            if frozen:
                self._flowing[from_client].clear()

    def thaw(self) -> None:
        """Forward what waits, and go on."""
        for event in self._flowing.values():
            event.set()

    def close(self) -> None:
        """Stop."""
        self.refuse()
        self.thaw()

    def _accept_from(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._pairs.append((client, server))
                for source, target, from_client in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._forward, args=(source, target, from_client), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                if from_client:
                    self.sees(piece)
                    if self.cuts_before(piece):
                        break
                self._flowing[from_client].wait()
                target.sendall(piece)
                if from_client and self.cuts_after(piece):
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
