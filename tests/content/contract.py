"""What every content store promises: the docstrings of registry/content/store.py, as tests.

An implementation joins with one fixture (see test_files.py):

    class TestMyStore(BlobStoreContract):
        @pytest.fixture
        def make_store(self) -> Iterator[MakeStore]:
            # Each call gives a store object of its own over the same bytes, as another process has it.
            ...
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from registry.content.store import Blob, BlobStore, Progress, Upload
from registry.oci.digest import ALGORITHMS, Digest
from registry.oci.errors import BlobUploadUnknown, ContentMissing, DigestInvalid, RegistryError, UploadBusy

MakeStore = Callable[[], BlobStore]

NOTHING = Progress()
PIECE_BYTES = 100
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def unique(size_bytes: int = 1000) -> bytes:
    """Bytes that no other test has stored."""
    return os.urandom(16) + bytes(max(0, size_bytes - 16))


def split(data: bytes, piece_bytes: int = PIECE_BYTES) -> list[bytes]:
    return [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]


def new_session() -> str:
    return str(uuid.uuid4())


async def listed(names: AsyncIterator[str]) -> set[str]:
    return {name async for name in names}


async def content(blob: Blob, start: int = 0, end: int | None = None, piece_bytes: int = 10_007) -> bytes:
    """What a blob gives for a range, each piece held to the contract."""
    whole = b""
    async for piece in blob.pieces(start, blob.size_bytes if end is None else end, piece_bytes):
        assert len(piece) <= piece_bytes
        whole += piece
    return whole


async def opened_content(store: BlobStore, digest: Digest) -> bytes:
    blob = await store.open(digest)
    try:
        return await content(blob)
    finally:
        blob.close()


async def is_whole(store: BlobStore, digest: Digest, data: bytes) -> bool:
    """Whether a blob is there, with the right bytes whichever way they are asked for; else nothing of it is."""
    size_bytes = await store.size(digest)
    if size_bytes is None:
        for ask in (store.open, store.read):
            with pytest.raises(ContentMissing):
                await ask(digest)
        assert digest not in await listed(store.digests())
        return False
    assert size_bytes == len(data)
    assert await store.read(digest) == data
    assert await opened_content(store, digest) == data
    assert digest in await listed(store.digests())
    return True


async def parked(store: BlobStore, session: str, *pieces: bytes, since: Progress = NOTHING) -> Progress:
    """One request that appends *pieces*, and where the next one goes on."""
    async with store.upload(session) as upload:
        await upload.begin(since, "sha256")
        await upload.append(pieces)
        return await upload.park()


async def committed(store: BlobStore, session: str, since: Progress, digest: Digest, *pieces: bytes) -> int:
    """One request that appends *pieces* and commits."""
    async with store.upload(session) as upload:
        await upload.begin(since, digest.algorithm)
        await upload.append(pieces)
        return await upload.commit(digest)


@pytest.mark.anyio
class BlobStoreContract:
    """The suite."""

    examples = 60  # of lives of an upload; fewer for a store whose steps take long

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def make_store(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def store(self, make_store: MakeStore) -> BlobStore:
        return make_store()

    @pytest.fixture
    def elsewhere(self, make_store: MakeStore) -> BlobStore:
        """The same bytes as another process sees them."""
        return make_store()

    # --- whole blobs

    @every_algorithm
    @pytest.mark.parametrize("size_bytes", [16, 17, 5_000, 200_000])
    async def test_what_was_put_is_there_for_everybody(
        self, store: BlobStore, elsewhere: BlobStore, algorithm: str, size_bytes: int
    ) -> None:
        data = unique(size_bytes)
        digest = Digest.of(data, algorithm)
        assert not await is_whole(elsewhere, digest, data)
        await store.put(digest, split(data))
        assert await is_whole(store, digest, data)
        assert await is_whole(elsewhere, digest, data)

    @every_algorithm
    async def test_a_blob_may_be_empty(self, store: BlobStore, algorithm: str) -> None:
        digest = Digest.of(b"", algorithm)
        await store.put(digest, [])
        assert await is_whole(store, digest, b"")
        await store.put(digest, [b"", b""])
        assert await is_whole(store, digest, b"")

    async def test_a_blob_may_come_in_thousands_of_pieces_some_of_them_empty(self, store: BlobStore) -> None:
        data = unique(5_000)
        await store.put(Digest.of(data), [part for byte in data for part in (bytes([byte]), b"")])
        assert await is_whole(store, Digest.of(data), data)

    async def test_the_same_bytes_under_two_algorithms_are_two_blobs(self, store: BlobStore) -> None:
        data = unique()
        one, other = (Digest.of(data, algorithm) for algorithm in ALGORITHMS)
        await store.put(one, [data])
        assert await store.size(other) is None
        await store.put(other, [data])
        await store.delete(one)
        assert await is_whole(store, other, data)

    async def test_putting_twice_is_putting_once(self, store: BlobStore, elsewhere: BlobStore) -> None:
        data = unique()
        await store.put(Digest.of(data), [data])
        await elsewhere.put(Digest.of(data), [data])
        assert await is_whole(store, Digest.of(data), data)
        assert [name async for name in store.digests()].count(Digest.of(data)) == 1

    async def test_many_who_put_the_same_at_once_all_succeed(self, store: BlobStore, elsewhere: BlobStore) -> None:
        data = unique(50_000)
        digest = Digest.of(data)
        async with asyncio.TaskGroup() as group:
            for place in range(12):
                group.create_task((elsewhere if place % 2 else store).put(digest, split(data, 1 + 7_000 * place)))
        assert await is_whole(store, digest, data)

    @every_algorithm
    async def test_bytes_that_are_not_what_the_digest_says_are_refused(
        self, store: BlobStore, algorithm: str
    ) -> None:
        data = unique()
        digest = Digest.of(data, algorithm)
        for wrong in ([], [data, b"x"], [data[:-1]], [data[1:]]):
            with pytest.raises(DigestInvalid):
                await store.put(digest, wrong)
        assert not await is_whole(store, digest, data)
        await store.put(digest, [data])
        with pytest.raises(DigestInvalid):
            await store.put(digest, [data, b"x"])
        assert await is_whole(store, digest, data)

    async def test_a_deleted_blob_is_gone_for_everybody_and_the_others_stay(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        gone, stays = unique(), unique()
        for data in (gone, stays):
            await store.put(Digest.of(data), [data])
        await elsewhere.delete(Digest.of(gone))
        assert not await is_whole(store, Digest.of(gone), gone)
        assert await is_whole(store, Digest.of(stays), stays)

    async def test_deleting_may_be_repeated_and_undone_by_putting_again(self, store: BlobStore) -> None:
        data = unique()
        digest = Digest.of(data)
        await store.delete(digest)
        await store.put(digest, [data])
        await store.delete(digest)
        await store.delete(digest)
        assert not await is_whole(store, digest, data)
        await store.put(digest, [data])
        assert await is_whole(store, digest, data)

    @pytest.mark.parametrize("size_bytes", [16, 70_000])
    async def test_a_blob_that_is_taken_away_is_gone_at_once_and_can_be_put_again(
        self, store: BlobStore, elsewhere: BlobStore, size_bytes: int
    ) -> None:
        gone, stays = unique(size_bytes), unique(size_bytes)
        digest = Digest.of(gone)
        for data in (gone, stays):
            await committed(store, new_session(), NOTHING, Digest.of(data), data)
        for _ in range(2):
            assert await asyncio.to_thread(elsewhere.has, digest)
            assert await is_whole(store, digest, gone)
            await asyncio.to_thread(elsewhere.take_away, digest)
            await asyncio.to_thread(elsewhere.take_away, digest)
            assert not await asyncio.to_thread(store.has, digest)
            await elsewhere.free()
            await elsewhere.free()
            assert not await is_whole(store, digest, gone)
            await store.put(digest, [gone])
        await asyncio.to_thread(elsewhere.take_away, digest)
        await store.put(digest, [gone])
        await elsewhere.free()
        assert await is_whole(store, digest, gone)
        assert await is_whole(store, Digest.of(stays), stays)

    @pytest.mark.parametrize("size_bytes", [16, 70_000])
    async def test_a_hold_whose_blob_was_taken_away_publishes_it_again_or_says_that_it_cannot(
        self, store: BlobStore, elsewhere: BlobStore, size_bytes: int
    ) -> None:
        data = unique(size_bytes)
        digest = Digest.of(data)
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            await upload.commit(digest)
            await asyncio.to_thread(elsewhere.take_away, digest)
            await elsewhere.free()
            try:
                assert await upload.commit(digest) == size_bytes
            except BlobUploadUnknown:
                assert not await is_whole(store, digest, data)
            else:
                assert await is_whole(elsewhere, digest, data)

    async def test_every_blob_is_listed_once_and_uploads_are_not(self, store: BlobStore) -> None:
        assert await listed(store.digests()) == set()
        expected = set()
        for algorithm in ALGORITHMS:
            for _ in range(5):
                data = unique()
                expected.add(Digest.of(data, algorithm))
                await store.put(Digest.of(data, algorithm), [data])
        await parked(store, new_session(), unique())
        found = [digest async for digest in store.digests()]
        assert len(found) == len(expected)
        assert set(found) == expected
        assert all(isinstance(digest, Digest) for digest in found)

    async def test_a_store_that_works_passes_its_check_and_is_as_before(self, store: BlobStore) -> None:
        await store.check()
        assert await listed(store.digests()) == set()
        assert await listed(store.sessions()) == set()

    # --- reading

    @pytest.mark.parametrize("piece_bytes", [1, 7, 999, 1000, 1001, 1 << 20])
    @pytest.mark.parametrize(
        ("start", "end"), [(0, 1000), (0, 1), (999, 1000), (0, 0), (500, 500), (1000, 1000), (1, 999), (123, 456)]
    )
    async def test_a_range_gives_exactly_its_bytes_in_pieces_not_larger_than_asked_for(
        self, store: BlobStore, start: int, end: int, piece_bytes: int
    ) -> None:
        data = os.urandom(1000)
        await store.put(Digest.of(data), [data])
        blob = await store.open(Digest.of(data))
        try:
            assert blob.size_bytes == 1000
            assert await content(blob, start, end, piece_bytes) == data[start:end]
            assert await content(blob, start, end, piece_bytes) == data[start:end], "and a second time"
        finally:
            blob.close()

    async def test_ranges_of_one_open_blob_may_be_read_at_once(self, store: BlobStore) -> None:
        data = os.urandom(300_000)
        await store.put(Digest.of(data), [data])
        blob = await store.open(Digest.of(data))
        try:
            starts = range(0, 300_000, 50_000)
            parts = await asyncio.gather(*(content(blob, start, start + 50_000, 4096) for start in starts))
            assert b"".join(parts) == data
        finally:
            blob.close()

    async def test_an_open_blob_is_read_to_its_end_though_it_is_deleted_meanwhile(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        data = os.urandom(300_000)
        digest = Digest.of(data)
        await store.put(digest, [data])
        blob = await store.open(digest)
        try:
            pieces = blob.pieces(0, blob.size_bytes, 1000)
            first = bytes(await anext(pieces))
            await elsewhere.delete(digest)
            rest = b"".join([bytes(piece) async for piece in pieces])
            assert first + rest == data
        finally:
            blob.close()
        assert await store.size(digest) is None

    async def test_closing_a_blob_may_be_repeated(self, store: BlobStore) -> None:
        data = unique()
        await store.put(Digest.of(data), [data])
        blob = await store.open(Digest.of(data))
        blob.close()
        blob.close()
        assert await opened_content(store, Digest.of(data)) == data

    # --- an upload from its first byte to its commit

    async def test_nothing_of_an_upload_can_be_read_before_its_commit(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        data = unique()
        digest = Digest.of(data)
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            assert not await is_whole(store, digest, data)
            await upload.append(split(data))
            assert not await is_whole(store, digest, data)
            await upload.park()
            assert not await is_whole(store, digest, data)
            assert not await is_whole(elsewhere, digest, data)
            assert await upload.commit(digest) == len(data)
            assert await is_whole(store, digest, data)
        assert await is_whole(elsewhere, digest, data)

    async def test_an_upload_says_how_many_bytes_it_has_taken_in(self, store: BlobStore) -> None:
        session = new_session()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            assert upload.size_bytes == 0
            await upload.append([b"12345"])
            assert upload.size_bytes == 5
            await upload.append([b"", b"678", b""])
            await upload.append([])
            assert upload.size_bytes == 8
            progress = await upload.park()
            assert progress.size_bytes == 8
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            assert upload.size_bytes == 8
            await upload.append([b"9"])
            assert upload.size_bytes == 9

    @every_algorithm
    async def test_an_upload_may_be_empty(self, store: BlobStore, algorithm: str) -> None:
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, algorithm)
            assert await upload.commit(Digest.of(b"", algorithm)) == 0
        assert await is_whole(store, Digest.of(b"", algorithm), b"")

    @every_algorithm
    async def test_an_upload_goes_from_process_to_process(self, make_store: MakeStore, algorithm: str) -> None:
        session, data = new_session(), os.urandom(1000)
        progress = NOTHING
        for piece in split(data):
            store = make_store()
            async with store.upload(session) as upload:
                await upload.begin(progress, algorithm)
                assert upload.size_bytes == progress.size_bytes
                await upload.append([piece])
                progress = await upload.park()
        assert progress.size_bytes == len(data)
        digest = Digest.of(data, algorithm)
        last = make_store()
        assert await committed(last, session, progress, digest) == len(data)
        assert await is_whole(make_store(), digest, data)

    async def test_an_upload_may_be_parked_again_and_again_in_one_hold(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            for piece in split(data):
                await upload.append([piece])
                progress = await upload.park()
                assert await upload.park() == progress
        assert await committed(store, session, progress, Digest.of(data)) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    @pytest.mark.parametrize("begun_with", ALGORITHMS)
    @pytest.mark.parametrize("named", ALGORITHMS)
    @pytest.mark.parametrize("pauses", [False, True], ids=["in one hold", "in three holds"])
    async def test_the_algorithm_may_be_named_only_at_the_commit(
        self, store: BlobStore, begun_with: str, named: str, pauses: bool
    ) -> None:
        session, data = new_session(), os.urandom(1_500_000)
        digest = Digest.of(data, named)
        progress = NOTHING
        pieces = [data[:500_000], data[500_000:1_400_000], data[1_400_000:]]
        for piece in [[piece] for piece in pieces] if pauses else [pieces]:
            async with store.upload(session) as upload:
                await upload.begin(progress, begun_with)
                await upload.append(piece)
                progress = await upload.park()
        assert await committed(store, session, progress, digest) == len(data)
        assert await is_whole(store, digest, data)
        assert await store.size(Digest.of(data, next(each for each in ALGORITHMS if each != named))) is None

    async def test_two_uploads_do_not_disturb_each_other(self, store: BlobStore, elsewhere: BlobStore) -> None:
        one, other = unique(), unique()
        async with store.upload(new_session()) as first, elsewhere.upload(new_session()) as second:
            await first.begin(NOTHING, "sha256")
            await second.begin(NOTHING, "sha512")
            for left, right in zip(split(one), split(other), strict=True):
                await asyncio.gather(first.append([left]), second.append([right]))
            await asyncio.gather(first.commit(Digest.of(one)), second.commit(Digest.of(other, "sha512")))
        assert await is_whole(store, Digest.of(one), one)
        assert await is_whole(store, Digest.of(other, "sha512"), other)

    async def test_many_uploads_of_the_same_bytes_all_succeed(self, make_store: MakeStore) -> None:
        data = unique(20_000)
        digest = Digest.of(data)

        async def push(store: BlobStore) -> None:
            assert await committed(store, new_session(), NOTHING, digest, *split(data, 3_000)) == len(data)
            assert await is_whole(store, digest, data)

        stores = [make_store(), make_store()]
        async with asyncio.TaskGroup() as group:
            for place in range(10):
                group.create_task(push(stores[place % 2]))

    # --- taking back

    async def test_what_a_killed_writer_added_after_its_last_park_is_cut_off(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            progress = await upload.park()
            await upload.append([b"never recorded"])
        assert await committed(elsewhere, session, progress, Digest.of(data + b"!"), b"!") == len(data) + 1
        assert await is_whole(store, Digest.of(data + b"!"), data + b"!")

    async def test_a_park_that_was_not_recorded_is_cut_off_too(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        await parked(store, session, b"not recorded", since=progress)
        await committed(store, session, progress, Digest.of(data + b"recorded"), b"recorded")
        assert await is_whole(store, Digest.of(data + b"recorded"), data + b"recorded")

    async def test_an_upload_whose_first_park_was_not_recorded_begins_anew(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        await parked(store, session, b"not recorded")
        assert await committed(store, session, NOTHING, Digest.of(data), data) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    @pytest.mark.parametrize("pieces", [[b"other"], []])
    async def test_revert_forgets_what_this_hold_added(self, store: BlobStore, pieces: Sequence[bytes]) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            await upload.append([b"wrong"])
            await upload.revert()
            await upload.revert()
            assert upload.size_bytes == len(data)
            await upload.append(pieces)
            await upload.commit(Digest.of(data + b"".join(pieces)))
        assert await is_whole(store, Digest.of(data + b"".join(pieces)), data + b"".join(pieces))

    async def test_revert_goes_back_to_the_beginning_of_the_hold_not_to_the_last_park(
        self, store: BlobStore
    ) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            await upload.append([b"wrong"])
            await upload.park()
            await upload.append([b"wrong as well"])
            await upload.revert()
            assert await upload.park() == progress
        assert await committed(store, session, progress, Digest.of(data)) == len(data)

    async def test_revert_of_a_first_hold_leaves_nothing(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha512")
            await upload.append([b"wrong"])
            await upload.revert()
            assert upload.size_bytes == 0
            await upload.append([data])
            await upload.commit(Digest.of(data, "sha512"))
        assert await is_whole(store, Digest.of(data, "sha512"), data)

    # --- copies that are wrong

    async def test_a_copy_is_known_by_its_length_and_there_is_none_of_what_is_not_here(
        self, store: BlobStore
    ) -> None:
        data = unique(5000)
        digest = Digest.of(data)
        assert await store.copy_of(digest) is None
        await committed(store, new_session(), NOTHING, digest, *split(data, 1000))
        copy = await store.copy_of(digest)
        assert copy is not None
        assert copy.size_bytes == 5000
        assert copy == await store.copy_of(digest)

    async def test_what_is_set_aside_is_gone_and_may_be_published_again(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        data = unique(5000)
        digest = Digest.of(data)
        for _ in range(2):
            await committed(store, new_session(), NOTHING, digest, *split(data, 1000))
            assert await opened_content(elsewhere, digest) == data
            copy = await elsewhere.copy_of(digest)
            assert copy is not None
            await store.preserve(digest, copy)
            assert await is_whole(store, digest, data), "that alone changes nothing"
            assert await asyncio.to_thread(store.set_aside, digest, copy)
            await store.free()
            assert not await is_whole(store, digest, data)
            assert not await is_whole(elsewhere, digest, data)
        assert await asyncio.to_thread(store.set_aside, digest, None), "there is none, as was said"

    async def test_what_was_set_aside_is_deleted_when_it_is_old(self, store: BlobStore) -> None:
        data = unique(5000)
        digest = Digest.of(data)
        assert await store.clear_quarantine(time.time() + 5) == 0
        await committed(store, new_session(), NOTHING, digest, data)
        copy = await store.copy_of(digest)
        assert copy is not None
        await store.preserve(digest, copy)
        assert await asyncio.to_thread(store.set_aside, digest, copy)
        await store.free()
        await committed(store, new_session(), NOTHING, digest, data)
        assert await store.clear_quarantine(time.time() - 60) == 0
        assert await store.clear_quarantine(time.time() + 5) >= 1
        assert await store.clear_quarantine(time.time() + 5) == 0
        assert await opened_content(store, digest) == data

    async def test_another_copy_than_the_one_that_was_looked_at_is_left_alone(self, store: BlobStore) -> None:
        data = unique(5000)
        digest = Digest.of(data)
        await committed(store, new_session(), NOTHING, digest, *split(data, 1000))
        copy = await store.copy_of(digest)
        assert copy is not None
        for seen in (None, replace(copy, mark="another")):
            assert not await asyncio.to_thread(store.set_aside, digest, seen)
        assert await is_whole(store, digest, data)

    @every_algorithm
    async def test_a_wrong_digest_leaves_the_upload_as_it_was(self, store: BlobStore, algorithm: str) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        wrong = Digest.of(b"something else", algorithm)
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            await upload.append([b"more"])
            with pytest.raises(DigestInvalid):
                await upload.commit(wrong)
            assert upload.size_bytes == len(data) + 4
            await upload.append([b" and more"])
            with pytest.raises(DigestInvalid):
                await upload.commit(wrong)
        assert not await is_whole(store, wrong, b"something else")
        whole = data + b"the rest"
        assert await committed(store, session, progress, Digest.of(whole, algorithm), b"the rest") == len(whole)
        assert await is_whole(store, Digest.of(whole, algorithm), whole)

    async def test_a_wrong_digest_can_be_corrected_in_the_same_hold(self, store: BlobStore) -> None:
        data = unique()
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            with pytest.raises(DigestInvalid):
                await upload.commit(Digest.of(b""))
            assert await upload.commit(Digest.of(data)) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    async def test_an_upload_cannot_be_committed_as_a_blob_that_others_have(self, store: BlobStore) -> None:
        """A digest is no proof of having the bytes."""
        others = unique()
        await store.put(Digest.of(others), [others])
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([b"anything"])
            with pytest.raises(DigestInvalid):
                await upload.commit(Digest.of(others))
        assert await is_whole(store, Digest.of(others), others)

    # --- committing again

    async def test_a_commit_may_be_repeated_in_the_same_hold(self, store: BlobStore) -> None:
        data = unique()
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            assert await upload.commit(Digest.of(data)) == len(data)
            assert await upload.commit(Digest.of(data)) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    @pytest.mark.parametrize("begun_with", ALGORITHMS)
    @pytest.mark.parametrize("named", ALGORITHMS)
    @pytest.mark.parametrize("last", [[], [b"the last chunk", b" in two"]], ids=["no chunk", "a last chunk"])
    async def test_a_commit_that_was_not_recorded_may_be_repeated_from_the_old_progress(
        self, make_store: MakeStore, begun_with: str, named: str, last: list[bytes]
    ) -> None:
        """The process died between the publication and the row in the index; the client asks again."""
        session, data = new_session(), unique()
        whole = data + b"".join(last)
        digest = Digest.of(whole, named)
        async with make_store().upload(session) as upload:
            await upload.begin(NOTHING, begun_with)
            await upload.append([data])
            progress = await upload.park()
        for _ in range(3):
            store = make_store()
            async with store.upload(session) as upload:
                await upload.begin(progress, named)
                await upload.append(last)
                assert await upload.commit(digest) == len(whole)
            assert await is_whole(store, digest, whole)
        await make_store().discard(session, progress)
        assert await is_whole(make_store(), digest, whole)
        assert await listed(make_store().sessions()) == set()

    async def test_a_repeated_commit_of_other_bytes_is_refused_and_the_blob_stays(self, store: BlobStore) -> None:
        session, data, others = new_session(), unique(), unique()
        progress = await parked(store, session, data)
        await store.put(Digest.of(others), [others])
        await committed(store, session, progress, Digest.of(data))
        for wrong in (Digest.of(others), Digest.of(others, "sha512"), Digest.of(b"no such blob")):
            with pytest.raises((BlobUploadUnknown, DigestInvalid)):
                await committed(store, session, progress, wrong)
        with pytest.raises((BlobUploadUnknown, DigestInvalid)):
            await committed(store, session, progress, Digest.of(data), b"more")
        assert await is_whole(store, Digest.of(data), data)
        assert await is_whole(store, Digest.of(others), others)

    async def test_an_upload_that_was_published_takes_no_more_chunks(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        await committed(store, session, progress, Digest.of(data))
        with pytest.raises(BlobUploadUnknown):
            await parked(store, session, b"more", since=progress)
        assert await is_whole(store, Digest.of(data), data)

    async def test_after_its_commit_a_hold_cannot_touch_the_blob_any_more(self, store: BlobStore) -> None:
        data = unique()
        digest = Digest.of(data)
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            await upload.commit(digest)
            with contextlib.suppress(RegistryError):
                await upload.revert()
            assert await is_whole(store, digest, data)
            with contextlib.suppress(RegistryError):
                await upload.append([b"more"])
            assert await is_whole(store, digest, data)
            with contextlib.suppress(RegistryError):
                await upload.park()
        assert await is_whole(store, digest, data)

    async def test_a_repeated_commit_that_is_taken_back_leaves_the_blob_alone(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        await committed(store, session, progress, Digest.of(data))
        async with store.upload(session) as upload:
            await upload.begin(progress, "sha256")
            await upload.append([b"more"])
            await upload.revert()
            assert await upload.commit(Digest.of(data)) == len(data)
            await upload.revert()
        assert await is_whole(store, Digest.of(data), data)

    @pytest.mark.parametrize("turns", range(12))
    async def test_a_commit_that_is_cancelled_and_taken_back_leaves_a_whole_blob_or_none(
        self, store: BlobStore, elsewhere: BlobStore, turns: int
    ) -> None:
        session, data = new_session(), unique(100_000)
        digest = Digest.of(data)
        progress = await parked(store, session, data[:60_000])

        async def push() -> None:
            async with store.upload(session) as upload:
                await upload.begin(progress, "sha256")
                try:
                    await upload.append([data[60_000:]])
                    await upload.commit(digest)
                except BaseException:
                    await asyncio.shield(upload.revert())
                    raise

        pushing = asyncio.create_task(push())
        for _ in range(turns):
            await asyncio.sleep(0)
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pushing
        await is_whole(elsewhere, digest, data)
        assert await committed(elsewhere, session, progress, digest, data[60_000:]) == len(data)
        assert await is_whole(store, digest, data)

    # --- holding

    async def test_who_holds_an_upload_holds_it_alone(self, store: BlobStore, elsewhere: BlobStore) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])

            async def intrude(store: BlobStore) -> None:
                with pytest.raises(UploadBusy):
                    async with store.upload(session):
                        raise AssertionError("two hold it")

            await asyncio.gather(intrude(store), intrude(elsewhere))
            assert await upload.commit(Digest.of(data)) == len(data)
        assert await is_whole(store, Digest.of(data), data)

    async def test_a_holder_who_is_just_letting_go_is_waited_for(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        session = new_session()
        order: list[str] = []

        async def second() -> None:
            async with elsewhere.upload(session) as upload:
                order.append("second")
                await upload.begin(NOTHING, "sha256")

        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            waiting = asyncio.create_task(second())
            await store.check()  # something that takes a while
            order.append("first")
        await waiting
        assert order == ["first", "second"]

    async def test_a_hold_that_waited_while_another_published_never_harms_the_blob(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        session, data = new_session(), unique()
        digest = Digest.of(data)

        async def second(progress: Progress, repeats: bool) -> None:
            async with elsewhere.upload(session) as upload:
                await upload.begin(progress, "sha256")
                if repeats:
                    assert await upload.commit(digest) == len(data)
                    return
                await upload.append([b"something else"])
                await upload.revert()

        for since_nothing, repeats in ((True, False), (False, False), (False, True)):
            progress = await parked(store, session, data)
            async with store.upload(session) as upload:
                await upload.begin(progress, "sha256")
                waiting = asyncio.create_task(second(NOTHING if since_nothing else progress, repeats))
                await store.check()
                assert await upload.commit(digest) == len(data)
                await store.check()
            await waiting
            assert await is_whole(store, digest, data)
            await store.discard(session, progress)

    async def test_many_who_finish_one_upload_at_once_succeed_or_wait_in_vain_and_the_blob_is_whole(
        self, make_store: MakeStore
    ) -> None:
        stores = [make_store(), make_store()]
        for _ in range(3):
            session, data = new_session(), unique(50_000)
            progress = await parked(stores[0], session, data)

            async def finish(
                store: BlobStore, session: str = session, progress: Progress = progress, data: bytes = data
            ) -> None:
                with contextlib.suppress(UploadBusy):
                    assert await committed(store, session, progress, Digest.of(data + b"!"), b"!") == len(data) + 1

            await asyncio.gather(*(finish(stores[place % 2]) for place in range(4)))
            assert await is_whole(stores[0], Digest.of(data + b"!"), data + b"!")

    # --- giving up

    async def test_an_upload_is_listed_while_it_has_bytes(self, store: BlobStore, elsewhere: BlobStore) -> None:
        sessions = {new_session(): unique() for _ in range(3)}
        progress = {session: await parked(store, session, data) for session, data in sessions.items()}
        assert await listed(elsewhere.sessions()) == set(sessions)
        (discarded, _), (finished, data), (open_, _) = sessions.items()
        await elsewhere.discard(discarded, progress[discarded])
        await committed(store, finished, progress[finished], Digest.of(data))
        assert await listed(store.sessions()) == {open_}

    async def test_discarding_may_be_repeated_and_concerns_one_upload_only(self, store: BlobStore) -> None:
        session, other, data = new_session(), new_session(), unique()
        progress, others = await parked(store, session, b"x"), await parked(store, other, data)
        for _ in range(3):
            await store.discard(session, progress)
        await store.discard(new_session(), NOTHING)
        assert await listed(store.sessions()) == {other}
        assert await committed(store, other, others, Digest.of(data)) == len(data)

    async def test_an_upload_whose_bytes_are_gone_cannot_be_gone_on_with(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        await store.discard(session, progress)
        with pytest.raises(BlobUploadUnknown):
            await committed(store, session, progress, Digest.of(data))
        with pytest.raises(BlobUploadUnknown):
            await committed(store, session, progress, Digest.of(data + b"!"), b"!")
        with pytest.raises(BlobUploadUnknown):
            await parked(store, session, b"more", since=progress)
        assert not await is_whole(store, Digest.of(data), data)

    async def test_an_upload_that_is_discarded_while_it_is_written_publishes_nothing(
        self, store: BlobStore, elsewhere: BlobStore
    ) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            await elsewhere.discard(session, NOTHING)
            with pytest.raises(BlobUploadUnknown):
                await upload.commit(Digest.of(data))
        assert not await is_whole(store, Digest.of(data), data)
        assert await listed(store.sessions()) == set()

    async def test_not_even_when_its_name_was_taken_again(self, store: BlobStore, elsewhere: BlobStore) -> None:
        session, data = new_session(), unique()
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data])
            await elsewhere.discard(session, NOTHING)
            with contextlib.suppress(UploadBusy):
                async with elsewhere.upload(session) as other:
                    await other.begin(NOTHING, "sha256")
                    with pytest.raises(BlobUploadUnknown):
                        await upload.commit(Digest.of(data))
                    await other.append([b"other bytes"])
                    await other.commit(Digest.of(b"other bytes"))
        assert not await is_whole(store, Digest.of(data), data)

    async def test_a_hold_that_began_nothing_leaves_nothing(self, store: BlobStore) -> None:
        async with store.upload(new_session()):
            pass
        assert await listed(store.sessions()) == set()

    async def test_a_hold_that_began_nothing_leaves_what_there_was(self, store: BlobStore) -> None:
        session, data = new_session(), unique()
        progress = await parked(store, session, data)
        async with store.upload(session):
            pass
        assert await committed(store, session, progress, Digest.of(data)) == len(data)

    # --- anything

    def test_an_upload_behaves_as_a_bytearray_whatever_happens_to_it(self, make_store: MakeStore) -> None:
        run_state_machine_as_test(
            partial(UploadMachine, make_store),  # type: ignore[arg-type]
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


LENGTHS = st.integers(0, 300) | st.sampled_from([70_000, 200_000])


class UploadMachine(RuleBasedStateMachine):
    """One upload through requests, deaths and repetitions, beside a bytearray."""

    def __init__(self, make_store: MakeStore) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stores = [make_store(), make_store()]
        self.store = self.stores[0]
        self.session = new_session()
        self.recorded = NOTHING  # what the index would know
        self.recorded_data = b""
        self.data = bytearray()  # what the hold has
        self.published: dict[Digest, bytes] = {}
        self.hold: AbstractAsyncContextManager[Upload] | None = None
        self.upload: Upload | None = None

    def run(self, step: Any) -> Any:
        async def stepping() -> Any:
            return await step

        return self.runner.run(stepping())

    def held(self) -> bool:
        return self.upload is not None

    def free(self) -> bool:
        return self.upload is None

    def writable(self) -> bool:
        return self.upload is not None and not self.published

    def repeatable(self) -> bool:
        """Published and let go of, without the index knowing."""
        return self.upload is None and bool(self.published)

    @precondition(free)
    @rule(process=st.integers(0, 1), algorithm=st.sampled_from(ALGORITHMS))
    def begin(self, process: int, algorithm: str) -> None:
        self.store = self.stores[process]
        self.hold = self.store.upload(self.session)
        self.upload = self.run(self.hold.__aenter__())
        self.data = bytearray(self.recorded_data)
        self.run(self.upload.begin(self.recorded, algorithm))
        if not self.data and not self.published:
            self.run(self.upload.append([self.session.encode()]))  # so that no other example has its digest
            self.data += self.session.encode()

    @precondition(writable)
    @rule(runs=st.lists(st.tuples(st.integers(0, 255), LENGTHS), max_size=4))
    def append(self, runs: list[tuple[int, int]]) -> None:
        assert self.upload is not None
        pieces = [bytes([byte]) * length for byte, length in runs]
        self.run(self.upload.append(pieces))
        self.data += b"".join(pieces)

    @precondition(writable)
    @rule(recorded=st.booleans())
    def park(self, recorded: bool) -> None:
        assert self.upload is not None
        progress = self.run(self.upload.park())
        assert progress.size_bytes == len(self.data)
        if recorded:
            self.recorded, self.recorded_data = progress, bytes(self.data)
            self.let_go()

    @precondition(writable)
    @rule()
    def revert(self) -> None:
        assert self.upload is not None
        self.run(self.upload.revert())
        self.data = bytearray(self.recorded_data)

    @precondition(held)
    @rule()
    def die(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        assert self.hold is not None
        self.run(self.hold.__aexit__(None, None, None))
        self.hold = self.upload = None

    @precondition(writable)
    @rule(algorithm=st.sampled_from(ALGORITHMS))
    def commit_wrongly(self, algorithm: str) -> None:
        assert self.upload is not None
        with pytest.raises(DigestInvalid):
            self.run(self.upload.commit(Digest.of(bytes(self.data) + b"x", algorithm)))

    @precondition(lambda self: self.writable() and bytes(self.data).startswith(self.session.encode()))
    @rule(algorithm=st.sampled_from(ALGORITHMS))
    def commit(self, algorithm: str) -> None:
        assert self.upload is not None
        digest = Digest.of(bytes(self.data), algorithm)
        assert self.run(self.upload.commit(digest)) == len(self.data)
        self.published = {digest: bytes(self.data)}

    @precondition(repeatable)
    @rule(process=st.integers(0, 1))
    def commit_again(self, process: int) -> None:
        [(digest, data)] = self.published.items()
        rest = data[self.recorded.size_bytes :]
        again = committed(self.stores[process], self.session, self.recorded, digest, rest)
        assert self.run(again) == len(data)

    @precondition(repeatable)
    @rule()
    def delete_the_blob_and_start_over(self) -> None:
        [(digest, _)] = self.published.items()
        self.run(self.store.delete(digest))
        self.run(self.store.discard(self.session, self.recorded))
        self.published = {}
        self.recorded, self.recorded_data = NOTHING, b""
        self.session = new_session()

    @invariant()
    def the_size_is_the_models(self) -> None:
        if self.upload is not None and not self.published:
            assert self.upload.size_bytes == len(self.data)

    @invariant()
    def only_what_was_committed_can_be_read_and_it_is_whole(self) -> None:
        for algorithm in ALGORITHMS:
            for data in (bytes(self.data), self.recorded_data):
                digest = Digest.of(data, algorithm)
                if digest not in self.published and data:
                    assert self.run(self.stores[0].size(digest)) is None
        for digest, data in self.published.items():
            assert self.run(is_whole(self.stores[1], digest, data))

    def teardown(self) -> None:
        if self.hold is not None:
            self.let_go()
        for digest in self.published:
            self.run(self.store.delete(digest))
        self.run(self.store.discard(self.session, self.recorded))
        self.runner.close()
