"""Quotas: what counts, when a push is refused and told what, and that deleting makes room."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.cli import admin
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError
from registry.oci.reference import Repository
from registry.server.index import blobs, usage
from registry.server.index.engine import Index
from registry.server.service import quotas
from registry.server.service.quotas import Quota, QuotaExceeded, Quotas
from tests.gc.conftest import StartServer
from tests.gc.keeper import Keeper
from tests.history.conftest import Hythe, keeper_of
from tests.postgres.conftest import OpenIndex, database, open_index
from tests.support.oci import (
    blob,
    config,
    failure,
    finish,
    image,
    manifest_path,
    push_blob,
    push_manifest,
    put_manifest,
    start_upload,
    uploads_path,
    with_query,
)
from tests.support.warm import WarmServer

__all__ = ["database", "open_index"]

LIMIT = 100_000
HERE, BESIDE, ELSEWHERE = "team/app", "team/web", "other/app"


@pytest.fixture
def registry(start: StartServer) -> WarmServer:
    return start(policy={"quotas": {"team/*": "100kB", "*": "1GiB"}}, gc={"enabled": False, "grace_seconds": 0})


def is_refused(response: httpx.Response) -> bool:
    if response.status_code == 403:
        assert failure(response) == (403, "DENIED")
        assert "the quota of team/* is 97.7 KiB" in response.json()["errors"][0]["message"]
        return True
    assert response.status_code in (201, 202), response.text
    return False


def push(http: httpx.Client, repository: str, size_bytes: int) -> httpx.Response:
    """A blob in one request."""
    content = blob(size_bytes)
    url = with_query(uploads_path(repository), digest=content.digest)
    return http.post(url, content=content.data, headers={"Content-Type": "application/octet-stream"})


class TestPushes:
    def test_one_that_does_not_fit_is_refused_and_a_smaller_one_is_not(self, http: httpx.Client) -> None:
        assert not is_refused(push(http, HERE, 60_000))
        refused = push(http, BESIDE, 50_000)
        assert is_refused(refused)
        [error] = refused.json()["errors"]
        assert error["message"] == (
            "the quota of team/* is 97.7 KiB, 58.6 KiB are used, most of them by team/app (58.6 KiB); "
            "delete some, or ask for a larger one"
        )
        assert error["detail"] == {"quota": "team/*", "limit_bytes": LIMIT, "used_bytes": 60_000}
        assert not is_refused(push(http, BESIDE, 40_000))
        assert is_refused(push(http, HERE, 1))
        assert not is_refused(push(http, ELSEWHERE, 200_000))

    def test_an_upload_is_refused_at_its_end_and_can_be_finished_when_there_is_room(
        self, http: httpx.Client, keeper: Keeper
    ) -> None:
        push(http, HERE, 60_000)
        session, content = start_upload(http, HERE), blob(70_000)
        assert is_refused(finish(http, session, content.digest, content.data))
        keeper.collect()
        time.sleep(0.25)  # a refusal may be as old
        assert not is_refused(finish(http, session, content.digest, content.data))

    def test_when_all_is_used_nobody_begins(self, http: httpx.Client) -> None:
        push(http, HERE, LIMIT)
        assert is_refused(http.post(uploads_path(BESIDE)))
        assert http.post(uploads_path(ELSEWHERE)).status_code == 202

    def test_a_mount_counts_what_is_new_in_the_namespace(self, http: httpx.Client) -> None:
        shared, foreign = blob(60_000), blob(60_000)
        push_blob(http, HERE, shared)
        push_blob(http, ELSEWHERE, foreign)

        def mount(content: Any, source: str) -> httpx.Response:
            return http.post(with_query(uploads_path(BESIDE), mount=content.digest, **{"from": source}))

        assert mount(shared, HERE).status_code == 201
        assert is_refused(mount(foreign, ELSEWHERE))
        push_blob(http, BESIDE, shared)

    def test_a_manifest_counts(self, http: httpx.Client) -> None:
        made, layer = push_blob(http, HERE, config()), push_blob(http, HERE, blob(98_000))
        assert not is_refused(put_manifest(http, HERE, image(made, [layer]), "v1"))
        large = image(made, [layer], annotations={"words": "x" * 2000})
        assert is_refused(put_manifest(http, HERE, large, "v2"))
        push_manifest(http, HERE, image(made, [layer]), "v3")

    def test_deleting_and_collecting_makes_room_when_the_history_is_forgotten(self, start: StartServer) -> None:
        server = start(policy={"quotas": {"team/*": LIMIT}, "history_days": 30})
        keeper = keeper_of(server)
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:
            made, layer = push_blob(http, HERE, config()), push_blob(http, HERE, blob(90_000))
            manifest = push_manifest(http, HERE, image(made, [layer]), "v1")
            assert http.delete(manifest_path(HERE, manifest.digest)).status_code == 202
            keeper.collect()
            assert is_refused(push(http, HERE, 50_000))
            keeper.execute("DELETE FROM tag_history")
            keeper.collect()
            time.sleep(0.25)
            assert not is_refused(push(http, HERE, 50_000))


class TestWords:
    def test_an_operator_sees_what_is_used(
        self, registry: WarmServer, http: httpx.Client, hythe: Hythe, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shared = blob(30_000)
        for repository in (HERE, BESIDE, ELSEWHERE):
            push_blob(http, repository, shared)
        push(http, BESIDE, 20_000)
        everything, team = hythe("quota")
        assert team == {
            "pattern": "team/*",
            "limit_bytes": LIMIT,
            "used_bytes": 50_000,
            "largest": [
                {"repository": BESIDE, "size_bytes": 50_000},
                {"repository": HERE, "size_bytes": 30_000},
            ],
        }
        assert (everything["used_bytes"], everything["limit_bytes"]) == (50_000, 1 << 30)
        admin.run(["--config", str(registry.directory / "admin.yaml"), "quota"])
        heading, _, line = capsys.readouterr().out.splitlines()
        assert heading.split() == ["PATTERN", "USED", "QUOTA", "LARGEST"]
        assert line.split() == [
            *("team/*", "50", "kB", "100", "kB", "50%"),
            *("team/web", "(50", "kB),", "team/app", "(30", "kB)"),
        ]

    @pytest.mark.parametrize(
        ("size", "expected"),
        [("10GiB", 10 << 30), ("500MB", 500_000_000), ("1.5 KiB", 1536), (7, 7), ("0", 0), ("1tb", 10**12)],
    )
    def test_a_size_is_read(self, size: int | str, expected: int) -> None:
        assert Quota.parse("team/*", size).limit_bytes == expected

    @pytest.mark.parametrize(
        ("pattern", "size"),
        [
            *[("team/*", size) for size in ("much", "-1", "10 Gi", "", "nanB")],
            *[(pattern, 1) for pattern in ("Team/*", "*/app", "team-*", "team/*/x", "")],
        ],
    )
    def test_a_mistake_is_told_in_a_sentence(self, pattern: str, size: int | str) -> None:
        with pytest.raises(ConfigurationError, match=r"^policy\.quotas: "):
            Quota.parse(pattern, size)

    @pytest.mark.parametrize("pattern", ["team/*", "team/app", "team/sub/*", "*"])
    def test_the_index_counts_the_repositories_that_a_pattern_covers(self, pattern: str, migrated: Path) -> None:
        bounds = usage.scope(pattern)
        for name in (
            "team/app",
            "team/apple",
            "team/sub/x",
            "team/sub",
            "team",
            "team-x/y",
            "teams/a",
            "a",
            "z/z",
        ):
            covered = bounds["first"] <= name < bounds["beyond"]
            assert covered is Quota(pattern, 1).covers(name), name


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that may follow each other at once."""
    for name in ("RECOUNT_SECONDS", "_REFUSAL_SECONDS", "_REST"):
        monkeypatch.setattr(quotas, name, 0.0)


