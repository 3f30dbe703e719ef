"""The store that is a bucket: the contract, on a real store and on a stand-in, and what only a bucket gets wrong.

Parts are tiny in most of these tests, so that a few kilobytes are many of them.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.content import s3_client
from registry.content.s3 import S3Store
from registry.content.s3_bucket import Bucket
from registry.content.s3_client import S3Options
from registry.content.s3_notes import link_key
from registry.content.store import Progress
from registry.oci.digest import Digest
from registry.oci.errors import BlobUploadUnknown, ContentMissing, StorageFull, Unavailable
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
    split,
)
from tests.support import s3
from tests.support.proxy import Proxy

MakeS3Store = Callable[..., S3Store]
PART = 3000

# Nothing that the contract pushes makes a part of this size.
LARGE_PARTS = 16 << 20
# Of this one, nearly everything makes several; but it would be thousands of what these tests push.
TINY_PARTS = 300
LESS_TINY_PARTS = {
    "test_the_algorithm_may_be_named_only_at_the_commit": 400_000,
    "test_a_commit_that_is_cancelled_and_taken_back_leaves_a_whole_blob_or_none": 25_000,
    "test_many_who_finish_one_upload_at_once_succeed_or_wait_in_vain_and_the_blob_is_whole": 9_000,
    "test_many_uploads_of_the_same_bytes_all_succeed": 9_000,
    "test_an_upload_behaves_as_a_bytearray_whatever_happens_to_it": 45_000,
}


def options(store: s3.Store, prefix: str, part_bytes: int = TINY_PARTS) -> S3Options:
    return S3Options(
        bucket=store.bucket,
        prefix=prefix,
        endpoint=store.endpoint,
        access_key=s3.ACCESS_KEY,
        secret_key=s3.SECRET_KEY,
        part_bytes=part_bytes,
    )


class OnS3(BlobStoreContract):
    examples = 15
    part_bytes = TINY_PARTS
    parts_max = 10_000

    @pytest.fixture
    def place(self) -> s3.Store:
        raise NotImplementedError

    @pytest.fixture
    def make_store(self, place: s3.Store, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeStore]:
        stores: list[S3Store] = []
        prefix = s3.new_prefix()
        test = request.node.originalname
        part_bytes = max(self.part_bytes, LESS_TINY_PARTS.get(test, 0))

        def make() -> S3Store:
            chosen = options(place, prefix, part_bytes)
            stores.append(S3Store(chosen, tmp_path, threads=4, parts_max=self.parts_max))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


class TestContractOnCeph(OnS3):
    part_bytes = LARGE_PARTS

    @pytest.fixture
    def place(self, ceph: s3.Store) -> s3.Store:
        return ceph


class TestContractOnCephInTinyParts(TestContractOnCeph):
    part_bytes = TINY_PARTS


class TestContractOnMotoInManySegments(OnS3):
    parts_max = 3

    @pytest.fixture
    def place(self, moto: s3.Store) -> s3.Store:
        return moto


# ---------------------------------------------------------------- what only a bucket can do wrong


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    return s3.new_prefix()


@pytest.fixture
def make_store(ceph: s3.Ceph, prefix: str, tmp_path: Path) -> Iterator[MakeS3Store]:
    """Stores on the real thing, with small parts."""
    stores: list[S3Store] = []

    def make(parts_max: int = 10_000, **over: Any) -> S3Store:
        chosen = replace(options(ceph, prefix, PART), **{"attempts": 2, **over})
        stores.append(S3Store(chosen, tmp_path / str(len(stores)), threads=4, parts_max=parts_max))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def proxy(ceph: s3.Ceph) -> Iterator[Proxy]:
    """The network between a store and us."""
    made = Proxy(ceph.port)
    yield made
    made.close()


async def pushed(store: S3Store, data: bytes, session: str = "") -> Digest:
    await committed(store, session or new_session(), NOTHING, Digest.of(data), data)
    return Digest.of(data)


def parts_of(progress: Progress) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(progress.parts)
    return document


@pytest.mark.anyio
class TestParts:
    async def test_all_have_one_size_but_for_the_last_of_their_multipart_upload(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        store, session, data = make_store(), new_session(), os.urandom(3 * PART + 5)
        progress = await parked(store, session, *split(data, 777))
        [segment] = parts_of(progress)["segments"]
        listed = ceph.client().list_parts(
            Bucket=ceph.bucket, Key=prefix + segment["key"], UploadId=segment["upload"]
        )["Parts"]
        assert [part["Size"] for part in listed] == [PART, PART, PART, 5]
        assert [part["ETag"] for part in listed] == segment["etags"]

    async def test_a_blob_of_more_than_a_multipart_upload_may_have_is_several(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        store, data = make_store(parts_max=2), os.urandom(7 * PART + 5)
        digest = await pushed(store, data)
        assert await is_whole(store, digest, data)
        link = json.loads(stored(ceph, prefix, link_key(digest)))
        assert [extent["size"] for extent in link["extents"]] == [2 * PART, 2 * PART, 2 * PART, PART + 5]
        assert await store.redirect_url(digest, 60) is None

    async def test_what_is_written_down_is_plain_json_with_a_version_and_an_unknown_one_is_refused(
        self, make_store: MakeS3Store
    ) -> None:
        store, session = make_store(), new_session()
        progress = await parked(store, session, os.urandom(PART + 1))
        progress = await parked(store, session, b"tail", since=progress)
        document = parts_of(progress)
        assert document["version"] == 1
        assert document["tail"]["size"] == 4
        for wrong in ({**document, "version": 2}, {"version": 1}, []):
            with pytest.raises(BlobUploadUnknown):
                await parked(store, session, since=replace(progress, parts=json.dumps(wrong).encode()))

    async def test_parts_that_are_whole_are_never_read_again_and_tails_do_not_pile_up(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str, proxy: Proxy
    ) -> None:
        reads: list[bytes] = []
        proxy.sees = lambda piece: reads.append(piece) if piece.startswith(b"GET ") else None
        store = make_store(endpoint=f"http://127.0.0.1:{proxy.port}")
        session, data, progress = new_session(), os.urandom(10 * PART), NOTHING
        for start in range(0, len(data), PART // 3):
            progress = await parked(store, session, data[start : start + PART // 3], since=progress)
            assert len([key for key in ceph.keys(prefix) if key.startswith("uploads/")]) <= 2
        await committed(store, session, progress, Digest.of(data))
        asked = {read.split(b" ")[1] for read in reads}
        assert [path for path in asked if b"/uploads/" in path], "tails are"
        assert not [path for path in asked if b"/data/" in path and b"uploadId=" not in path]
        assert await is_whole(store, Digest.of(data), data)
        assert ceph.multiparts(prefix) == []
        assert not [key for key in ceph.keys(prefix) if key.startswith("uploads/")]


def stored(store: s3.Store, prefix: str, key: str) -> bytes:
    body: bytes = store.client().get_object(Bucket=store.bucket, Key=prefix + key)["Body"].read()
    return body


@pytest.mark.anyio
class TestTwoWriters:
    """On two machines: no lock keeps them apart."""

    async def test_each_adds_to_its_own_and_what_is_recorded_is_what_is_published(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        here, there, session = make_store(), make_store(), new_session()
        first, one, other = os.urandom(PART + 1), os.urandom(4 * PART), os.urandom(2 * PART)
        progress = await parked(here, session, first)
        async with here.upload(session) as left, there.upload(session) as right:
            await left.begin(progress, "sha256")
            await right.begin(progress, "sha256")
            for start in range(0, 4 * PART, 500):
                await left.append([one[start : start + 500]])
                await right.append([other[start : start + 500]])
            lost, won = await left.park(), await right.park()
        assert lost != won
        digest = Digest.of(first + other)
        assert await committed(here, session, won, digest) == len(first + other)
        assert await is_whole(there, digest, first + other)

    async def test_two_blobs_of_one_upload_may_share_bytes_and_one_outlives_the_other(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        here, there, session = make_store(), make_store(), new_session()
        first, more = os.urandom(2 * PART), os.urandom(2 * PART)
        progress = await parked(here, session, first)
        async with here.upload(session) as left, there.upload(session) as right:
            await left.begin(progress, "sha256")
            await right.begin(progress, "sha256")
            await right.append([more])
            await left.commit(Digest.of(first))
            await right.commit(Digest.of(first + more))
        await here.delete(Digest.of(first))
        assert await is_whole(there, Digest.of(first + more), first + more)
        await there.delete(Digest.of(first + more))
        assert not [key for key in ceph.keys(prefix) if key.startswith("data/")]

    async def test_two_who_finish_the_same_both_succeed(self, make_store: MakeS3Store) -> None:
        here, there, session, data = make_store(), make_store(), new_session(), os.urandom(5 * PART + 1)
        progress = await parked(here, session, data)
        digest = Digest.of(data)
        await asyncio.gather(*(committed(store, session, progress, digest) for store in (here, there)))
        assert await is_whole(here, digest, data)

    async def test_a_blob_that_is_deleted_and_pushed_again_is_found_though_it_lies_elsewhere_now(
        self, make_store: MakeS3Store
    ) -> None:
        here, there, data = make_store(), make_store(), os.urandom(3 * PART)
        digest = await pushed(here, data)
        assert await opened_content(here, digest) == data
        await there.delete(digest)
        await pushed(there, data)
        assert await opened_content(here, digest) == data


@pytest.mark.anyio
class TestDamage:
    async def test_a_blob_whose_bytes_are_lost_is_missing_until_it_is_pushed_again(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        store, data = make_store(), os.urandom(3 * PART)
        digest = await pushed(store, data)
        [key] = [key for key in ceph.keys(prefix) if key.startswith("data/") and "/of-" not in key]
        ceph.client().delete_object(Bucket=ceph.bucket, Key=prefix + key)
        with pytest.raises(ContentMissing):
            await store.open(digest)
        await pushed(store, data)
        assert await is_whole(store, digest, data)

    async def test_bytes_that_change_on_their_way_are_refused_by_the_store(
        self, ceph: s3.Ceph, prefix: str
    ) -> None:
        bucket = Bucket(options(ceph, prefix))

        def tamper(request: Any, **_: Any) -> None:
            request.body = b"abX" if isinstance(request.body, bytes) else io.BytesIO(b"abX")

        upload = bucket.begin("part")
        bucket._client.meta.events.register("before-send.s3", tamper)
        with pytest.raises(Unavailable):
            bucket.put("object", b"abc")
        with pytest.raises(Unavailable):
            bucket.send("part", upload, 1, io.BytesIO(b"abc"))
        bucket._client.meta.events.unregister("before-send.s3", tamper)
        assert bucket.size("object") is None
        bucket.abort("part", upload)
        bucket.close()

    async def test_from_the_bucket_alone_every_blob_is_found(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        store = make_store()
        blobs = {Digest.of(data): data for data in (b"", b"small", os.urandom(PART), os.urandom(9 * PART))}
        for data in blobs.values():
            await pushed(store, data)
        await parked(store, new_session(), os.urandom(2 * PART))
        assert await listed(store.digests()) == set(blobs)
        for digest, data in blobs.items():
            assert by_hand(ceph, prefix, digest) == data


def by_hand(store: s3.Store, prefix: str, digest: Digest) -> bytes:
    """A blob as docs/storage-s3.md says that it can be had without us."""
    key = f"blobs/{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}"
    if key in store.keys(prefix):
        return stored(store, prefix, key)
    link = json.loads(stored(store, prefix, f"{key}.link"))
    return b"".join(stored(store, prefix, extent["key"]) for extent in link["extents"])


@pytest.mark.anyio
class TestSweep:
    async def test_what_is_old_and_nobodys_goes_and_everything_else_stays(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        store, data, session = make_store(), os.urandom(3 * PART), new_session()
        digest = await pushed(store, data)
        open_ = await parked(store, session, data + b"more")
        await parked(store, new_session(), b"a tail", since=NOTHING)
        orphan(ceph, prefix)
        before = set(ceph.keys(prefix))
        store._sweep(time.time() - 60)
        assert set(ceph.keys(prefix)) == before, "all of it is young"
        assert await committed(store, session, open_, Digest.of(data + b"more")) == len(data) + 4
        store._swept = 0.0
        store._sweep(time.time() + 10)
        left = ceph.keys(prefix)
        assert not [key for key in left if "nobody" in key or key.startswith("uploads/")]
        assert ceph.multiparts(prefix) == []
        for kept in (data, data + b"more"):
            assert await is_whole(store, Digest.of(kept), kept)
        assert digest in await listed(store.digests())

    async def test_an_upload_that_is_written_to_is_not_old_however_long_ago_it_began(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        store, session = make_store(), new_session()
        data = os.urandom(3 * PART)
        async with store.upload(session) as upload:
            await upload.begin(NOTHING, "sha256")
            await upload.append([data[: PART + 1]])
            await asyncio.sleep(2.1)  # the store's clock has seconds
            then = time.time() - 1
            await upload.append([data[PART + 1 :]])
            await upload.park()
            store._sweep(then)
            assert await upload.commit(Digest.of(data)) == len(data)
        assert await is_whole(store, Digest.of(data), data)


def orphan(store: s3.Store, prefix: str) -> None:
    """What servers leave that are killed just before they link bytes, or just after they unlinked them."""
    digest = Digest.of(b"never linked").replace(":", "-")
    for key in ("data/nobody1/bytes", "data/nobody2/bytes", f"data/nobody2/of-{digest}"):
        store.client().put_object(Bucket=store.bucket, Key=prefix + key, Body=b"orphan")


@pytest.mark.anyio
class TestNetwork:
    async def test_a_download_whose_connection_breaks_goes_on(self, make_store: MakeS3Store, proxy: Proxy) -> None:
        store = make_store(endpoint=f"http://127.0.0.1:{proxy.port}", part_bytes=16 << 20)
        data = os.urandom(8 << 20)
        digest = await pushed(store, data)
        blob = await store.open(digest)
        came = b""
        async for piece in blob.pieces(0, len(data), 1 << 20):
            came += piece
            if len(came) in (1 << 20, 5 << 20):
                proxy.cut()
        blob.close()
        assert came == data

    async def test_an_upload_whose_connections_break_goes_on(self, make_store: MakeS3Store, proxy: Proxy) -> None:
        store = make_store(endpoint=f"http://127.0.0.1:{proxy.port}", part_bytes=1 << 20, attempts=4)
        count = itertools.count()
        proxy.cuts_before = lambda piece: next(count) in (5, 40)
        data = os.urandom(5 << 20)
        digest = await pushed(store, data)
        proxy.cuts_before = lambda piece: False
        assert await is_whole(store, digest, data)

    async def test_a_store_that_refuses_connections_is_unavailable_and_comes_back(
        self, make_store: MakeS3Store, proxy: Proxy
    ) -> None:
        store = make_store(endpoint=f"http://127.0.0.1:{proxy.port}")
        session, data = new_session(), os.urandom(3 * PART)
        digest = await pushed(store, data)
        progress = await parked(store, session, data)
        blob = await store.open(digest)
        proxy.refuse()
        refused = (
            store.size(digest),
            store.open(digest),
            store.put(Digest.of(b"x"), [b"x"]),
            parked(store, session, data, since=progress),
            committed(store, session, progress, Digest.of(data + b"!"), b"!"),
            store.delete(digest),
            store.discard(session, progress),
            listed(store.sessions()),
            store.check(),
        )
        for asked in refused:
            with pytest.raises(Unavailable):
                await asked
        blob.close()
        proxy.accept()
        assert await is_whole(store, digest, data)
        assert await committed(store, session, progress, Digest.of(data + b"!"), b"!") == len(data) + 1

    async def test_a_store_that_says_nothing_is_given_up_in_time(
        self, make_store: MakeS3Store, proxy: Proxy
    ) -> None:
        store = make_store(
            endpoint=f"http://127.0.0.1:{proxy.port}", read_timeout_seconds=0.3, connect_timeout_seconds=0.3
        )
        await store.check()
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await store.check()
        assert time.monotonic() - began < 5
        proxy.thaw()
        await store.check()

    async def test_a_full_store_says_so_and_keeps_nothing_of_what_did_not_fit(
        self, make_store: MakeS3Store, ceph: s3.Ceph, prefix: str
    ) -> None:
        ceph.make_bucket_with_quota("full", 100_000)
        store = make_store(bucket="full")
        data = os.urandom(60_000)
        await store.put(Digest.of(data), [data])
        with pytest.raises(StorageFull):
            await store.put(Digest.of(data + b"!"), [data + b"!"])
        async with store.upload(new_session()) as upload:
            await upload.begin(NOTHING, "sha256")
            with pytest.raises(StorageFull):
                await upload.append([data] * 3)
            await upload.revert()
        assert await listed(store.sessions()) == set()
        assert await is_whole(store, Digest.of(data), data)


# ---------------------------------------------------------------- how a store is spoken to


@pytest.mark.anyio
class TestOptions:
    @pytest.mark.parametrize("over", [{"encryption": "AES256"}, {"encryption": "aws:kms", "kms_key": "a-key"}])
    async def test_everything_is_encrypted_as_was_asked_for(
        self, moto: s3.Moto, prefix: str, tmp_path: Path, over: dict[str, str]
    ) -> None:
        store = S3Store(replace(options(moto, prefix, PART), **over), tmp_path)
        small, large = os.urandom(100), os.urandom(3 * PART)
        progress = await parked(store, "one", small)
        await committed(store, "one", progress, Digest.of(small))
        await pushed(store, large)
        await parked(store, "other", b"a tail")
        await store.check()
        store.close()
        client, keys = moto.client(), moto.keys(prefix)
        assert {key.partition("/")[0] for key in keys} == {"blobs", "data", "uploads", "ready"}
        for key in keys:
            said = client.head_object(Bucket=moto.bucket, Key=prefix + key)
            assert said["ServerSideEncryption"] == over["encryption"], key
            assert said.get("SSEKMSKeyId") == over.get("kms_key")

    @pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
    async def test_checksums_may_be_added(
        self, moto: s3.Moto, prefix: str, tmp_path: Path, checksums: str
    ) -> None:
        store = S3Store(replace(options(moto, prefix, PART), checksums=checksums), tmp_path)
        data = os.urandom(3 * PART + 1)
        await store.put(Digest.of(b"small"), [b"small"])
        assert await is_whole(store, await pushed(store, data), data)
        store.close()

    async def test_keys_may_come_from_the_surroundings(
        self, ceph: s3.Ceph, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)
        s3_client._session.cache_clear()
        store = S3Store(replace(options(ceph, prefix), access_key="", secret_key=""), tmp_path)
        await store.check()
        store.close()
        s3_client._session.cache_clear()

    @pytest.mark.parametrize(
        ("addressing", "endpoint", "expected"),
        [
            ("auto", "https://s3.example.com", "https://s3.example.com/blobs/"),
            ("virtual", "https://s3.example.com", "https://blobs.s3.example.com/"),
            ("path", "", "https://s3.eu-west-1.amazonaws.com/blobs/"),
            ("auto", "", "https://blobs.s3.eu-west-1.amazonaws.com/"),
        ],
    )
    def test_a_bucket_is_named_in_the_path_or_as_a_host(
        self, addressing: str, endpoint: str, expected: str
    ) -> None:
        chosen = S3Options("blobs", "p/", endpoint, "eu-west-1", addressing, access_key="x", secret_key="y")
        bucket = Bucket(chosen)
        assert bucket.presigned("key", 60).startswith(f"{expected}p/key?")
        bucket.close()
