"""Moving in from a bucket, into a bucket, and out of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from registry.oci.errors import ConfigurationError
from tests.moving import holdings
from tests.moving.conftest import Run, StartPeer
from tests.support import images, peers, s3
from tests.support.peers import DockerRegistry
from tests.support.warm import Forker, WarmServer

pytestmark = pytest.mark.peer
Storage = dict[str, Any]


@pytest.fixture
def bucket(peer: DockerRegistry, moto: s3.Moto) -> str:
    """The prefix under which the world's files are objects, as docker-registry's S3 driver writes them."""
    prefix, client = s3.new_prefix(), moto.client()
    for path in peer.data.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), moto.bucket, prefix + str(path.relative_to(peer.data)))
    return prefix


@pytest.fixture
def start_on(warm: Forker, tmp_path: Path) -> Iterator[Callable[[Storage], WarmServer]]:
    """Start our registry on other storage."""
    running: list[WarmServer] = []

    def start(storage: Storage) -> WarmServer:
        server = WarmServer(warm, tmp_path / f"on{len(running)}", {"storage": storage, "gc": {"enabled": False}})
        running.append(server)
        return server.start()

    yield start
    for server in running:
        server.kill()


def test_a_bucket_is_taken_over_into_a_directory(
    bucket: str,
    moto: s3.Moto,
    registry: WarmServer,
    there: httpx.Client,
    here: httpx.Client,
    run: Run,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"storage": moto.settings("any")}))
    place = f"s3://{moto.bucket}/{bucket}"
    report = run("import", "--json", "--s3-settings", other, place).report
    assert report["problems"] == []
    assert set(report["blobs"]) <= {"copied", "present"}
    assert holdings.of(here) == holdings.of(there)
    again = run("import", "--json", "--s3-settings", other, place).report
    assert (again["manifests"], again["blobs"]) == (0, {})


def test_within_one_store_the_bytes_do_not_pass_here(
    bucket: str,
    moto: s3.Moto,
    start_on: Callable[[Storage], WarmServer],
    there: httpx.Client,
    run: Run,
    start_peer: StartPeer,
    tmp_path: Path,
) -> None:
    storage = moto.settings()
    server = start_on(storage)
    report = run("import", "--json", f"s3://{moto.bucket}/{bucket}", storage=server.settings["storage"]).report
    assert report["problems"] == []
    assert set(report["blobs"]) <= {"cloned", "present", "copied"}
    assert report["blobs"].get("copied", 0) <= 1  # the sha512 one, which is hashed anew
    expected = holdings.of(there)
    with peers.http_client(server) as here:
        assert holdings.of(here) == expected
    assert run("export", tmp_path / "out", "--format", "registry", storage=server.settings["storage"]).status == 0
    with peers.http_client(start_peer(tmp_path / "out")) as back:
        assert holdings.of(back) == expected


def test_a_directory_is_taken_over_into_a_bucket(
    peer: DockerRegistry, moto: s3.Moto, start_on: Callable[[Storage], WarmServer], there: httpx.Client, run: Run
) -> None:
    server = start_on(moto.settings())
    assert run("import", peer.data, storage=server.settings["storage"]).status == 0
    with peers.http_client(server) as here:
        assert holdings.of(here) == holdings.of(there)


def test_a_bucket_that_is_not_there_is_refused_in_a_sentence(
    moto: s3.Moto, registry: WarmServer, run: Run
) -> None:
    storage = {"storage": {**registry.settings["storage"], "s3": moto.settings()["s3"]}}
    with pytest.raises(ConfigurationError, match="cannot be used"):
        run("import", "s3://no-such-bucket/x", **storage)
    with pytest.raises(ConfigurationError, match="names no bucket"):
        run("import", "s3://", **storage)
    with pytest.raises(ConfigurationError, match="no repository under docker/registry/v2"):
        run("import", f"s3://{moto.bucket}/nothing-here", **storage)


def test_a_large_object_is_copied_within_the_store_in_parts(
    moto: s3.Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.content import s3_bucket
    from registry.content.s3_client import S3Options

    monkeypatch.setattr(s3_bucket, "_COPY_BYTES_MAX", 1000)
    options = {"endpoint": moto.endpoint, "access_key": s3.ACCESS_KEY, "secret_key": s3.SECRET_KEY}
    source, target = (s3_bucket.Bucket(S3Options(moto.bucket, s3.new_prefix(), **options)) for _ in "ab")
    data = images.noise(3500)
    source.put("large", data)
    assert target.is_beside(source)
    target.copy_from(source, "large", "copy", len(data))
    assert target.get("copy").read() == data
    for each in (source, target):
        each.close()
