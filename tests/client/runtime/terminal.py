"""A scripted person at a terminal: a pty, what is typed, what is waited for, and a deadline for all of it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from typing import NoReturn

from tests.support.hythe import Hythe

DEADLINE_SECONDS = 20.0


class Terminal:
    """`hythe WORDS` at a terminal of 24 rows and 80 columns."""

    def __init__(self, hythe: Hythe, *words: str, rows: int = 24, columns: int = 80) -> None:
        self.fd, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            [*hythe.command, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=hythe.environment,
            cwd=hythe.directory,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size, as a person who drags a window does."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> str:
        """Wait until *text* is shown; returns what was shown before it, and forgets both."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.seen:
            left = deadline - time.monotonic()
            if left <= 0:
                self._give_up(f"{text!r} was not shown, but {self.seen!r}")
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:
                    self._give_up(f"{text!r} was not shown before the end, but {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before

    def _give_up(self, why: str) -> NoReturn:
        self.process.kill()
        self.process.wait()
        raise AssertionError(why)

    def end(self) -> int:
        """Wait for the command's end; its exit status. The terminal must be as it was before."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self._give_up(f"it does not end; shown: {self.seen!r}")
            if select.select([self.fd], [], [], 0.05)[0]:
                self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
        assert termios.tcgetattr(self._slave) == self.before, "the terminal was left raw"
        os.close(self._slave)
        os.close(self.fd)
        return self.process.returncode
