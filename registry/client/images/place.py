"""Where the parts of the local store lie, and the one lock that keeps removal from what is being made.

blobs/sha256/HEX      compressed layers, configurations, manifests: an OCI layout
ingest/ALG-HEX.part   what has come of a blob so far
layers/HEX            an unpacked layer, by its diff id
l/NAME                a short link to a layer, for overlay's option
staging/, trash/      what is being made, and what is being removed: worth nothing after a crash
locks/, store.lock    who works on what
records.db            names, images and what they are made of
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.client.images.unpack.removal import remove_tree
from registry.oci.digest import Digest
from registry.oci.errors import HytheError

_DIRECTORIES = ("blobs", "ingest", "layers", "l", "staging", "trash", "locks")


class StoreUnusable(HytheError):
    """The store's directory cannot be used; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of a store."""

    root: Path

    def blob(self, digest: Digest) -> Path:
        """The file of a blob."""
        return self.root / "blobs" / digest.algorithm / digest.encoded

    def part(self, digest: Digest) -> Path:
        """What has come of a blob."""
        return self.root / "ingest" / f"{digest.algorithm}-{digest.encoded}.part"

    def layer(self, diff_id: Digest) -> Path:
        """The directory of an unpacked layer; its name has no colon, which overlay's option could not hold."""
        return self.root / "layers" / diff_id.encoded

    def link(self, name: str) -> Path:
        """A layer's short link."""
        return self.root / "l" / name

    def lock(self, digest: Digest) -> Path:
        """The file whose lock is held by who works on a blob."""
        return self.root / "locks" / f"{digest.algorithm}-{digest.encoded}"

    def sub(self, name: str) -> Path:
        """One of the store's directories."""
        return self.root / name


def prepare(root: Path) -> Place:
    """The store at *root*, made when it is not there. Raises StoreUnusable."""
    place = Place(root)
    if not (root / "locks").is_dir():
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in _DIRECTORIES:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            layout = root / "oci-layout"
            if not layout.exists():
                layout.write_text('{"imageLayoutVersion": "1.0.0"}')
        except OSError as error:
            raise StoreUnusable(
                f"the image store {root} cannot be made: {error.strerror}; HYTHE_CLIENT_ROOT names another"
            ) from None
    return place


@contextlib.contextmanager
def making(place: Place) -> Iterator[int]:
    """Hold this while something is added: until then nothing is removed, so what was seen there stays.

    Yields the lock's descriptor; a process that was given it holds the lock as well.
    """
    fd = _open(place)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def removing(place: Place) -> Iterator[bool]:
    """True while nobody adds anything anywhere; False at once when somebody does."""
    fd = _open(place)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(fd)


def _open(place: Place) -> int:
    try:
        return os.open(place.root / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(f"the image store {place.root} cannot be used: {error.strerror}") from None


def discard(place: Place, path: Path) -> None:
    """Take a file or directory out of sight, in one step; `empty` removes it. Nothing there is fine."""
    target = place.sub("trash") / f"{os.getpid()}-{os.urandom(8).hex()}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, target)


def empty(place: Place, name: str) -> None:
    """Remove all that a directory of the store holds."""
    fd = os.open(place.sub(name), os.O_RDONLY | os.O_DIRECTORY)
    try:
        for entry in os.listdir(fd):
            remove_tree(fd, entry)
    finally:
        os.close(fd)


def take_lock(path: Path) -> int | None:
    """The lock of a digest, as an open file; None while another has it. Two files of one name never both count."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        named, opened = os.stat(path), os.fstat(fd)
        if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def drop_lock(path: Path, fd: int) -> None:
    """Give a digest's lock back, its file as well."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.close(fd)
