"""Collection from a bucket: no transaction waits for it, and what becomes of a deletion that was not answered."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from registry.content.s3 import S3Store
from registry.content.store import BlobStore
from registry.oci.digest import Digest
from registry.oci.errors import Unavailable
from registry.server.index import schema
from registry.server.index.engine import Index
from registry.server.service import collect, lease
from registry.server.service.collect import Choices, Collector
from tests.gc.keeper import QUICK, Keeper, store_of
from tests.support import s3
from tests.support.oci import (
    Content,
    blob,
    blob_path,
    config,
    finish,
    image,
    push_blob,
    push_manifest,
    start_upload,
)
from tests.support.warm import Forker, WarmServer

REPOSITORY = "team/app"
PART_BYTES = 5 << 20
LARGE_BYTES = 2 * PART_BYTES + 1000
GC = {"enabled": False, "grace_seconds": 0, "deletions_per_second": 0, "untagged": "delete"}


class Failing(S3Store):
    """A bucket whose deletions are not answered."""

    def take_away(self, digest: Digest) -> None:
        raise Unavailable("the object store does not answer")


@pytest.fixture
def storage(moto: s3.Moto) -> dict[str, Any]:
    return moto.settings(part_size_bytes=PART_BYTES)


@pytest.fixture
def registry(warm: Forker, tmp_path: Path, storage: dict[str, Any]) -> Iterator[WarmServer]:
    server = WarmServer(warm, tmp_path / "server", {"gc": GC, "policy": {"history_days": 0}})
    server.settings["storage"] = {**storage, "directory": str(server.data)}
    yield server.start()
    server.kill()


@pytest.fixture
def keeper(registry: WarmServer, storage: dict[str, Any]) -> Keeper:
    return Keeper(registry.data, open_store=store_of(storage, registry.data, PART_BYTES))


@pytest.fixture
def failing(registry: WarmServer, storage: dict[str, Any]) -> Keeper:
    return Keeper(registry.data, open_store=store_of(storage, registry.data, PART_BYTES, Failing))


def gc(warm: Forker, registry: WarmServer, failpoint: str) -> int:
    """`hythe admin gc`, killed at a failpoint; its exit status."""
    configuration = registry.directory / "admin.yaml"
    configuration.write_text(yaml.safe_dump(registry.settings))
    words = ["admin", "--config", str(configuration), "gc"]
    log = registry.directory / "log"
    return warm.start(words, {"HYTHE_FAILPOINT": failpoint}, log, Path(os.devnull)).wait(60)


@pytest.fixture(params=[1000, LARGE_BYTES], ids=["small", "large"])
def loose(request: pytest.FixtureRequest, http: httpx.Client) -> Content:
    return push_blob(http, REPOSITORY, blob(request.param))


def push(http: httpx.Client, content: Content) -> httpx.Response:
    return finish(http, start_upload(http, REPOSITORY), content.digest, content.data)


def let_it_settle(keeper: Keeper) -> None:
    """Instead of waiting until a request that was sent can come true no more."""
    keeper.execute("UPDATE condemned SET until_ms = 1")
    keeper.execute("UPDATE lease SET expires_ms = 1")


def test_nothing_of_the_garbage_is_left_and_everything_else_is(
    http: httpx.Client, keeper: Keeper, loose: Content, moto: s3.Moto, storage: dict[str, Any]
) -> None:
    made, layer = push_blob(http, REPOSITORY, config()), push_blob(http, REPOSITORY, blob(LARGE_BYTES))
    manifest = push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
    tally = keeper.collect(delete_untagged=True)
    assert (tally.unlinked, tally.deleted) == (1, 1)
    keeper.check_clean()
    assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data
    http.delete(f"/v2/{REPOSITORY}/manifests/{manifest.digest}")
    keeper.collect(delete_untagged=True)
    keeper.check_clean()
    assert keeper.rows(schema.condemned) == []
    left = moto.keys(storage["s3"]["prefix"])
    assert [key for key in left if not key.endswith("ready")] == []
    assert push(http, loose).status_code == 201
    assert http.get(blob_path(REPOSITORY, loose.digest)).content == loose.data


@pytest.mark.parametrize("loose", [1000], indirect=True, ids=["small"])
@pytest.mark.parametrize("point", ["gc.condemned", "gc.taken-away"])
def test_what_a_killed_collection_condemned_is_named_by_nobody_until_that_is_settled(
    warm: Forker, registry: WarmServer, http: httpx.Client, keeper: Keeper, loose: Content, point: str
) -> None:
    assert gc(warm, registry, point) == -signal.SIGKILL
    assert http.head(blob_path(REPOSITORY, loose.digest)).status_code == 404
    refused = push(http, loose)
    assert refused.status_code == 503
    assert "Retry-After" in refused.headers
    let_it_settle(keeper)
    assert push(http, loose).status_code == 201
    assert http.get(blob_path(REPOSITORY, loose.digest)).content == loose.data
    keeper.check()
    keeper.collect()
    keeper.check_clean()
    assert keeper.rows(schema.condemned) == []


@pytest.mark.parametrize("point", ["gc.condemned", "gc.taken-away"])
def test_the_next_collection_after_that_finishes(
    warm: Forker, registry: WarmServer, keeper: Keeper, loose: Content, point: str
) -> None:
    assert gc(warm, registry, point) == -signal.SIGKILL
    keeper.execute("UPDATE lease SET expires_ms = 1")
    assert keeper.collect(until_done=False).deleted == 0  # the first request may be under way still
    let_it_settle(keeper)
    assert keeper.collect().deleted == 1
    keeper.check_clean()


def test_a_deletion_that_was_not_answered_is_repeated_when_it_is_settled(
    http: httpx.Client, keeper: Keeper, failing: Keeper, loose: Content
) -> None:
    tally = failing.collect(until_done=False)
    assert (tally.unlinked, tally.deleted, len(tally.failures)) == (1, 0, 1)
    assert keeper.collect(until_done=False).deleted == 0
    assert push(http, loose).status_code == 503
    let_it_settle(keeper)
    assert keeper.collect().deleted == 1
    keeper.check_clean()


@pytest.mark.parametrize("loose", [1000], indirect=True, ids=["small"])
def test_a_collection_that_is_stopped_in_order_leaves_nothing_condemned(
    http: httpx.Client, keeper: Keeper, loose: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(index: Index, store: BlobStore) -> None:
        condemning, write = asyncio.Event(), index.write

        async def watched(function: Any, *args: Any, **options: Any) -> Any:
            if function is collect._condemn:
                condemning.set()
            return await write(function, *args, **options)

        monkeypatch.setattr(index, "write", watched)
        async with lease.take(index, "gc") as taken:
            assert taken is not None
            work = asyncio.create_task(Collector(index, store, Choices(0, QUICK)).collect(taken))
            await condemning.wait()
            work.cancel()
            await asyncio.wait([work])
            assert work.cancelled()

    keeper.run(stopped)
    assert keeper.rows(schema.condemned) == []
    assert loose.digest not in keeper.stored()
    assert push(http, loose).status_code == 201
