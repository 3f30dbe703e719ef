"""`hythe admin copy-store`, and changing over to another store while clients push."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.oci.errors import ConfigurationError
from tests.gc.keeper import Keeper
from tests.moving.conftest import Run
from tests.support import images, oci, s3
from tests.support.warm import WarmServer


@pytest.fixture
def elsewhere(moto: s3.Moto) -> dict[str, Any]:
    """The section `storage.s3` of a part of the bucket that is this test's."""
    return dict(moto.settings()["s3"])


def name_of(section: dict[str, Any]) -> str:
    return f"s3://{section['bucket']}/{section['prefix']}"


def fill(http: httpx.Client, keeper: Keeper) -> set[str]:
    """Push what has small and large blobs, of both algorithms; returns all digests."""
    for algorithm in ("sha256", "sha512"):
        oci.push_image(http, "team/app", layers=2, algorithm=algorithm)
    large = oci.Content(images.noise(20 << 20), oci.OCTET_STREAM)
    oci.push_blob(http, "team/app", large)
    return keeper.stored()


def test_a_store_is_the_same_after_a_way_through_a_bucket(
    here: httpx.Client, keeper: Keeper, run: Run, elsewhere: dict[str, Any], tmp_path: Path, registry: WarmServer
) -> None:
    stored = fill(here, keeper)
    words: dict[str, Any] = {"storage": {**registry.settings["storage"], "s3": elsewhere}}
    planned = run("copy-store", "--json", "--dry-run", registry.data, name_of(elsewhere), **words).report
    there = run("copy-store", "--json", registry.data, name_of(elsewhere), **words).report
    assert planned == there
    assert (there["blobs"], there["present"], there["damaged"]) == (len(stored), 0, [])
    again = run("copy-store", "--json", registry.data, name_of(elsewhere), **words).report
    assert (again["blobs"], again["present"]) == (0, len(stored))
    assert run("copy-store", name_of(elsewhere), tmp_path / "back", **words).status == 0
    back = Keeper(tmp_path / "back")
    assert back.stored() == stored
    for path in (tmp_path / "back/blobs").rglob("*/*/*"):
        assert path.read_bytes() == (registry.data / path.relative_to(tmp_path / "back")).read_bytes()
    assert back.leftovers() == []


def test_damaged_bytes_are_named_and_not_carried_on(
    here: httpx.Client, keeper: Keeper, run: Run, registry: WarmServer, tmp_path: Path
) -> None:
    stored = fill(here, keeper)
    victims = [max(keeper.directory.glob("blobs/*/*/*"), key=lambda path: path.stat().st_size)]
    victims.append(min(keeper.directory.glob("blobs/*/*/*"), key=lambda path: path.stat().st_size))
    for victim in victims:
        victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    done = run("copy-store", registry.data, tmp_path / "copy")
    assert done.status == 1
    copied = Keeper(tmp_path / "copy")
    assert len(stored - copied.stored()) == 2
    for digest in stored - copied.stored():
        assert digest in done.err
    assert copied.leftovers() == []


def test_a_settings_file_names_a_store_too(
    here: httpx.Client, keeper: Keeper, run: Run, registry: WarmServer, tmp_path: Path
) -> None:
    stored = fill(here, keeper)
    other = tmp_path / "other.yaml"
    other.write_text(f"storage: {{directory: {tmp_path}/copy}}")
    assert run("copy-store", registry.data, other).status == 0
    assert Keeper(tmp_path / "copy").stored() == stored


def test_what_is_no_store_is_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no content store"):
        run("copy-store", tmp_path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


class Pusher(threading.Thread):
    """A client that pushes images all the time, and remembers what was answered 201."""

    def __init__(self, server: WarmServer) -> None:
        super().__init__()
        self.server = server
        self.pushed: list[oci.Content] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.server.url, timeout=30, trust_env=False) as http:
            while not self.stopped.is_set():
                try:
                    self.pushed.append(oci.push_image(http, "team/app", f"v{len(self.pushed)}"))
                except (httpx.TransportError, AssertionError):
                    self.stopped.wait(0.02)  # it is being restarted: try again

    def wait_for_more(self, count: int = 5) -> None:
        wanted = len(self.pushed) + count
        while len(self.pushed) < wanted:
            assert self.is_alive()
            self.stopped.wait(0.02)


def test_changing_over_while_clients_push_loses_nothing(
    registry: WarmServer, run: Run, elsewhere: dict[str, Any]
) -> None:
    """The steps of docs/moving.md, one by one."""
    before = dict(registry.settings["storage"])
    both = {**before, "s3": elsewhere}
    copy = ("copy-store", registry.data, name_of(elsewhere))
    pusher = Pusher(registry)
    pusher.start()
    try:
        pusher.wait_for_more()
        assert run(*copy, storage=both).status == 0
        pusher.wait_for_more()
        assert run(*copy, storage=both).status == 0
        pusher.wait_for_more()
        assert registry.stop() == 0
        registry.settings["storage"] = {**both, "kind": "s3"}
        registry.start()
        pusher.wait_for_more()
        assert run(*copy).status == 0
        pusher.wait_for_more()
    finally:
        pusher.stopped.set()
        pusher.join()
    full = run("gc", "--full", gc={"enabled": False})
    assert full.status == 0, full.err
    with httpx.Client(base_url=registry.url, timeout=30, trust_env=False) as http:
        for number, manifest in enumerate(pusher.pushed):
            assert http.get(oci.manifest_path("team/app", f"v{number}")).content == manifest.data
            for layer in manifest.document["layers"]:
                data = http.get(oci.blob_path("team/app", layer["digest"])).content
                assert oci.digest_of(data) == layer["digest"]
