"""Pieces from one process to another through memory that both have: nothing is copied by the kernel.

The memory is slots, used in turn. One pipe says how long the pieces in the next slots are; by another one the
reader gives slots back, as NUL bytes. Both say it of several at a time: to wake somebody for every piece costs
more than the piece where the processors are busy.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator

SLOT_BYTES = 1 << 19
SLOTS = 32
SIZE_BYTES = SLOTS * SLOT_BYTES
_AT_ONCE = 8
_LENGTH = struct.Struct("<I")


def send(pieces: Iterable[bytes], memory_fd: int, lengths_fd: int, freed_fd: int) -> bytes:
    """Pass *pieces* on. Ends early when the reader has ended; returns what came back other than free slots."""
    free, slot, told = SLOTS, 0, b""
    with mmap.mmap(memory_fd, SIZE_BYTES) as memory:
        try:
            for piece in pieces:
                for start in range(0, len(piece), SLOT_BYTES):
                    part = piece[start : start + SLOT_BYTES]
                    if not free:
                        said = os.read(freed_fd, SLOTS)
                        if not said.endswith(b"\0"):
                            return said.lstrip(b"\0")
                        free = len(said)
                    at = slot * SLOT_BYTES
                    memory[at : at + len(part)] = part
                    told += _LENGTH.pack(len(part))
                    free, slot = free - 1, (slot + 1) % SLOTS
                    if slot % _AT_ONCE == 0:
                        os.write(lengths_fd, told)
                        told = b""
            os.write(lengths_fd, told)
        except BrokenPipeError:
            pass
    return b""


def receive(memory_fd: int, lengths_fd: int, freed_fd: int) -> Iterator[memoryview]:
    """The pieces up to the end of the pipe; each is good until the next one is asked for."""
    view = memoryview(mmap.mmap(memory_fd, SIZE_BYTES, prot=mmap.PROT_READ))
    used, slot = 0, 0
    while lengths := os.read(lengths_fd, SLOTS * _LENGTH.size):
        for (length,) in _LENGTH.iter_unpack(lengths):
            yield view[slot * SLOT_BYTES : slot * SLOT_BYTES + length]
            used, slot = used + 1, (slot + 1) % SLOTS
            if used == _AT_ONCE:
                os.write(freed_fd, bytes(used))
                used = 0
