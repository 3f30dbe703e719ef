"""A scrub that is killed, and one beside pushes of the very digest that it sets aside."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.care.conftest import Admin, StartServer, client
from tests.care.damage import Vandal
from tests.support import s3
from tests.support.oci import blob, blob_path, config, image, manifest_path, push_blob, push_manifest
from tests.support.postgres import Postgres
from tests.support.warm import Forker, WarmServer

REPOSITORY = "team/app"


def killed(warm: Forker, server: WarmServer, directory: Path, point: str) -> int:
    path = directory / "operator.yaml"
    path.write_text(yaml.safe_dump(server.settings))
    words = ["admin", "--config", str(path), "verify", "--all", "--heal"]
    return warm.start(words, {"HYTHE_FAILPOINT": point}, directory / "log", directory / "reached").wait(60)


@pytest.mark.parametrize(
    ("what", "point"),
    [
        ("layer", "scrub.aside"),
        ("layer", "scrub.forgotten"),
        ("manifest", "scrub.aside"),
        ("manifest", "scrub.forgotten"),
    ],
)
def test_one_that_is_killed_in_a_directory_is_ended_by_the_next(
    what: str, point: str, near: WarmServer, warm: Forker, hythe: Admin, tmp_path: Path
) -> None:
    with client(near) as http:
        layer, made = push_blob(http, REPOSITORY, blob(3000)), push_blob(http, REPOSITORY, config())
        manifest = push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
        Vandal(near).flip(layer.digest if what == "layer" else manifest.digest)
        assert killed(warm, near, tmp_path, point) == -signal.SIGKILL
        assert http.get(manifest_path(REPOSITORY, "v1")).content == manifest.data
        assert hythe(near, "verify", "--all", "--heal")[0] == (1 if what == "layer" else 0)
        if what == "layer":
            assert http.head(blob_path(REPOSITORY, layer.digest)).status_code == 404
            push_blob(http, REPOSITORY, layer)
        assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data
    assert hythe(near, "verify", "--all")[0] == 0
    assert len(Vandal(near).quarantined()) == 1


@pytest.mark.parametrize("point", ["scrub.condemned", "scrub.aside", "scrub.forgotten"])
def test_one_that_is_killed_in_a_bucket_is_ended_by_the_next(
    point: str, start: StartServer, moto: s3.Moto, postgres: Postgres, warm: Forker, hythe: Admin, tmp_path: Path
) -> None:
    database = postgres.database()
    storage = moto.settings(part_size_bytes=5 << 20)
    server = start(index={"url": postgres.url(database)}, storage=storage)
    with client(server) as http:
        layer = push_blob(http, REPOSITORY, blob(6 << 20))
        made = push_blob(http, REPOSITORY, config())
        push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
        Vandal(server, moto).flip(layer.digest)
        assert killed(warm, server, tmp_path, point) == -signal.SIGKILL
        postgres.execute(database, "UPDATE condemned SET until_ms = 0")  # as its time does
        assert hythe(server, "verify", "--all", "--heal")[0] == 1
        assert http.head(blob_path(REPOSITORY, layer.digest)).status_code == 404
        push_blob(http, REPOSITORY, layer)
        assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data
    assert hythe(server, "verify", "--all")[0] == 0


@pytest.mark.parametrize("size_bytes", [3000, 2_000_000])
def test_a_push_at_the_same_moment_always_wins(near: WarmServer, hythe: Admin, size_bytes: int) -> None:
    """An answered push is there, whatever the scrub was about to set aside."""
    vandal = Vandal(near)
    layer = blob(size_bytes)
    with client(near) as http, ThreadPoolExecutor(2) as pool:
        made = push_blob(http, REPOSITORY, config())
        push_blob(http, REPOSITORY, layer)
        push_manifest(http, REPOSITORY, image(made, [layer]), "v1")
        for _ in range(15):
            vandal.flip(layer.digest)
            together = threading.Barrier(2)

            def push(together: threading.Barrier = together) -> None:
                together.wait(10)
                for _ in range(3):
                    push_blob(http, REPOSITORY, layer)

            pushing = pool.submit(push)
            together.wait(10)
            hythe(near, "verify", "--all", "--heal")
            pushing.result()
            assert http.get(blob_path(REPOSITORY, layer.digest)).content == layer.data
            assert hythe(near, "verify", "--all")[0] == 0
