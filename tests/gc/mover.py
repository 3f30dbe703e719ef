"""An operator who takes over the storage of docker's registry again and again, while that goes on changing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import yaml

from registry.content import docker_layout
from registry.oci.digest import Digest
from tests.gc.racing import Pool
from tests.support.oci import Content, blob_path, manifest_path
from tests.support.server import Server

REPOSITORY = "race/imported"
TAG = "v1"
TRIES = 20


class Mover(threading.Thread):
    """Imports into *server* until *over*, each time another image of the pool that everybody pushes."""

    def __init__(self, server: Server, pool: Pool, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self.done = 0
        self.image: list[Content] = []
        self._source = server.directory / "docker"
        self._config = server.directory / "mover.yaml"
        self._config.write_text(yaml.safe_dump(server.settings))
        self._choose = random.Random("mover")
        self._pool, self._over = pool, over

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._change()
                self.take_over()
                self.done += 1
        except BaseException as error:
            self.error = error

    def _change(self) -> None:
        """As docker-registry writes: the bytes, the links to them, the manifest, its tag."""
        manifest, blobs = self._pool.image(self._choose)
        place = self._source / docker_layout.REPOSITORIES / REPOSITORY
        for content in (*blobs, manifest):
            _write(self._source / docker_layout.blob(Digest(content.digest)), content.data)
        for content in blobs:
            _link(place / "_layers", content)
        _link(place / "_manifests/revisions", manifest)
        _write(place / "_manifests/tags" / TAG / "current/link", manifest.digest.encode())
        self.image = [manifest, *blobs]

    def take_over(self) -> None:
        """Import. What was collected before anything named it is not taken, and said so: it is done again."""
        for _ in range(TRIES):
            words = ["admin", "--config", str(self._config), "import", "--json", "--overwrite", str(self._source)]
            ran = subprocess.run(
                [sys.executable, "-m", "registry", *words], capture_output=True, text=True, check=False
            )
            assert ran.returncode in (0, 1), ran.stderr
            assert "Traceback" not in ran.stderr, ran.stderr
            if ran.returncode == 0:
                return
            assert json.loads(ran.stdout)["problems"], ran.stdout
        raise AssertionError(f"not taken in {TRIES} tries: {ran.stdout}")

    def finish(self, url: str) -> None:
        """See that all that came last is there."""
        manifest, *blobs = self.image
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert http.get(manifest_path(REPOSITORY, TAG)).content == manifest.data
            for content in blobs:
                assert http.get(blob_path(REPOSITORY, content.digest)).content == content.data


def _link(directory: Path, content: Content) -> None:
    algorithm, _, encoded = content.digest.partition(":")
    _write(directory / algorithm / encoded / "link", content.digest.encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
