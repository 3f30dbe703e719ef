"""Bytes on their way into a multipart upload: gathered in a file until they are a part, then sent by a thread."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import IO

from registry.content import disk
from registry.content.s3_bucket import Bucket
from registry.content.s3_notes import Segment
from registry.oci.errors import RegistryError

# Parts of one upload on their way at once; with the one that is being filled, so many files has an upload.
_SENDING_MAX = 2
_READ_BYTES = 1 << 20


class Spool:
    """A file without a name: memory stays free however many there are, and a killed process leaves nothing."""

    def __init__(self, directory: Path) -> None:
        with disk.full_disk_is_an_answer():
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by `close`
        self.size_bytes = 0

    def write(self, data: memoryview) -> None:
        """Add *data*. Raises StorageFull."""
        with disk.full_disk_is_an_answer():
            self._file.seek(0, os.SEEK_END)
            while data:
                done = self._file.write(data)
                self.size_bytes += done
                data = data[done:]

    def body(self) -> IO[bytes]:
        """The file, at its beginning."""
        self._file.seek(0)
        return self._file

    def pieces(self) -> Iterator[bytes]:
        """What it has; more may be written afterwards."""
        body = self.body()
        while piece := body.read(_READ_BYTES):
            yield piece

    def close(self) -> None:
        """Free it; safe to repeat."""
        self._file.close()


class PartWriter:
    """A multipart upload that one hold writes, and nobody else ever: all its parts are equal but for the last."""

    def __init__(self, bucket: Bucket, key: str, senders: Executor) -> None:
        self._bucket = bucket
        self._key = key
        self._senders = senders
        self._upload_id = bucket.begin(key)
        self._sent: list[Future[str]] = []
        self.size_bytes = 0

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self._sent)

    def send(self, spool: Spool) -> None:
        """Have a thread send and close *spool* as the next part. Raises what went wrong with an earlier one."""
        if self.count >= _SENDING_MAX:
            self._sent[-_SENDING_MAX].result()
        self.size_bytes += spool.size_bytes
        self._sent.append(self._senders.submit(self._send, self.count + 1, spool))

    def _send(self, number: int, spool: Spool) -> str:
        try:
            return self._bucket.send(self._key, self._upload_id, number, spool.body())
        finally:
            spool.close()

    def finish(self) -> Segment:
        """Wait for the parts and return what makes an object of them."""
        return Segment(self._key, self.size_bytes, self._upload_id, tuple([part.result() for part in self._sent]))

    def abort(self) -> None:
        """Free the parts, when those on their way have come."""
        for part in self._sent:
            part.exception()
        with contextlib.suppress(RegistryError):
            self._bucket.abort(self._key, self._upload_id)
