"""Taking a blob in: received, hashed and unpacked at the same time; visible when it was verified and flushed.

What has come stays in `ingest/` whatever happens to this process, and the next one goes on from there. Order:
everything into files that nothing names, one `syncfs`, rename, flush of the directories, the row.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from registry import failpoints
from registry.client.images import place as places
from registry.client.images import records
from registry.client.images.errors import LayerRefused, full_disk_is_said
from registry.client.images.growing import Growing
from registry.client.images.place import Place
from registry.client.images.unpack.inflate import Reader
from registry.client.images.unpack.layer import Unpacked, unpack, unpack_apart
from registry.client.images.unpack.limits import Limits
from registry.content import threads
from registry.content.disk import flush_directory
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, SizeInvalid
from registry.transfer.target import Read, wrong_digest, wrong_size

LAYERS_AT_ONCE = 4
_LOCK_POLL_SECONDS = 0.05
_HASH_BYTES = 1 << 20
_APART_BYTES = 4 << 20  # a layer so large is worth a process of its own
_LAYER_TYPES = (".image.layer.", "image.rootfs.diff.tar", "image.rootfs.foreign.diff.tar")

_libc = ctypes.CDLL(None, use_errno=True)

# Told of each step of a layer: `extracting`, `complete`.
Observe = Callable[[str, Descriptor], None]


@dataclass(slots=True)
class Works:
    """What taking in needs of the store. `lock_fd` keeps removal away, and processes that outlive us share it."""

    place: Place
    lock_fd: int
    db: sqlite3.Connection
    threads: ThreadPoolExecutor
    limits: Limits
    observe: Observe


@dataclass(frozen=True, slots=True)
class _Found:
    """What a blob turned out to be; *staging* has its unpacked tree."""

    digest: Digest
    size_bytes: int
    unpacked: Unpacked | None
    staging: Path | None


def is_layer(descriptor: Descriptor) -> bool:
    """Whether this is a file system layer, which is unpacked when it comes."""
    return any(part in descriptor.media_type for part in _LAYER_TYPES)


def has(works: Works, descriptor: Descriptor) -> bool:
    """Whether the blob is here, and unpacked if it is a layer."""
    found = records.blob(works.db, descriptor.digest)
    if found is None or found[0] != descriptor.size_bytes:
        return False
    if not is_layer(descriptor):
        return True
    return found[1] is not None and records.layer(works.db, found[1]) is not None


async def take_in(works: Works, descriptor: Descriptor, read: Read) -> None:
    """Bring a blob in. Raises SizeInvalid, DigestInvalid, LayerRefused, StoreFull, and what reading raises."""
    async with _locked(works.place, descriptor.digest):
        if has(works, descriptor):
            return
        with full_disk_is_said():
            if not await _use_stored(works, descriptor):
                await _receive(works, descriptor, read)
        works.observe("complete", descriptor)


@asynccontextmanager
async def _locked(place: Place, digest: Digest) -> AsyncIterator[None]:
    """Work on a digest alone, among all processes and tasks."""
    path = place.lock(digest)
    while (fd := places.take_lock(path)) is None:  # noqa: ASYNC110 -- another process has it
        await asyncio.sleep(_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        places.drop_lock(path, fd)


async def _use_stored(works: Works, descriptor: Descriptor) -> bool:
    """Use a file that is here but has no row, as its writer died, or was not unpacked, as it came as no layer."""
    path = works.place.blob(descriptor.digest)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        source = Growing(fd, os.fstat(fd).st_size)
        source.end()
        async with _reading(works, descriptor, source) as reading:
            found = await asyncio.shield(reading)
    finally:
        os.close(fd)
    if (found.digest, found.size_bytes) != (descriptor.digest, descriptor.size_bytes):
        places.discard(works.place, path)
        _discard_staging(works, found)
        return False
    await _publish(works, descriptor, found, None)
    return True


async def _receive(works: Works, descriptor: Descriptor, read: Read) -> None:
    """Go on from what has come. That may be what is wrong, so a failure is a failure when nothing was there."""
    part = works.place.part(descriptor.digest)
    while True:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            had = os.fstat(fd).st_size
            if had > descriptor.size_bytes:
                os.ftruncate(fd, 0)
                had = 0
            failpoints.reach("ingest.begun")
            found = await _both(works, descriptor, read, fd, had)
            _compare(works, descriptor, found)
        except (LayerRefused, DigestInvalid, SizeInvalid):
            part.unlink(missing_ok=True)
            if not had:
                raise
            continue
        finally:
            os.close(fd)
        await _publish(works, descriptor, found, part)
        return


def _compare(works: Works, descriptor: Descriptor, found: _Found) -> None:
    if (found.digest, found.size_bytes) == (descriptor.digest, descriptor.size_bytes):
        return
    _discard_staging(works, found)
    if found.size_bytes != descriptor.size_bytes:
        raise wrong_size(descriptor, found.size_bytes)
    raise wrong_digest(descriptor, found.digest)


async def _both(works: Works, descriptor: Descriptor, read: Read, fd: int, had: int) -> _Found:
    """Receive into the open file and read it in a thread; when either fails, the other ends."""
    source = Growing(fd, had)
    async with _reading(works, descriptor, source) as reading:
        if had < descriptor.size_bytes:
            async with aclosing(read(had)) as pieces:
                async for piece in pieces:
                    _append(fd, piece)
                    source.advance(len(piece))
                    had += len(piece)
                    if reading.done() or had > descriptor.size_bytes:
                        break
        if had > descriptor.size_bytes:
            raise wrong_size(descriptor, had, "at least ")
        source.end()
        failpoints.reach("ingest.received")
        works.observe("extracting", descriptor)
        return await asyncio.shield(reading)


def _discard_staging(works: Works, found: _Found) -> None:
    if found.staging is not None:
        places.discard(works.place, found.staging)


def _append(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    os.lseek(fd, 0, os.SEEK_END)
    while view:
        view = view[os.write(fd, view) :]


@asynccontextmanager
async def _reading(works: Works, descriptor: Descriptor, source: Growing) -> AsyncIterator[asyncio.Future[_Found]]:
    """`_digest_of` in a thread. When the context fails, it ends too; nothing stays, and nobody reads *source*."""
    reading = asyncio.get_running_loop().run_in_executor(works.threads, _digest_of, works, descriptor, source)
    try:
        yield reading
    except BaseException as error:
        source.fail(error if isinstance(error, Exception) else ConnectionAbortedError("interrupted"))
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await threads.to_its_end(reading)
        if not reading.cancelled() and reading.exception() is None:
            _discard_staging(works, reading.result())
        raise


def _digest_of(works: Works, descriptor: Descriptor, source: Reader) -> _Found:
    """Read all of a blob; a layer is unpacked into a new staging directory on the way."""
    algorithm = descriptor.digest.algorithm
    if is_layer(descriptor):
        staging = works.place.sub("staging") / f"{os.getpid()}-{os.urandom(8).hex()}"
        (staging / "root").mkdir(parents=True, mode=0o700)
        try:
            if descriptor.size_bytes < _APART_BYTES:
                done = unpack(source, staging / "root", works.limits, algorithm)
            else:
                done = unpack_apart(source, staging / "root", works.limits, algorithm, [works.lock_fd])
        except BaseException:
            places.discard(works.place, staging)
            raise
        return _Found(done.digest, done.size_bytes, done, staging)
    running, size_bytes = hashlib.new(algorithm), 0
    while data := source.read(_HASH_BYTES):
        running.update(data)
        size_bytes += len(data)
    return _Found(Digest(f"{algorithm}:{running.hexdigest()}"), size_bytes, None, None)


async def _publish(works: Works, descriptor: Descriptor, found: _Found, part: Path | None) -> None:
    failpoints.reach("ingest.unpacked")
    naming = asyncio.get_running_loop().run_in_executor(
        works.threads, _give_names, works.place, descriptor, found, part
    )
    await threads.to_its_end(naming)  # begun or not, it is done when somebody interrupts us: nothing lies about
    with records.writing(works.db):
        diff_id = found.unpacked.diff_id if found.unpacked else None
        if found.unpacked is not None and diff_id is not None:
            records.add_layer(works.db, diff_id, _link_name(diff_id), found.unpacked.files_bytes)
        records.add_blob(works.db, descriptor.digest, descriptor.size_bytes, diff_id)
    failpoints.reach("ingest.recorded")


def _give_names(place: Place, descriptor: Descriptor, found: _Found, part: Path | None) -> None:
    flush_all(place.root)
    failpoints.reach("ingest.flushed")
    if part is not None:
        final = place.blob(descriptor.digest)
        final.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(part, final)
        flush_directory(final.parent)
        failpoints.reach("ingest.blob-renamed")
    if found.unpacked is not None and found.staging is not None:
        _publish_layer(place, found.unpacked.diff_id, found.staging)
        failpoints.reach("ingest.layer-renamed")


def _publish_layer(place: Place, diff_id: Digest, staging: Path) -> None:
    """Name a flushed layer. One of the same diff id that is there was verified and flushed just so."""
    try:
        os.rename(staging / "root", place.layer(diff_id))
    except OSError:
        if not place.layer(diff_id).is_dir():
            raise
    places.discard(place, staging)
    with contextlib.suppress(FileExistsError):
        os.symlink(f"../layers/{diff_id.encoded}", place.link(_link_name(diff_id)))
    flush_directory(place.sub("layers"))
    flush_directory(place.sub("l"))


def _link_name(diff_id: Digest) -> str:
    """26 characters instead of 64; they come from the diff id, so that everybody makes the same link."""
    return base64.b32encode(bytes.fromhex(diff_id.encoded)[:16]).decode().rstrip("=")


def flush_all(path: Path) -> None:
    """Flush the file system that *path* is on: one call instead of one for each of 50,000 files."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "the file system cannot be flushed")
    finally:
        os.close(fd)
