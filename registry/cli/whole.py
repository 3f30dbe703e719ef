"""Archives of images as people have them: compressed in any way, in a file or through a pipe."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from registry.client.images import author
from registry.client.images.unpack.inflate import kind_of
from registry.oci.errors import HytheError
from registry.transfer.archive import Archive


def open_archive(path: Path) -> Archive:
    """The archive in a file, the caller's to close. Raises HytheError."""
    try:
        with path.open("rb") as file:
            return read_archive(file, str(path))
    except OSError as error:
        raise HytheError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def read_archive(file: IO[bytes], label: str) -> Archive:
    """The archive that a file or a pipe has, the caller's to close. Raises HytheError, for a bomb too."""
    with _plain(file) as readable:
        return Archive.read(readable, label)


@contextmanager
def _plain(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The archive as a file that can be read anywhere, whatever it was compressed by."""
    if file.seekable():
        head = file.read(6)
        file.seek(0)
        if not kind_of(head):
            yield file
            return
    with tempfile.TemporaryFile() as whole:
        author.inflated(file, cast(IO[bytes], whole))
        whole.flush()
        whole.seek(0)
        yield cast(IO[bytes], whole)
