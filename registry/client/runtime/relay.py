"""Between a person's terminal or pipes and a container's: the monitor's attach socket.

A packet from the monitor begins with a byte for its stream; what is sent to it is the container's stdin.
Source: conmon, conn_sock.c.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import tty as terminals
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.client.runtime.errors import ContainerError, OptionInvalid

_STDOUT, _STDERR = 2, 3
_PACKET_BYTES = 8192
DETACH_KEYS = "ctrl-p,ctrl-q"


@dataclass(frozen=True, slots=True)
class Streams:
    """The descriptors of the person's side; None is not attached."""

    stdin: int | None
    stdout: int | None
    stderr: int | None
    detach: bytes = b""


def connect(bundle: Path) -> socket.socket:
    """Attach to a running container; what it writes from now on comes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    directory = os.open(bundle, os.O_PATH | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/attach")  # whatever the length of the path
    except OSError as error:
        connection.close()
        raise ContainerError(f"the container's monitor cannot be reached: {error.strerror}") from None
    finally:
        os.close(directory)
    return connection


def keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or `a,b` as bytes; empty for none. Raises OptionInvalid."""
    found = bytearray()
    for key in text.split(",") if text else ():
        name = key.lower()
        if name.startswith("ctrl-") and len(name) == 6 and ("a" <= name[5] <= "z" or name[5] in "@[\\]^_"):
            found.append(ord(name[5].upper()) & 0x1F)
        elif len(key) == 1 and key.isascii():
            found.append(ord(key))
        else:
            raise OptionInvalid(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(found)


def relay(connection: socket.socket, streams: Streams) -> bool:
    """Carry bytes both ways until the container ends (True) or the person types the detach keys (False)."""
    return _Relay(connection, streams).run()


class _Relay:
    def __init__(self, connection: socket.socket, streams: Streams) -> None:
        self._connection = connection
        self._streams = streams
        self._pending = b""
        self._typed = b""
        self._reading = streams.stdin is not None
        self._writing = True

    def run(self) -> bool:
        self._connection.setblocking(False)
        while True:
            for fd, _ in self._poll():
                if fd == self._streams.stdin:
                    if not self._read():
                        return False
                elif not self._exchange():
                    return True

    def _poll(self) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._pending else 0))
        if self._reading and not self._pending and self._streams.stdin is not None:
            poll.register(self._streams.stdin, select.POLLIN)
        return poll.poll()

    def _read(self) -> bool:
        """Take what the person typed; False for the detach keys."""
        assert self._streams.stdin is not None
        try:
            data = os.read(self._streams.stdin, _PACKET_BYTES)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            self._reading = False
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            return True
        if not self._streams.detach:
            self._pending = data
            return True
        return self._watch(data)

    def _watch(self, data: bytes) -> bool:
        """Hold back what may be the beginning of the detach keys."""
        wanted = self._streams.detach
        out = bytearray()
        for byte in data:
            self._typed += bytes((byte,))
            while self._typed and not wanted.startswith(self._typed):
                out.append(self._typed[0])
                self._typed = self._typed[1:]
            if self._typed == wanted:
                return False
        self._pending = bytes(out)
        return True

    def _exchange(self) -> bool:
        """Move bytes from and to the monitor; False when it has hung up."""
        if self._pending:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self._pending = self._pending[self._connection.send(self._pending) :]
        try:
            packet = self._connection.recv(_PACKET_BYTES + 1)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if not packet:
            return False
        target = self._streams.stderr if packet[0] == _STDERR else self._streams.stdout
        if target is not None and self._writing:
            self._write(target, packet[1:])
        return True

    def _write(self, target: int, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(target, data) :]
        except BrokenPipeError:  # whoever read it has enough; the container goes on
            self._writing = False


# --- terminals


def resize(bundle: Path, fd: int) -> None:
    """Give the container's terminal the size of ours."""
    try:
        rows, columns = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))[:2]
        control = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with contextlib.suppress(OSError):
        if rows and columns:
            os.write(control, f"1 {rows} {columns}\n".encode())
    os.close(control)


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Hand every key of a terminal on as it is typed; the terminal is put back afterwards, whatever happens."""
    before = termios.tcgetattr(fd)
    try:
        terminals.setraw(fd, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
