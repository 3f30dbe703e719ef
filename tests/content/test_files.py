"""The directory store: the contract, and what only a directory can do wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.content import disk
from registry.content.files import FileStore
from registry.content.store import Progress
from registry.oci.digest import ALGORITHMS, Digest
from registry.oci.errors import BlobUploadUnknown, DigestInvalid, StorageFull, UploadBusy
from tests.content.contract import (
    NOTHING,
    BlobStoreContract,
    MakeStore,
    committed,
    is_whole,
    listed,
    new_session,
    opened_content,
    parked,
    unique,
)

pytestmark = pytest.mark.anyio


class TestContract(BlobStoreContract):
    @pytest.fixture
    def make_store(self, directory: Path) -> Iterator[MakeStore]:
        stores: list[FileStore] = []

        def make() -> FileStore:
            stores.append(FileStore(directory, threads=4))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(directory: Path) -> Iterator[FileStore]:
    made = FileStore(directory, threads=4)
    yield made
    made.close()


class Gate:
    """A function whose callers wait until the gate is opened, as on a disk that is slow."""

    def __init__(self, function: Callable[..., Any], concerns: Callable[..., bool] = lambda *_: True) -> None:
        self._function = function
        self._concerns = concerns
        self._entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._concerns(*args):
            self._entered.set()
            assert self._opened.wait(30)
        return self._function(*args, **kwargs)

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 30)

    def open(self) -> None:
        self._opened.set()


def open_files(path: Path) -> list[int]:
    """The numbers under which this process has *path*, or something below it, open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that listed them
            continue
        if target.startswith(str(path)):
            found.append(int(number))
    return found


