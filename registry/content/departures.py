"""Bytes out of a content store, into a directory of any form: linked where that can be, else copied and hashed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from registry.content import disk, placing, streaming, threads
from registry.content.files import FileStore
from registry.content.placing import Care, How
from registry.content.store import BlobStore
from registry.oci.digest import Digest, Hasher
from registry.oci.errors import DigestInvalid

R = TypeVar("R")


class Departures:
    """Writes below *root*, which others shall be able to read; *pool* has the threads that do."""

    def __init__(self, store: BlobStore, root: Path, care: Care, pool: Executor) -> None:
        self._store = store
        self._root = root
        self._care = care
        self._pool = pool
        disk.make_directory(root, 0o755)

    def path(self, path: str) -> Path:
        """Where a file of the tree lies."""
        return self._root / path

    async def blob(self, digest: Digest, size_bytes: int, path: str) -> How:
        """See that *path* has a blob's bytes. Safe to repeat. Raises ContentMissing, DigestInvalid."""
        final = self._root / path
        if await self._run(_size, final) == size_bytes:
            return How.PRESENT
        await self._run(disk.make_directory, final.parent, 0o755)
        if isinstance(self._store, FileStore):
            with contextlib.suppress(FileNotFoundError):
                source = self._store.path(digest)
                return await self._run(
                    placing.place, source, final, digest, size_bytes, self._temporary, self._care
                )
        with self._temporary() as (fd, temporary):
            hasher = Hasher(digest.algorithm)
            async for piece in streaming.of_blob(self._store, digest):
                hasher.update(piece)
                await self._run(disk.write_all, fd, [piece])
            if hasher.digest() != digest:
                raise DigestInvalid(f"the store has other bytes under {digest}", {"digest": digest})
            await self._run(os.fsync, fd)
            await self._run(disk.publish, temporary, final)
        return How.COPIED

    async def text(self, path: str, data: bytes) -> bool:
        """See that *path* is a file with these bytes; False when it was that already."""
        final = self._root / path

        def write() -> bool:
            disk.make_directory(final.parent, 0o755)
            return placing.write_text(data, final, self._temporary)

        return await self._run(write)

    async def _run(self, step: Callable[..., R], *args: object) -> R:
        return await threads.run(self._pool, step, *args)

    def _temporary(self) -> AbstractContextManager[tuple[int, Path]]:
        return disk.temporary(self._root / f".{secrets.token_hex(16)}.tmp", 0o644)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
