"""Is what the registry has what it says? Reads bytes and compares them with their digest; changes nothing."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from registry.content.store import BlobStore, Copy
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import ContentMissing, NameUnknown
from registry.oci.reference import Repository
from registry.server.index import damage, inventory, names
from registry.server.index.candidates import BYTES
from registry.server.index.engine import Index
from registry.server.index.inventory import Entry, Record
from registry.server.service.pace import Flow

_PAGE = 200
_PIECE_BYTES = 256 << 10
# What a medium says of bytes that it cannot give back. None: a file that ends before its end.
_UNREADABLE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, None}


class Problem(StrEnum):
    """What is wrong with a digest."""

    MISSING = "missing"  # the store has no bytes
    LENGTH = "wrong length"
    BYTES = "wrong bytes"
    INDEX = "wrong in the index"  # a manifest's bytes there; those of the store are right
    RECORD = "no record"  # the bytes are right, and the index does not know of them


@dataclass(frozen=True, slots=True)
class Finding:
    """A digest that something is wrong with.

    `copy` is what the store has of it; `payload` are its right bytes, when it is a manifest that the index has.
    When it is not recorded, clients are told already that it is not here.
    """

    digest: Digest
    size_bytes: int
    problem: Problem
    copy: Copy | None = None
    payload: bytes | None = None
    is_recorded: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """A repository that has a digest, and its tags that cannot be pulled without it."""

    repository: str
    tags: Sequence[str] = field(default_factory=tuple)


class Examiner:
    """Looks at digests, one after the other, at most *bytes_per_second* (0: as fast as can be)."""

    def __init__(self, index: Index, store: BlobStore, bytes_per_second: float = 0.0, quick: bool = False) -> None:
        self._index = index
        self._store = store
        self._flow = Flow(bytes_per_second)
        self._quick = quick
        self.read_bytes = 0

    async def everything(self, after: str = "") -> AsyncIterator[list[Record]]:
        """Pages of all digests with bytes or in need of them; those with a record first, in order after one."""
        last = Entry(BYTES, Digest(after), False) if after else None
        while entries := await self._index.read(inventory.records, last, _PAGE):
            yield [Record(each.digest, each.size_bytes) for each in entries]
            last = entries[-1]
        end = ""
        while True:
            found, end = await self._index.read(inventory.lost, end, _PAGE)
            yield found
            if not end:
                return

    async def of(self, repository: Repository) -> AsyncIterator[list[Record]]:
        """Every digest that a repository has. Raises NameUnknown."""
        if await self._index.read(names.find, repository) is None:
            raise NameUnknown(repository)
        after = ""
        while found := await self._index.read(inventory.held, repository, after, _PAGE):
            yield found
            after = found[-1].digest

    async def examine(self, record: Record) -> Finding | None:
        """What is wrong with a digest; None when nothing is or nobody has it. Raises Unavailable, OSError."""
        payloads = await self._index.read(inventory.payloads, record.digest)
        right = [data for _, data in payloads if Digest.of(data, record.digest.algorithm) == record.digest]
        finding = await self._examine_bytes(record, right[0] if right else None)
        if finding is None and len(right) < len(payloads):
            finding = Finding(record.digest, record.size_bytes or 0, Problem.INDEX)
        if finding is None or await self._is_gone(record):
            return None
        if record.size_bytes is not None:
            return finding
        size_bytes = finding.size_bytes or await self._index.read(damage.size, record.digest)
        return replace(finding, size_bytes=size_bytes, is_recorded=False)

    async def _examine_bytes(self, record: Record, payload: bytes | None) -> Finding | None:
        copy = await self._store.copy_of(record.digest)
        expected = record.size_bytes or 0
        if copy is None:
            return Finding(record.digest, expected, Problem.MISSING, None, payload)
        wrong_length = record.size_bytes is not None and copy.size_bytes != expected
        if self._quick and record.size_bytes is not None:
            return Finding(record.digest, expected, Problem.LENGTH, copy, payload) if wrong_length else None
        # Read twice before anybody is told: what came wrong may have become so on its way here.
        if not await self._is_right(record.digest):
            copy = await self._store.copy_of(record.digest)  # before it is read: this is the copy that is wrong
            if copy is None:
                return Finding(record.digest, expected, Problem.MISSING, None, payload)
            if not await self._is_right(record.digest):
                problem = Problem.LENGTH if wrong_length else Problem.BYTES
                return Finding(record.digest, expected or copy.size_bytes, problem, copy, payload)
        if record.size_bytes is None or wrong_length:
            return Finding(record.digest, copy.size_bytes, Problem.RECORD, copy)
        return None

    async def _is_right(self, digest: Digest) -> bool:
        """Whether the store's bytes have their digest."""
        hasher = Hasher(digest.algorithm)
        try:
            blob = await self._store.open(digest)
        except (ContentMissing, ValueError):  # not there, or a link that leads nowhere
            return False
        try:
            async for piece in blob.pieces(0, blob.size_bytes, _PIECE_BYTES):
                hasher.update(bytes(piece))
                self.read_bytes += len(piece)
                await self._flow.spend(len(piece))
        except ContentMissing:
            return False
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return False
        finally:
            blob.close()
        return hasher.digest() == digest

    async def _is_gone(self, record: Record) -> bool:
        """Whether nobody has it (any more): it was deleted meanwhile, or waits for that."""
        return not await self._index.read(inventory.holders, record.digest)

    async def places(self, digest: Digest) -> list[Place]:
        """Which repositories and tags suffer."""
        found = await self._index.read(inventory.holders, digest)
        return [
            Place(name, await self._index.read(inventory.affected_tags, Repository(name), digest))
            for name in found
        ]