async def turns(count: int = 5) -> None:
    """Let every other task go on for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


def failing(error: int) -> Callable[..., Any]:
    def fail(*args: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


FULL = pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT], ids=["no space", "over quota"])


class TestLayout:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_a_blob_lies_under_the_first_two_digits_of_its_digest(
        self, store: FileStore, directory: Path, algorithm: str
    ) -> None:
        data = unique()
        digest = Digest.of(data, algorithm)
        await store.put(digest, [data])
        assert (directory / "blobs" / algorithm / digest.encoded[:2] / digest.encoded).read_bytes() == data

    async def test_neither_a_finished_nor_a_refused_blob_leaves_anything_else(
        self, store: FileStore, directory: Path
    ) -> None:
        data = unique()
        await store.put(Digest.of(data), [data])
        await committed(store, new_session(), NOTHING, Digest.of(data), data)
        with pytest.raises(DigestInvalid):
            await store.put(Digest.of(data), [b"other"])
        assert list((directory / "uploads").iterdir()) == []
        assert [path.name for path in directory.rglob("*") if path.is_file()] == [Digest.of(data).encoded]

    async def test_what_others_put_beside_the_blobs_is_no_blob(self, store: FileStore, directory: Path) -> None:
        data = unique()
        await store.put(Digest.of(data), [data])
        for stranger in ("lost+found", "sha256/.snapshot", "sha256/README", "sha256/aa/README", "md5/aa/aabb"):
            path = directory / "blobs" / stranger
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if "lost" in stranger else path.write_bytes(b"x")
        assert await listed(store.digests()) == {Digest.of(data)}

    async def test_directories_that_went_missing_come_back(self, store: FileStore, directory: Path) -> None:
        data = unique()
        digest = Digest.of(data)
        await store.put(digest, [data])
        await store.delete(digest)
        store.path(digest).parent.rmdir()
        await store.delete(digest)
        assert await committed(store, new_session(), NOTHING, digest, data) == len(data)
        assert await is_whole(store, digest, data)

    async def test_a_blob_that_was_cut_short_by_others_is_an_error_and_no_end(self, store: FileStore) -> None:
        data = unique()
        await store.put(Digest.of(data), [data])
        blob = await store.open(Digest.of(data))
        os.truncate(store.path(Digest.of(data)), 500)
        with pytest.raises(OSError, match="ends at byte 500"):
            [piece async for piece in blob.pieces(0, blob.size_bytes, 400)]
        blob.close()


class TestTemporaries:
    async def test_only_temporaries_that_are_old_are_swept_away(self, store: FileStore, directory: Path) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        old, new = (directory / "uploads" / name for name in ("0" * 32 + ".tmp", "1" * 32 + ".tmp"))
        for path in (old, new):
            path.write_bytes(b"left by a killed request")
        moment = time.time()
        for path in (old, directory / "uploads" / session):
            os.utime(path, (moment - 100, moment - 100))
        await store.remove_stale_temporaries(moment - 50)
        assert not old.exists()
        assert new.exists()
        assert await committed(store, session, progress, Digest.of(data)) == len(data)

    async def test_a_temporary_is_no_upload(self, store: FileStore, directory: Path) -> None:
        (directory / "uploads" / ("0" * 32 + ".tmp")).write_bytes(b"x")
        assert await listed(store.sessions()) == set()

    async def test_a_temporary_that_goes_away_during_the_sweep_is_no_error(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "listdir", lambda path: ["gone.tmp"])
        await store.remove_stale_temporaries(time.time())

    async def test_a_put_that_is_cancelled_leaves_no_temporary(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(disk.write_all)
        monkeypatch.setattr(disk, "write_all", gate)
        data = unique()
        putting = asyncio.create_task(store.put(Digest.of(data), [data]))
        await gate.entered()
        putting.cancel()
        await turns()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert list((directory / "uploads").iterdir()) == []
        assert open_files(directory) == []


class TestFullDisk:
    @FULL
    async def test_an_append_that_finds_no_space_says_so_and_can_be_taken_back(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch, full: int
    ) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        writev = os.writev
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            with monkeypatch.context() as patch:
                patch.setattr(os, "writev", lambda fd, pieces: writev(fd, [pieces[0][:10]]))
                patch.setattr(os, "write", failing(full))
                with pytest.raises(StorageFull):
                    await upload.append([bytes(100_000)])
            assert (directory / "uploads" / session).stat().st_size == len(data) + 10
            await upload.revert()
            assert (directory / "uploads" / session).stat().st_size == len(data)
            await upload.append([b"!"])
            assert await upload.commit(Digest.of(data + b"!")) == len(data) + 1
        assert await is_whole(store, Digest.of(data + b"!"), data + b"!")

    async def test_a_write_that_stops_short_is_gone_on_with(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = unique(5000)
        writev, write = os.writev, os.write
        monkeypatch.setattr(os, "writev", lambda fd, pieces: writev(fd, [b"".join(pieces)[:70]]))
        monkeypatch.setattr(os, "write", lambda fd, piece: write(fd, piece[:999]))
        await committed(store, new_session(), NOTHING, Digest.of(data), data[:100], data[100:])
        assert await is_whole(store, Digest.of(data), data)

    @FULL
    async def test_a_flush_that_finds_no_space_says_so(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch, full: int
    ) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", failing(full))
                patch.setattr(os, "fsync", failing(full))
                with pytest.raises(StorageFull):
                    await upload.park()
                with pytest.raises(StorageFull):
                    await upload.commit(Digest.of(data))
            assert not await is_whole(store, Digest.of(data), data)
            assert await upload.commit(Digest.of(data)) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    @FULL
    @pytest.mark.parametrize("step", ["open", "writev", "fsync", "rename"])
    async def test_a_put_that_finds_no_space_says_so_and_leaves_nothing(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch, full: int, step: str
    ) -> None:
        data = unique()
        with monkeypatch.context() as patch:
            patch.setattr(os, step, failing(full))
            with pytest.raises(StorageFull):
                await store.put(Digest.of(data), [data])
        assert list((directory / "uploads").iterdir()) == []
        assert open_files(directory) == []
        assert not await is_whole(store, Digest.of(data), data)

    async def test_a_hold_without_space_for_a_name_says_so(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing(errno.ENOSPC))
            with pytest.raises(StorageFull):
                async with store.upload(new_session()):
                    pass

    async def test_the_check_says_what_a_write_would_say(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", failing(errno.ENOSPC))
            with pytest.raises(StorageFull):
                await store.check()
        assert list((directory / "uploads").iterdir()) == []
        (directory / "uploads").rmdir()
        with pytest.raises(FileNotFoundError):
            await store.check()

    async def test_a_commit_whose_last_flush_failed_can_be_taken_back_without_harm_and_repeated(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The blob has its name, but nobody was told: it may be another's as well by now."""
        session, data = new_session(), unique()
        progress = await parked(store, session, data[:500])
        store.path(Digest.of(data)).parent.mkdir()
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            await upload.append([data[500:]])
            with monkeypatch.context() as patch:
                patch.setattr(disk, "flush_directory", failing(errno.EIO))
                with pytest.raises(OSError, match="Input/output"):
                    await upload.commit(Digest.of(data))
            await upload.revert()
        assert store.path(Digest.of(data)).read_bytes() == data
        assert await committed(store, session, progress, Digest.of(data), data[500:]) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    async def test_a_commit_that_could_not_rename_leaves_the_upload(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data[:500])
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            await upload.append([data[500:]])
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", failing(errno.EIO))
                with pytest.raises(OSError, match="Input/output"):
                    await upload.commit(Digest.of(data))
            await upload.revert()
        assert not await is_whole(store, Digest.of(data), data)
        assert await committed(store, session, progress, Digest.of(data), data[500:]) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    async def test_a_repeated_commit_flushes_what_the_first_one_may_not_have_flushed(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        await committed(store, session, progress, Digest.of(data))
        flushed: list[Path] = []
        flush = disk.flush_directory

        def note(path: Path) -> None:
            flushed.append(path)
            flush(path)

        monkeypatch.setattr(disk, "flush_directory", note)
        await committed(store, session, progress, Digest.of(data))
        assert store.path(Digest.of(data)).parent in flushed


class TestOpenFiles:
    async def test_no_operation_leaves_a_file_open(self, store: FileStore, directory: Path) -> None:
        data, session = unique(), new_session()
        digest = Digest.of(data)
        for _ in range(3):
            await store.put(digest, [data])
            await opened_content(store, digest)
            await store.read(digest)
            await store.check()
            progress = await parked(store, session, data)
            await committed(store, session, progress, digest)
            await committed(store, session, progress, digest)
            await committed(store, session, progress, Digest.of(data))
            with pytest.raises(BlobUploadUnknown):
                await committed(store, session, progress, Digest.of(b"x"))
            with pytest.raises(DigestInvalid):
                await committed(store, new_session(), NOTHING, digest, b"x")
            with pytest.raises(ValueError, match="hash state"):
                await committed(store, session, Progress(5, b"damaged"), digest)
            await store.discard(session, progress)
            await store.delete(digest)
            with pytest.raises(FileNotFoundError):
                os.stat(store.path(digest))
        assert open_files(directory) == []

    async def test_waiting_in_vain_for_another_holder_leaves_none_either(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry.content.files._BUSY_WAIT_SECONDS", (0.001, 0.001))
        session = new_session()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            for _ in range(5):
                with pytest.raises(UploadBusy):
                    async with store.upload(session):
                        pass
            assert len(open_files(directory)) == 1
        assert open_files(directory) == []

    @pytest.mark.parametrize("what", ["a hold", "a blob"])
    async def test_who_is_cancelled_while_a_file_is_opened_leaves_it_closed(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        session, data = new_session(), unique()
        await store.put(Digest.of(data), [data])
        gate = Gate(os.open, lambda path, *_: str(path).endswith((session, Digest.of(data).encoded)))
        monkeypatch.setattr(os, "open", gate)

        async def hold() -> None:
            async with store.upload(session):
                raise AssertionError("it was cancelled before")

        opening: asyncio.Task[Any] = asyncio.create_task(hold() if what == "a hold" else self._open(store, data))
        await gate.entered()
        opening.cancel()
        await turns()
        opening.cancel()
        await turns()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert open_files(directory) == []
        async with store.upload(session) as upload:  # and nobody has its lock
            await upload.begin(NOTHING, "sha256")

    @staticmethod
    async def _open(store: FileStore, data: bytes) -> None:
        await store.open(Digest.of(data))

    async def test_who_is_cancelled_while_an_unused_upload_is_removed_leaves_it_closed(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = new_session()
        gate = Gate(disk.remove_if_empty)
        monkeypatch.setattr(disk, "remove_if_empty", gate)

        async def hold() -> None:
            async with store.upload(session):
                pass

        holding = asyncio.create_task(hold())
        await gate.entered()
        holding.cancel()
        await turns()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await holding
        assert open_files(directory) == []

    @pytest.mark.parametrize("step", ["append", "park", "commit"])
    async def test_a_cancelled_step_keeps_the_file_open_until_its_thread_is_done_with_it(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        where, name = {
            "append": (disk, "write_all"),
            "park": (os, "fdatasync"),
            "commit": (os, "fsync"),
        }[step]
        gate = Gate(getattr(where, name))
        monkeypatch.setattr(where, name, gate)
        session, data = new_session(), unique()
        path = directory / "uploads" / session

        async def push() -> None:
            async with store.upload(session) as upload:
                await upload.begin(NOTHING, "sha256")
                await upload.append([data])
                await upload.park()
                await upload.commit(Digest.of(data))

        pushing = asyncio.create_task(push())
        await gate.entered()
        for _ in range(4):
            pushing.cancel()
            await turns()
            assert not pushing.done()
            assert open_files(path)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await pushing
        assert open_files(directory) == []
        if step != "commit":
            assert path.read_bytes() == data
            await committed(store, session, NOTHING, Digest.of(data), data)
        assert await is_whole(store, Digest.of(data), data)

    async def test_not_even_who_leaves_the_hold_closes_a_file_that_a_thread_writes(
        self, store: FileStore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A step runs in a task of its own, and the one that waited for it was cancelled twice."""
        gate = Gate(disk.write_all)
        monkeypatch.setattr(disk, "write_all", gate)
        session, data = new_session(), unique()
        path = directory / "uploads" / session
        hold = store.upload(session)
        upload = await hold.__aenter__()
        await upload.begin(NOTHING, "sha256")
        writing = asyncio.create_task(upload.append([data]))
        await gate.entered()
        leaving = asyncio.create_task(asyncio.to_thread(upload.close))
        await turns()
        assert open_files(path)
        gate.open()
        await asyncio.gather(writing, leaving)
        assert open_files(path) == []
        assert path.read_bytes() == data
        with pytest.raises(OSError, match="Bad file descriptor"):
            await upload.append([b"too late"])
        with pytest.raises(OSError, match="Bad file descriptor"):
            await hold.__aexit__(None, None, None)

    async def test_closing_the_store_waits_for_the_disk(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = FileStore(directory, threads=2)
        gate = Gate(disk.write_all)
        monkeypatch.setattr(disk, "write_all", gate)
        data = unique()
        putting = asyncio.create_task(store.put(Digest.of(data), [data]))
        await gate.entered()
        closing = asyncio.create_task(asyncio.to_thread(store.close))
        await turns()
        assert not closing.done()
        gate.open()
        await asyncio.gather(closing, putting)
        assert store.path(Digest.of(data)).read_bytes() == data


HOLD_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from registry.content.files import FileStore
from registry.content.store import Progress

async def hold(directory, session):
    async with FileStore(Path(directory)).upload(session) as upload:
        await upload.begin(Progress(), "sha256")
        await upload.append([b"recorded " * 1000])
        print((await upload.park()).hash_state.hex(), flush=True)
        await upload.append([b"lost " * 1000])
        print("holding", flush=True)
        sys.stdin.read()

asyncio.run(hold(*sys.argv[1:]))
"""


@pytest.fixture
def holder(directory: Path) -> Iterator[tuple[str, Progress, subprocess.Popen[str]]]:
    """Another process that holds an upload, has parked 9,000 bytes of it, and has written more."""
    session = new_session()
    command = [sys.executable, "-c", HOLD_UNTIL_KILLED, str(directory), session]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        state = bytes.fromhex(process.stdout.readline())
        assert process.stdout.readline() == "holding\n"
        yield session, Progress(9000, state), process
        process.kill()


class TestOtherProcesses:
    async def test_a_process_that_is_killed_lets_go_and_another_goes_on(
        self,
        store: FileStore,
        holder: tuple[str, Progress, subprocess.Popen[str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        session, progress, process = holder
        with monkeypatch.context() as patch:
            patch.setattr("registry.content.files._BUSY_WAIT_SECONDS", (0.001,))
            with pytest.raises(UploadBusy):
                async with store.upload(session):
                    pass
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        data = b"recorded " * 1000 + b"and the rest"
        assert await committed(store, session, progress, Digest.of(data), b"and the rest") == len(data)
        assert await is_whole(store, Digest.of(data), data)
