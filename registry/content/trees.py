"""A tree of files to read from, in a directory or in a bucket; every method blocks. Paths have no slash before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_PIECE_BYTES = 1 << 20


class Tree(Protocol):
    """Where somebody else's files are."""

    @property
    def name(self) -> str:
        """Says which tree it is, today and tomorrow."""
        ...

    def folders(self, path: str) -> list[str]:
        """The names of the folders in a folder, in byte order; none when it is not there."""
        ...

    def read(self, path: str, most_bytes: int) -> bytes:
        """A file's bytes, *most_bytes* of them at most. Raises FileNotFoundError."""
        ...

    def size(self, path: str) -> int | None:
        """A file's length in bytes, None when it is not there."""
        ...

    def pieces(self, path: str) -> Iterator[bytes]:
        """A file's bytes. Raises FileNotFoundError."""
        ...


class DirectoryTree:
    """A Tree in a directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def name(self) -> str:
        return str(self.root)

    def path(self, path: str) -> Path:
        """Where a file lies."""
        return self.root / path

    def folders(self, path: str) -> list[str]:
        try:
            with os.scandir(self.root / path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str, most_bytes: int) -> bytes:
        with (self.root / path).open("rb") as file:
            return file.read(most_bytes)

    def size(self, path: str) -> int | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / path).stat().st_size
        return None

    def pieces(self, path: str) -> Iterator[bytes]:
        with (self.root / path).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
