"""A disk that is full: a clear error, nothing broken, and everything goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import processes
from tests.support.ledger import Ledger, Refused
from tests.support.oci import (
    Content,
    append,
    blob,
    blob_path,
    config,
    finish,
    image,
    manifest_path,
    patch,
    put_manifest,
    start_upload,
    uploads_path,
    with_query,
)
from tests.support.server import Server
from tests.support.warm import Forker, WarmServer

MIB = 1 << 20
DISK_BYTES = 24 * MIB
INDEX_BYTES = 4 * MIB
REPOSITORY = "team/app"
ATTEMPTS = 3000

Mount = Callable[[Path, int], None]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Put a disk of so many bytes in memory at a path, until the test is over."""
    mounted: list[Path] = []

    def at(path: Path, size_bytes: int) -> None:
        path.mkdir(parents=True)
        options = f"size={size_bytes},mode=0750"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "hythe-test", str(path)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(path)

    yield at
    for path in mounted:
        # Lazily: a server that a failed test left running may hold files of it for a moment.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Filler:
    """A file that leaves *left* bytes of a disk free until it is removed."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"
        self._disk = disk

    def fill(self, left: int = 0) -> None:
        self.remove()
        free = os.statvfs(self._disk).f_bavail * os.statvfs(self._disk).f_frsize
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - left))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class Registry:
    """A server on a small disk, with an image that was pushed while there was room."""

    def __init__(self, server: Server, disk: Path) -> None:
        self.server = server
        self.filler = Filler(disk)
        self.http = httpx.Client(base_url=server.url, timeout=30, trust_env=False)
        self.ledger = Ledger(self.http)
        self.config, self.layer = config(), blob(2 * MIB)
        for content in (self.config, self.layer):
            self.ledger.push_whole(REPOSITORY, content)
        self.manifest = image(self.config, [self.layer])
        self.ledger.put_manifest(REPOSITORY, self.manifest, "latest")
        self.ledger.check()

    def close(self) -> None:
        self.http.close()
        self.server.kill()


@pytest.fixture
def full_content(warm: Forker, mount: Mount, tmp_path: Path) -> Iterator[Registry]:
    """Bytes and index on one small disk."""
    server = WarmServer(warm, tmp_path / "server", {"index": {"url": ""}})
    mount(server.data, DISK_BYTES)
    registry = Registry(server.start(), server.data)
    yield registry
    registry.close()


@pytest.fixture
def full_index(warm: Forker, mount: Mount, tmp_path: Path) -> Iterator[Registry]:
    """Room for bytes, and an index on a small disk of its own."""
    disk = tmp_path / "index"
    mount(disk, INDEX_BYTES)
    server = WarmServer(warm, tmp_path / "server", {"index": {"url": f"sqlite:///{disk}/index.sqlite3"}})
    registry = Registry(server.start(), disk)
    yield registry
    registry.close()


def refused_as_full(response: httpx.Response) -> None:
    """The answer of a registry without room: a status and a sentence that say so."""
    assert response.status_code == 507, response.text
    [error] = response.json()["errors"]
    assert error["code"] == "STORAGE_FULL"
    assert "no space left" in error["message"]


def until_full(push: Callable[[int], None]) -> int:
    """Push until the registry has no room; returns how often it had."""
    for count in range(ATTEMPTS):
        try:
            push(count)
        except Refused as refused:
            refused_as_full(refused.response)
            return count
    raise AssertionError(f"{ATTEMPTS} pushes went into a small disk")


def whole(http: httpx.Client, content: Content) -> httpx.Response:
    return http.post(with_query(uploads_path(REPOSITORY), digest=content.digest), content=content.data)


class TestBytes:
    @pytest.mark.parametrize("size", [200_000, 3 * MIB])
    def test_pushes_are_refused_and_go_on_when_there_is_room_again(
        self, full_content: Registry, size: int
    ) -> None:
        http, ledger, filler = full_content.http, full_content.ledger, full_content.filler
        filler.fill(left=size // 2)
        content = blob(size)
        refused_as_full(whole(http, content))
        assert http.head(blob_path(REPOSITORY, content.digest)).status_code == 404
        session = start_upload(http, REPOSITORY)
        refused_as_full(patch(http, session, content.data))
        refused_as_full(finish(http, session, content.digest, content.data))
        assert http.get(session).headers["Range"] == "0-0"
        ledger.check()
        filler.remove()
        append(http, session, content.data, 0)
        ledger.finish(REPOSITORY, session, content)
        ledger.push_whole(REPOSITORY, blob(size))
        ledger.check()

    def test_what_a_refused_push_had_written_is_given_back(self, full_content: Registry) -> None:
        http, filler = full_content.http, full_content.filler
        filler.fill(left=2 * MIB)

        def free() -> int:
            state = os.statvfs(full_content.server.data)
            return state.f_bavail * state.f_frsize

        before = free()
        for _ in range(5):
            content = blob(4 * MIB)
            refused_as_full(whole(http, content))
            session = start_upload(http, REPOSITORY)
            refused_as_full(patch(http, session, content.data))
            refused_as_full(finish(http, session, content.digest, content.data))
        assert before - free() < MIB // 2
        small = blob(MIB)
        assert whole(http, small).status_code == 201

    def test_an_upload_keeps_what_it_had_and_is_gone_on_with(self, full_content: Registry) -> None:
        http, ledger, filler = full_content.http, full_content.ledger, full_content.filler
        content = blob(4 * MIB)
        session = append(http, start_upload(http, REPOSITORY), content.data[:MIB], 0)
        filler.fill(left=MIB)
        refused_as_full(patch(http, session, content.data[MIB:], MIB))
        assert http.get(session).headers["Range"] == f"0-{MIB - 1}"
        refused_as_full(finish(http, session, content.digest, content.data[MIB:], MIB))
        assert http.get(session).headers["Range"] == f"0-{MIB - 1}"
        filler.remove()
        session = append(http, session, content.data[MIB:], MIB)
        ledger.finish(REPOSITORY, session, content)
        ledger.check()

    def test_a_manifest_is_refused_and_its_tag_stays(self, full_content: Registry) -> None:
        http, ledger, filler = full_content.http, full_content.ledger, full_content.filler
        new = image(full_content.config, [full_content.layer], annotations={"padding": "x" * 300_000})
        filler.fill()
        refused_as_full(put_manifest(http, REPOSITORY, new, "latest"))
        assert http.get(manifest_path(REPOSITORY, "latest")).content == full_content.manifest.data
        assert http.head(manifest_path(REPOSITORY, new.digest)).status_code == 404
        ledger.check()
        filler.remove()
        ledger.put_manifest(REPOSITORY, new, "latest")
        ledger.check()

    def test_a_disk_that_fills_under_a_stream_of_small_pushes_loses_nothing(self, full_content: Registry) -> None:
        http, ledger, filler = full_content.http, full_content.ledger, full_content.filler
        filler.fill(left=2 * MIB)

        assert until_full(lambda _: ledger.push_whole(REPOSITORY, blob(20_000)))
        ledger.check()
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200
        filler.remove()
        ledger.push_whole(REPOSITORY, blob(20_000))
        ledger.check()
        assert http.get("/readyz").status_code == 200

    def test_deleting_makes_no_trouble_on_a_full_disk(self, full_content: Registry) -> None:
        """The row may find no room; then the registry says so, and nothing is half deleted."""
        http, ledger, filler = full_content.http, full_content.ledger, full_content.filler
        filler.fill()
        response = http.delete(manifest_path(REPOSITORY, "latest"))
        if response.status_code != 202:
            refused_as_full(response)
            ledger.check()
        filler.remove()
        ledger.delete_tag(REPOSITORY, "latest")
        ledger.check()

    def test_a_server_that_is_started_on_a_full_disk_serves_what_is_there(self, full_content: Registry) -> None:
        server, filler, ledger = full_content.server, full_content.filler, full_content.ledger
        filler.fill()
        assert server.stop() == 0
        try:
            server.start()
        except AssertionError:
            # Refusing to start is honest too, when a person is told why.
            assert "no space left" in server.log().lower()
            filler.remove()
            server.start()
        ledger.check()
        filler.remove()
        ledger.push_whole(REPOSITORY, blob(20_000))
        ledger.check()

    def test_nothing_of_this_is_a_fault_of_the_program(self, full_content: Registry) -> None:
        full_content.filler.fill()
        refused_as_full(whole(full_content.http, blob(MIB)))
        assert processes.tracebacks(full_content.server.log()) == []


class TestIndex:
    def test_a_full_index_refuses_and_goes_on_when_there_is_room_again(self, full_index: Registry) -> None:
        http, ledger, filler = full_index.http, full_index.ledger, full_index.filler
        filler.fill(left=100_000)

        def push(number: int) -> None:
            annotations = {"number": str(number), "padding": "x" * 5000}
            new = image(full_index.config, [full_index.layer], annotations=annotations)
            ledger.put_manifest(REPOSITORY, new, f"v{number}")

        assert until_full(push)
        ledger.check()
        filler.fill()
        # The index's log may still have room for something smaller.
        refused: list[Content] = []

        def push_blob(_: int) -> None:
            refused[:] = [blob(1000)]
            ledger.push_whole(REPOSITORY, refused[0])

        until_full(push_blob)
        assert http.head(blob_path(REPOSITORY, refused[0].digest)).status_code == 404
        ledger.check()
        filler.remove()
        ledger.push_whole(REPOSITORY, refused[0])
        push(ATTEMPTS)
        ledger.check()

    def test_uploads_stand_where_they_stood_and_are_gone_on_with(self, full_index: Registry) -> None:
        http, ledger, filler = full_index.http, full_index.ledger, full_index.filler
        large, small = blob(2 * MIB), blob(30_000)
        large_session = append(http, start_upload(http, REPOSITORY), large.data[:MIB], 0)
        small_session = append(http, start_upload(http, REPOSITORY), small.data[:10_000], 0)
        filler.fill()
        refused_as_full(patch(http, small_session, small.data[10_000:], 10_000))
        refused_as_full(finish(http, large_session, large.digest, large.data[MIB:], MIB))
        refused_as_full(finish(http, small_session, small.digest, small.data[10_000:], 10_000))
        refused_as_full(http.post(uploads_path(REPOSITORY)))
        filler.remove()
        ledger.finish(REPOSITORY, small_session, small, small.data[10_000:], 10_000)
        ledger.finish(REPOSITORY, large_session, large, large.data[MIB:], MIB)
        ledger.check()

    def test_after_a_full_index_a_restart_finds_everything(self, full_index: Registry) -> None:
        http, ledger, filler = full_index.http, full_index.ledger, full_index.filler
        filler.fill()
        for _ in range(5):
            refused_as_full(whole(http, Content(os.urandom(100))))
        full_index.server.kill()
        filler.remove()
        full_index.server.start()
        ledger.check()
        ledger.push_whole(REPOSITORY, blob(100))
        ledger.check()
