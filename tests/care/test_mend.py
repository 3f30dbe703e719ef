"""Mending in a bucket: a stop in the middle leaves nothing that cannot be pushed, and no push is disturbed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.content.s3 import S3Store
from registry.oci.digest import Digest
from registry.oci.errors import Unavailable
from registry.oci.reference import Repository
from registry.server.index import blobs, claims, schema
from registry.server.index.engine import EmbeddedIndex
from registry.server.index.inventory import Record
from registry.server.index.migrate import migrate_sqlite
from registry.server.service import mend
from registry.server.service.examine import Examiner, Finding
from registry.server.service.mend import Mender, Outcome
from registry.server.service.policy import Policy
from registry.server.service.uploads import Uploads
from tests.gc.keeper import everything, store_of
from tests.support import s3

pytestmark = pytest.mark.anyio
REPOSITORY = Repository("team/app")
DATA = b"right" * 1000
DIGEST = Digest(f"sha256:{hashlib.sha256(DATA).hexdigest()}")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    path = tmp_path / "index.sqlite3"
    migrate_sqlite(path)
    made = EmbeddedIndex(path)
    yield made
    made.close()


@pytest.fixture
def storage(moto: s3.Moto) -> dict[str, Any]:
    return moto.settings(part_size_bytes=5 << 20)


@pytest.fixture
def store(storage: dict[str, Any], tmp_path: Path) -> Iterator[S3Store]:
    made = store_of(storage, tmp_path / "store", 5 << 20)()
    yield made
    made.close()


@pytest.fixture
async def wrong(index: EmbeddedIndex, store: S3Store, moto: s3.Moto, storage: dict[str, Any]) -> Finding:
    """A blob whose bytes have changed in the store."""
    await store.put(DIGEST, [DATA])
    await index.write(blobs.link, REPOSITORY, DIGEST, len(DATA))
    [key] = moto.keys(storage["s3"]["prefix"])
    moto.client().put_object(Bucket=moto.bucket, Key=storage["s3"]["prefix"] + key, Body=b"WRONG" * 1000)
    found = await Examiner(index, store).examine(Record(DIGEST, len(DATA)))
    assert found is not None
    return found


async def push(index: EmbeddedIndex, store: S3Store) -> None:
    async def body() -> Any:
        yield DATA

    await Uploads(index, store, Policy(), lambda: 1000).push_whole(REPOSITORY, DIGEST, None, body())
    assert await store.read(DIGEST) == DATA


async def test_a_stop_in_the_middle_brings_what_was_begun_to_its_end(
    index: EmbeddedIndex, store: S3Store, wrong: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemning, write = asyncio.Event(), index.write

    async def watched(function: Any, *args: Any, **options: Any) -> Any:
        if function is mend._condemn:
            condemning.set()
        return await write(function, *args, **options)

    monkeypatch.setattr(index, "write", watched)
    work = asyncio.create_task(Mender(index, store).mend(wrong))
    await condemning.wait()
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert await index.read(everything, schema.condemned) == []
    assert await store.size(DIGEST) is None
    assert await index.read(blobs.size, REPOSITORY, DIGEST) is None, "clients are told to push it again"
    await push(index, store)


async def test_bytes_that_an_upload_is_about_to_become_are_mended_later(
    index: EmbeddedIndex, store: S3Store, wrong: Finding
) -> None:
    await index.write(claims.take, DIGEST, "an upload")
    with pytest.raises(Unavailable, match="try again later"):
        await Mender(index, store).mend(wrong)
    assert await index.read(everything, schema.condemned) == []
    await index.write(lambda tx: tx.execute(schema.claim.update().values(since_ms=1)))
    assert await Mender(index, store).mend(wrong) is Outcome.WAITS, "who has claimed it was killed long ago"
    await push(index, store)
