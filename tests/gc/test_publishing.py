"""A push whose bytes a collection deletes between their publication and the row that names them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from registry.content.files import FileStore
from registry.oci.digest import Digest
from registry.oci.errors import BlobUploadUnknown, Unavailable
from registry.oci.reference import Repository, Tag
from registry.server.auth.caller import Everybody
from registry.server.index import sweeps
from registry.server.index.engine import EmbeddedIndex
from registry.server.service.bodies import Chunk
from registry.server.service.policy import Policy
from registry.server.service.repository import Repositories
from registry.server.service.uploads import Uploads
from tests.gc.keeper import Keeper
from tests.support.oci import OCI_IMAGE, blob, config, image

pytestmark = pytest.mark.anyio
REPOSITORY = Repository("team/app")
CALLER = Everybody()


class Thief(FileStore):
    """A directory in which a collection strikes *times* times, at the worst moment: just before the link.

    As a distant store it is looked into only when the index says that something was deleted.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 2)
        self.times = 0
        self.looks = 0
        self.distant = False
        self.index: EmbeddedIndex | None = None

    @property
    def is_near(self) -> bool:
        return not self.distant

    def has(self, digest: Digest) -> bool:
        self.looks += 1
        if self.times and not self.distant:
            self.times -= 1
            self.take_away(digest)
        return super().has(digest)

    async def put(self, digest: Digest, pieces: Sequence[bytes]) -> None:
        await super().put(digest, pieces)
        if self.times and self.distant:
            self.times -= 1
            assert self.index is not None
            await self.index.destroy(sweeps.mark, digest)
            self.take_away(digest)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Thief]:
    made = Thief(tmp_path)
    yield made
    made.close()


@pytest.fixture
def index(store: Thief, migrated: Path, tmp_path: Path) -> Iterator[EmbeddedIndex]:
    made = EmbeddedIndex(Path(shutil.copy(migrated, tmp_path / "index.sqlite3")))
    store.index = made
    yield made
    made.close()


@pytest.fixture
def uploads(index: EmbeddedIndex, store: Thief) -> Uploads:
    return Uploads(index, store, Policy(), lambda: 100_000)


async def body(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


SIZES = pytest.mark.parametrize("size_bytes", [0, 1000, 3_000_000])


@SIZES
@pytest.mark.parametrize("times", [1, 3])
async def test_a_blob_in_one_request_is_there(
    uploads: Uploads, store: Thief, tmp_path: Path, size_bytes: int, times: int
) -> None:
    content, store.times = blob(size_bytes), times
    await uploads.push_whole(REPOSITORY, Digest(content.digest), size_bytes, body(content.data))
    assert await store.read(Digest(content.digest)) == content.data
    assert store.times == 0


@SIZES
async def test_a_blob_in_several_requests_is_there(uploads: Uploads, store: Thief, size_bytes: int) -> None:
    content, store.times = blob(size_bytes), 2
    session = await uploads.begin(CALLER, REPOSITORY)
    await uploads.append(CALLER, REPOSITORY, session.id, Chunk(), body(content.data))
    digest = Digest(content.digest)
    assert await uploads.finish(CALLER, REPOSITORY, session.id, digest, Chunk(), body(b"")) == size_bytes
    assert await store.read(digest) == content.data
    assert await uploads.finish(CALLER, REPOSITORY, session.id, digest, Chunk(), body(b"")) == size_bytes


async def test_an_upload_whose_bytes_an_earlier_request_published_and_lost_begins_anew(
    uploads: Uploads, store: Thief, index: EmbeddedIndex
) -> None:
    """The first closing request was killed after it published: nobody has the bytes any more but the client."""
    content = blob(3_000_000)
    digest = Digest(content.digest)
    session = await uploads.begin(CALLER, REPOSITORY)
    session = await uploads.append(CALLER, REPOSITORY, session.id, Chunk(), body(content.data))
    async with store.upload(session.id) as upload:
        await upload.begin(session.stored, "sha256")
        await upload.commit(digest)
    store.times = 1
    with pytest.raises(BlobUploadUnknown):
        await uploads.finish(CALLER, REPOSITORY, session.id, digest, Chunk(), body(b""))
    await uploads.push_whole(REPOSITORY, digest, None, body(content.data))
    assert await store.read(digest) == content.data


@pytest.mark.parametrize("distant", [False, True])
async def test_a_manifest_is_there(index: EmbeddedIndex, store: Thief, uploads: Uploads, distant: bool) -> None:
    made = config()
    await uploads.push_whole(REPOSITORY, Digest(made.digest), None, body(made.data))
    store.times, store.distant = 2, distant
    manifest = image(made, [])
    repositories = Repositories(index, store, Policy())
    await repositories.pushes.push(CALLER, REPOSITORY, Tag("v1"), [], OCI_IMAGE, manifest.data)
    assert await store.read(Digest(manifest.digest)) == manifest.data
    assert (await repositories.manifest(REPOSITORY, Tag("v1"))).payload == manifest.data


async def test_one_that_is_hit_again_and_again_is_refused_and_named_by_nothing(
    uploads: Uploads, store: Thief, index: EmbeddedIndex, tmp_path: Path
) -> None:
    content, store.times = blob(1000), 100
    with pytest.raises(Unavailable):
        await uploads.push_whole(REPOSITORY, Digest(content.digest), None, body(content.data))
    assert await index.read(lambda tx: tx.exec_driver_sql("SELECT count(*) FROM blob_link").scalar()) == 0


@pytest.mark.parametrize("times", [0, 1])
async def test_a_distant_store_is_looked_into_only_after_a_deletion(
    uploads: Uploads, store: Thief, times: int
) -> None:
    content = blob(1000)
    store.distant, store.times = True, times
    await uploads.push_whole(REPOSITORY, Digest(content.digest), None, body(content.data))
    assert store.looks == times
    assert await store.read(Digest(content.digest)) == content.data


async def test_deletions_of_other_bytes_are_told_apart_by_the_digest(index: EmbeddedIndex) -> None:
    first, second = Digest("sha256:" + "00" * 32), Digest("sha256:" + "01" + "00" * 31)
    await index.destroy(sweeps.mark, first)
    await index.destroy(sweeps.mark, first)
    assert [await index.read(sweeps.count, each) for each in (first, second)] == [2, 0]


def test_a_failed_commit_of_an_unlink_takes_no_bytes(tmp_path: Path, migrated: Path) -> None:
    """What destroys runs before all that is committed with it, so it sees nothing that may be taken back."""
    shutil.copy(migrated, tmp_path / "index.sqlite3")
    seen: list[int] = []

    def change(tx: object) -> None:
        tx.exec_driver_sql("INSERT INTO repository (name, created_ms) VALUES ('r', 0)")  # type: ignore[attr-defined]

    def look(tx: object) -> None:
        seen.append(tx.exec_driver_sql("SELECT count(*) FROM repository").scalar())  # type: ignore[attr-defined]

    async def both(index: EmbeddedIndex) -> None:
        import asyncio
        import threading

        entered, leave = threading.Event(), threading.Event()

        def block(tx: object) -> None:
            entered.set()
            leave.wait(10)

        first = asyncio.ensure_future(index.note(block))
        await asyncio.to_thread(entered.wait, 10)
        rest = [asyncio.ensure_future(index.write(change)), asyncio.ensure_future(index.destroy(look))]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(first, *rest)

    keeper = Keeper(tmp_path)
    keeper.run(lambda index, store: both(index))  # type: ignore[arg-type]
    assert seen == [0]
