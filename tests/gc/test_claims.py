"""A bucket: between the bytes of a push and its row, which only its client could make good, nothing is deleted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.content.s3 import S3Store
from registry.content.s3_upload import S3Upload
from registry.oci.digest import Digest
from registry.oci.errors import BlobUploadUnknown, DigestInvalid, Unavailable
from registry.oci.reference import Repository
from registry.server.auth.caller import Everybody
from registry.server.index import candidates, claims, garbage, schema
from registry.server.index import uploads as rows
from registry.server.index.engine import EmbeddedIndex
from registry.server.service.bodies import Chunk
from registry.server.service.collect import Choices
from registry.server.service.policy import Policy
from registry.server.service.uploads import Uploads
from tests.gc.keeper import QUICK, collect, everything, store_of
from tests.support import s3
from tests.support.oci import Content, blob

pytestmark = pytest.mark.anyio
REPOSITORY = Repository("team/app")
CALLER = Everybody()
PART_BYTES = 5 << 20
SIZES = pytest.mark.parametrize("size_bytes", [2_000_000, 2 * PART_BYTES + 1000], ids=["small", "large"])


class Meddled(S3Store):
    """A bucket in which something happens between the bytes of an upload and its row."""

    meddle: Callable[[Digest], Awaitable[None]] | None = None

    @contextlib.asynccontextmanager
    async def upload(self, session: str) -> AsyncIterator[S3Upload]:
        async with super().upload(session) as upload:
            commit = upload.commit

            async def and_then(expected: Digest) -> int:
                size_bytes = await commit(expected)
                if self.meddle is not None:
                    await self.meddle(expected)
                return size_bytes

            upload.commit = and_then  # type: ignore[method-assign]
            yield upload


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def storage(moto: s3.Moto) -> dict[str, Any]:
    return moto.settings(part_size_bytes=PART_BYTES)


@pytest.fixture
def store(storage: dict[str, Any], tmp_path: Path) -> Iterator[Meddled]:
    made = store_of(storage, tmp_path / "here", PART_BYTES, Meddled)()
    assert isinstance(made, Meddled)
    yield made
    made.close()


@pytest.fixture
def elsewhere(storage: dict[str, Any], tmp_path: Path) -> Iterator[S3Store]:
    """The same bucket on another machine."""
    made = store_of(storage, tmp_path / "elsewhere", PART_BYTES)()
    yield made
    made.close()


@pytest.fixture
def index(migrated: Path, tmp_path: Path) -> Iterator[EmbeddedIndex]:
    made = EmbeddedIndex(Path(shutil.copy(migrated, tmp_path / "index.sqlite3")))
    yield made
    made.close()


@pytest.fixture
def uploads(index: EmbeddedIndex, store: Meddled) -> Uploads:
    return Uploads(index, store, Policy(), lambda: 100_000)


async def body(data: bytes = b"") -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


async def append(uploads: Uploads, data: bytes) -> str:
    session = await uploads.begin(CALLER, REPOSITORY)
    return (await uploads.append(CALLER, REPOSITORY, session.id, Chunk(), body(data))).id


async def finish(uploads: Uploads, session: str, content: Content, data: bytes = b"") -> int:
    return await uploads.finish(CALLER, REPOSITORY, session, Digest(content.digest), Chunk(), body(data))


async def in_chunks(uploads: Uploads, content: Content) -> int:
    return await finish(uploads, await append(uploads, content.data), content)


async def in_the_closing_request(uploads: Uploads, content: Content) -> int:
    return await finish(uploads, (await uploads.begin(CALLER, REPOSITORY)).id, content, content.data)


async def in_one_request(uploads: Uploads, content: Content) -> int:
    return await uploads.push_whole(REPOSITORY, Digest(content.digest), None, body(content.data), CALLER)


async def strike(index: EmbeddedIndex, store: S3Store, digest: str) -> int:
    """A collection that finds a digest due; how many were deleted."""
    await index.write(candidates.add, candidates.BYTES, [digest], "test")
    await asyncio.sleep(0.002)  # the database's clock goes on
    return (await collect(index, store, Choices(0, QUICK))).deleted


@SIZES
@pytest.mark.parametrize("push", [in_chunks, in_the_closing_request, in_one_request])
async def test_a_collection_before_the_row_leaves_what_was_pushed(
    index: EmbeddedIndex, store: Meddled, uploads: Uploads, size_bytes: int, push: Callable[..., Awaitable[int]]
) -> None:
    content, deleted = blob(size_bytes), []

    async def meddle(digest: Digest) -> None:
        deleted.append(await strike(index, store, digest))

    store.meddle = meddle
    assert await push(uploads, content) == size_bytes
    assert deleted == [0]
    assert await store.read(Digest(content.digest)) == content.data
    assert await index.read(everything, schema.claim) == []


@SIZES
async def test_a_closing_request_that_lost_the_index_is_repeated_after_any_collection(
    index: EmbeddedIndex, store: Meddled, uploads: Uploads, size_bytes: int
) -> None:
    content = blob(size_bytes)
    session = await lose_the_index(store, uploads, content)
    assert await strike(index, store, content.digest) == 0
    assert await finish(uploads, session, content) == size_bytes
    assert await store.read(Digest(content.digest)) == content.data
    assert await index.read(everything, schema.claim) == []


async def lose_the_index(store: Meddled, uploads: Uploads, content: Content) -> str:
    """A closing request that publishes, and never writes its row."""

    async def lose(digest: Digest) -> None:
        raise Unavailable

    session = await append(uploads, content.data)
    store.meddle = lose
    with pytest.raises(Unavailable):
        await finish(uploads, session, content)
    store.meddle = None
    return session


@SIZES
@pytest.mark.parametrize("end", ["cancelled", "expired"])
async def test_what_an_upload_was_given_up_after_is_garbage(
    index: EmbeddedIndex, store: Meddled, uploads: Uploads, size_bytes: int, end: str
) -> None:
    content = blob(size_bytes)
    session = await lose_the_index(store, uploads, content)
    assert await strike(index, store, content.digest) == 0  # which is the last that is known of these bytes
    if end == "cancelled":
        await uploads.cancel(CALLER, REPOSITORY, session)
    else:
        await index.write(lambda tx: tx.execute(schema.upload.update().values(touched_ms=1)))
        assert await uploads.expire() == 1
    assert await index.read(everything, schema.claim) == []
    await asyncio.sleep(0.002)
    assert (await collect(index, store, Choices(0, QUICK))).deleted == 1
    assert await store.size(Digest(content.digest)) is None


async def test_the_claim_of_a_killed_request_without_an_upload_ends_with_its_time(
    index: EmbeddedIndex, store: Meddled, uploads: Uploads
) -> None:
    content = blob(1000)
    await store.put(Digest(content.digest), [content.data])
    await index.write(claims.take, Digest(content.digest), "killed")
    open_upload = await append(uploads, b"x")
    await index.write(claims.take, Digest(content.digest), open_upload)
    assert await uploads.expire() == 0
    assert len(await index.read(everything, schema.claim)) == 2
    await index.write(lambda tx: tx.execute(schema.claim.update().values(since_ms=1)))
    await uploads.expire()
    assert [row["holder"] for row in await index.read(everything, schema.claim)] == [open_upload]
    due = await index.read(garbage.of, candidates.BYTES, content.digest, False)
    assert due is not None
    assert due.candidate.reason == "upload given up"


async def test_a_refused_digest_claims_nothing(index: EmbeddedIndex, uploads: Uploads) -> None:
    session = await append(uploads, blob(100_000).data)
    with pytest.raises(DigestInvalid):
        await finish(uploads, session, blob(10))
    assert await index.read(everything, schema.claim) == []


async def test_nor_does_one_take_the_claim_of_another_request(index: EmbeddedIndex, uploads: Uploads) -> None:
    session, other = await append(uploads, blob(100_000).data), blob(10)
    await index.write(rows.close, session, Digest(other.digest))
    with pytest.raises(DigestInvalid):
        await finish(uploads, session, other)
    assert [row["digest"] for row in await index.read(everything, schema.claim)] == [other.digest]


@pytest.mark.parametrize("is_contested", [True, False])
async def test_parts_that_another_request_may_be_joining_are_not_given_up(
    index: EmbeddedIndex,
    store: Meddled,
    uploads: Uploads,
    moto: s3.Moto,
    storage: dict[str, Any],
    is_contested: bool,
) -> None:
    content = blob(2 * PART_BYTES)
    session = await append(uploads, content.data)
    if is_contested:
        await index.write(rows.close, session, Digest(content.digest))
    client, prefix = moto.client(), storage["s3"]["prefix"]
    found = client.list_multipart_uploads(Bucket=moto.bucket, Prefix=prefix)["Uploads"]
    for each in found:  # as it looks while they are being joined
        client.abort_multipart_upload(Bucket=moto.bucket, Key=each["Key"], UploadId=each["UploadId"])
    with pytest.raises(Unavailable if is_contested else BlobUploadUnknown):
        await finish(uploads, session, content)


@SIZES
async def test_the_same_closing_request_on_two_machines_at_once_is_answered_twice(
    index: EmbeddedIndex, store: Meddled, uploads: Uploads, elsewhere: S3Store, size_bytes: int
) -> None:
    """The first one has published, and is answered by the index only after the second one."""
    content = blob(size_bytes)
    session = await append(uploads, content.data)
    other = Uploads(index, elsewhere, Policy(), lambda: 100_000)
    answers = []

    async def meddle(digest: Digest) -> None:
        answers.append(await finish(other, session, content))

    store.meddle = meddle
    answers.append(await finish(uploads, session, content))
    assert answers == [size_bytes, size_bytes]
    assert await store.read(Digest(content.digest)) == content.data
    assert await index.read(everything, schema.claim) == []


@SIZES
async def test_and_one_that_looked_before_the_other_was_done_too(
    index: EmbeddedIndex, store: Meddled, uploads: Uploads, size_bytes: int
) -> None:
    content = blob(size_bytes)
    session = await append(uploads, content.data)
    both = await asyncio.gather(*[finish(uploads, session, content) for _ in range(2)])
    assert both == [size_bytes, size_bytes]
