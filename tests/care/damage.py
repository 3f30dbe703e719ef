"""Damage done to a store behind the registry's back, on a directory and in a bucket."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.support import s3
from tests.support.warm import WarmServer


class Vandal:
    """Flips bits and removes bytes of *server*'s store."""

    def __init__(self, server: WarmServer, moto: s3.Moto | None = None) -> None:
        self._server = server
        self._moto = moto
        self._prefix = server.settings["storage"].get("s3", {}).get("prefix", "")

    @property
    def data(self) -> Path:
        return Path(self._server.settings["storage"].get("directory", self._server.data))

    def _path(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self.data / "blobs" / algorithm / encoded[:2] / encoded

    def _key(self, digest: str) -> str:
        """The object that has a blob's bytes, or the first of them."""
        assert self._moto is not None
        algorithm, _, encoded = digest.partition(":")
        key = f"{self._prefix}blobs/{algorithm}/{encoded[:2]}/{encoded}"
        if key.removeprefix(self._prefix) in self._moto.keys(self._prefix):
            return key
        reply = self._moto.client().get_object(Bucket=self._moto.bucket, Key=key + ".link")
        return self._prefix + str(json.loads(reply["Body"].read())["extents"][0]["key"])

    def flip(self, digest: str) -> None:
        """Change one bit in the middle of a blob, and nothing else: neither its length nor its time."""
        if self._moto is None:
            path = self._path(digest)
            before = path.stat()
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            with path.open("r+b") as file:
                file.write(data)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            return
        key, store = self._key(digest), self._moto.client()
        data = bytearray(store.get_object(Bucket=self._moto.bucket, Key=key)["Body"].read())
        data[len(data) // 2] ^= 1
        store.put_object(Bucket=self._moto.bucket, Key=key, Body=bytes(data))

    def cut(self, digest: str) -> None:
        """Take the last byte of a blob."""
        if self._moto is None:
            with self._path(digest).open("r+b") as file:
                file.truncate(self._path(digest).stat().st_size - 1)
            return
        key, store = self._key(digest), self._moto.client()
        data = store.get_object(Bucket=self._moto.bucket, Key=key)["Body"].read()
        store.put_object(Bucket=self._moto.bucket, Key=key, Body=data[:-1])

    def remove(self, digest: str) -> None:
        """Lose a blob's bytes."""
        if self._moto is None:
            self._path(digest).unlink()
        else:
            self._moto.client().delete_object(Bucket=self._moto.bucket, Key=self._key(digest))

    def quarantined(self) -> list[bytes]:
        """What was kept for the operator."""
        if self._moto is None:
            directory = self.data / "quarantine"
            return [path.read_bytes() for path in directory.iterdir()] if directory.is_dir() else []
        store, place = self._moto.client(), f"{self._prefix}quarantine/"
        keys = [key for key in self._moto.keys(place) if not key.endswith("/link")]
        return [store.get_object(Bucket=self._moto.bucket, Key=place + key)["Body"].read() for key in keys]