async def take(index: Index, room: Quotas, number: int) -> bool:
    """Push a blob of 10 bytes into one of two repositories; False when it was refused."""
    digest = Digest.of(b"blob %d" % number)
    repository = Repository(("team/app", "team/web")[number % 2])
    try:
        await room.take(None, repository, digest, 10)
    except QuotaExceeded:
        return False
    await index.write(blobs.link, repository, digest, 10)
    return True


@pytest.mark.parametrize("slices", [1, 16, 256])
def test_a_count_is_the_same_in_any_number_of_slices(open_index: OpenIndex, slices: int) -> None:
    async def run() -> None:
        index = open_index()
        for number in range(40):
            for name in ("team/app", "team/web") if number % 3 else ("team/app",):
                digest = Digest.of(b"%d" % number, "sha512" if number % 5 == 0 else "sha256")
                await index.write(blobs.link, Repository(name), digest, number)
        parts = list(usage.slices(slices))
        found = [await index.read(usage.total, "team/*", part) for part in parts]
        assert (sum(count for count, _ in found), sum(size for _, size in found)) == (40, sum(range(40)))
        each = [await index.read(usage.by_repository, "team/*", part) for part in parts]
        assert sum(part.get("team/app", 0) for part in each) == sum(range(40))

    asyncio.run(run())


def test_one_process_never_exceeds_a_quota_however_many_push_at_once(open_index: OpenIndex) -> None:
    async def run() -> None:
        index = open_index()
        room = Quotas(index, [Quota("team/*", 205)])
        done = await asyncio.gather(*(take(index, room, number) for number in range(60)))
        assert sum(done) == 20
        [used] = await room.usage()
        assert used.used_bytes == 200

    asyncio.run(run())


def test_several_processes_exceed_it_by_what_they_take_between_two_counts(
    open_index: OpenIndex, frequent: None
) -> None:
    async def run() -> None:
        one, other = open_index(), open_index()
        rooms = [(index, Quotas(index, [Quota("team/*", 200)])) for index in (one, other)]
        for number in range(60):
            await take(*rooms[number % 2], number)
            await asyncio.sleep(0)
        [used] = await rooms[0][1].usage()
        assert 200 <= used.used_bytes <= 300

    asyncio.run(run())
