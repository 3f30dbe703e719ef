"""A layer whose tree is written by a process of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.client.images.unpack import ring
from registry.client.images.unpack.apart import walk_apart
from registry.client.images.unpack.limits import Limits
from tests.client.conftest import needs_root
from tests.support.tars import archive, d, f
from tests.support.trees import snapshot

pytestmark = needs_root


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def children() -> list[int]:
    """The processes of ours that are there now."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def test_more_than_the_ring_holds_arrives_in_order_whatever_the_pieces_are(root: Path, root_fd: int) -> None:
    content = os.urandom(ring.SLOT_BYTES + 4321) * 40
    data = archive([d("a"), f("a/large", content), f("a/small", b"x")])
    sizes = iter([1, 511, 513, 0, 3 * ring.SLOT_BYTES, *[ring.SLOT_BYTES - 7] * 1000])

    def pieces() -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = next(sizes)
            yield data[at : at + size]
            at += size

    assert walk_apart(pieces(), root_fd, Limits()).entries == 3
    assert (root / "a/large").read_bytes() == content
    assert set(snapshot(root)) >= {"a", "a/large", "a/small"}


def test_an_error_on_our_side_ends_the_process(root_fd: int) -> None:
    before = children()

    def pieces() -> Iterator[bytes]:
        yield archive([f("a")])
        raise ConnectionAbortedError("interrupted")

    with pytest.raises(ConnectionAbortedError, match="interrupted"):
        walk_apart(pieces(), root_fd, Limits())
    assert children() == before


def test_a_process_that_was_killed_is_a_fault_and_no_layer(root_fd: int) -> None:
    before = set(children())

    def pieces() -> Iterator[bytes]:
        for pid in set(children()) - before:
            os.kill(pid, signal.SIGKILL)
        yield archive([f("a")])

    with pytest.raises(OSError, match="unpacks a layer ended") as fault:
        walk_apart(pieces(), root_fd, Limits())
    assert fault.value.errno == errno.EIO


def test_the_lock_that_it_was_given_is_held_until_it_has_ended(root_fd: int, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    with (tmp_path / "lock").open() as other:

        def pieces() -> Iterator[bytes]:
            yield archive([f("a")])
            os.close(lock)  # as if we had died
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

        walk_apart(pieces(), root_fd, Limits(), [lock])
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
