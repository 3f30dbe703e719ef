"""What somebody meets who types the wrong thing, has no room left, or a narrow terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.client.conftest import needs_root
from tests.client.test_bad_servers import registry
from tests.support import images, peers
from tests.support.faulty import Answer, Asked
from tests.support.hythe import Hythe
from tests.support.images import Entry, Image
from tests.support.server import Server

USAGE = 2


def big() -> Image:
    """An image of 8 MB that do not compress."""
    return images.make_image([images.layer([Entry("big", os.urandom(8 << 20))])])


def both(hythe: Hythe, *words: str) -> tuple[int, str]:
    """Exit status, and everything that it says in the order in which a person sees it."""
    done = subprocess.run(
        [*hythe.command, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=hythe.environment,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


def test_an_unknown_verb_is_answered_with_the_one_that_was_meant(hythe: Hythe) -> None:
    for word, meant in (("pul", "pull"), ("list", "images"), ("inspct", "inspect"), ("prune", "system prune")):
        status, said = both(hythe, word, "x")
        assert status == USAGE
        assert said == f"hythe: {word!r} is not a hythe command.\nDid you mean: hythe {meant}\n"
    assert both(hythe, "xyzzy") == (USAGE, "hythe: 'xyzzy' is not a hythe command.\nSee 'hythe --help'.\n")
    assert "hythe image rm\n" in both(hythe, "image", "rmi", "x")[1]
    assert both(hythe, "help")[0] == 0


def test_an_error_comes_after_what_was_said_before_it(hythe: Hythe, server: Server) -> None:
    lines = both(hythe, "pull", f"{server.host}/no/such")[1].splitlines()
    assert lines[0] == "Using default tag: latest"
    assert lines[-1].startswith("hythe: ")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["pull", "http://localhost:5000/x"], "leave out the http://"),
        (
            ["pull", "localhost:1/x", "--platform", "foo"],
            "'foo' is no processor that is known; linux/arm64 is, say",
        ),
    ],
)
def test_what_is_wrong_with_a_word_is_said(hythe: Hythe, words: list[str], advice: str) -> None:
    assert advice in hythe.refused(*words)


def test_a_tag_that_is_not_there_is_answered_with_where_to_look(
    hythe: Hythe, server: Server, http: httpx.Client, repository: str
) -> None:
    peers.upload(http, repository, images.make_image([]), "v1")
    name = f"{server.host}/{repository}"
    assert f"{name}:v2: not found; hythe tags {name} lists what there is" in hythe.refused("pull", f"{name}:v2")


@needs_root
def test_a_root_file_system_is_no_archive_of_images(hythe: Hythe, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(images.layer([Entry("etc/motd", b"x")]))
    said = hythe.refused("load", "-i", tmp_path / "root.tar")
    assert "no archive of images" in said
    assert "hythe import" in said


@needs_root
def test_a_full_disk_is_one_sentence_and_what_it_advises_works(
    hythe: Hythe, server: Server, http: httpx.Client, repository: str, tmp_path: Path
) -> None:
    peers.upload(http, repository, big(), "v1")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(small)], check=True)
    try:
        hythe.environment["HYTHE_CLIENT_ROOT"] = str(small / "store")
        status, said = both(hythe, "pull", f"{server.host}/{repository}:v1")
        assert status == 1
        assert said.splitlines()[-1].startswith("hythe: no space left on the image store's disk; free some")
        assert os.statvfs(small).f_bavail == 0
        assert re.fullmatch(r"Total reclaimed space: \d\.\d+MB\n", hythe("image", "prune", "-f"))
        assert os.statvfs(small).f_bavail > 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


class Screen:
    """A terminal of so many columns and rows, as far as a pull writes to one."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""] * rows
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\d*[A-Z]|[^\x1b]", text):
            if part.startswith("\x1b"):
                self._control(int(part[2:-1] or 1), part[-1])
            elif part == "\n":
                self._down()
            elif part == "\r":
                self.column = 0
            else:
                self._put(part)

    def _control(self, number: int, letter: str) -> None:
        if letter == "A":
            self.row = max(0, self.row - number)
        elif letter == "B":
            self.row = min(self.rows - 1, self.row + number)
        else:
            assert (number, letter) == (2, "K")
            self.lines[self.row] = ""

    def _put(self, mark: str) -> None:
        if self.column == self.columns:
            self._down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + mark + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == self.rows:
            self.lines = [*self.lines[1:], ""]
            self.row -= 1


def _heed_interrupts() -> None:
    """What a shell runs in the background has Ctrl-C ignored, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def on_a_terminal(hythe: Hythe, screen: Screen, *words: str, interrupt_after: str = "") -> int:
    """Run it on a terminal; when *interrupt_after* was said, press Ctrl-C. Returns the exit status."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", screen.rows, screen.columns, 0, 0))
    process = subprocess.Popen(
        [*hythe.command, *words],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        env=hythe.environment,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    os.close(secondary)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is gone
        while piece := os.read(primary, 1 << 16):
            said += piece
            if interrupt_after and interrupt_after.encode() in said:
                process.send_signal(signal.SIGINT)
                interrupt_after = ""
    os.close(primary)
    screen.feed(said.decode())
    return process.wait()


@needs_root
@pytest.mark.parametrize(("columns", "rows"), [(200, 50), (80, 24), (40, 24), (60, 4)])
def test_the_lines_of_a_pull_and_a_copy_stand_one_below_the_other_on_every_terminal(
    hythe: Hythe, server: Server, http: httpx.Client, repository: str, columns: int, rows: int
) -> None:
    made = images.make_image([images.layer([Entry(f"f{n}", os.urandom(200_000))]) for n in range(6)])
    peers.upload(http, repository, made, "v1")
    name = f"{server.host}/{repository}:v1"
    pulling, copying = Screen(columns, rows), Screen(columns, rows)
    assert on_a_terminal(hythe, pulling, "pull", name) == 0
    assert on_a_terminal(hythe, copying, "cp", name, f"oci:{hythe.directory}/layout") == 0
    if rows < len(made.layers):
        return  # only that it went well: what is above cannot be changed any more
    for layer in made.layers:
        assert f"{layer.digest[7:19]}: Pull complete" in pulling.lines
        assert [line for line in copying.lines if line.startswith(f"{layer.digest[:19]}: copied (blob")]
    assert not [line for line in (*pulling.lines, *copying.lines) if "[" in line]


@needs_root
def test_an_interrupted_pull_ends_at_once_says_nothing_more_and_goes_on_later(hythe: Hythe) -> None:
    made = big()
    starts: list[str] = []

    def slow_at_first(asked: Asked, answer: Answer) -> Answer:
        starts.append(asked.headers.get("range", ""))
        return replace(answer, pause_seconds=0.3 if len(starts) == 1 else 0)

    server = registry(slow_at_first, made)
    screen = Screen(80, 24)
    name = f"{server.host}/app:v1"
    assert on_a_terminal(hythe, screen, "pull", name, interrupt_after="Downloading  [=") == 130
    assert "Traceback" not in "".join(screen.lines)
    assert hythe("images", "-q") == ""
    hythe("pull", name)
    server.close()
    assert starts[1].startswith("bytes=")
