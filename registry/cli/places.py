"""The places that `hythe cp` knows, by their spelling: registries, layouts and archives.

NAME, docker://NAME                 a repository of a registry
oci:DIRECTORY[:TAG]                 an OCI layout
oci-archive:FILE[:TAG]              the same in a tar
docker-archive:FILE[:NAME[:TAG]]    what docker save writes
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, cast

from registry.cli import reach
from registry.content import threads
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import ConfigurationError, DigestInvalid, HytheError, TagInvalid
from registry.oci.reference import ImageName, Tag
from registry.transfer.archive import Archive
from registry.transfer.docker_archive import DockerArchive
from registry.transfer.index_json import INDEX_FILE
from registry.transfer.layout import LayoutDirectory
from registry.transfer.layout_archive import ArchiveWriter, LayoutArchive
from registry.transfer.reach import Reach
from registry.transfer.target import Source, Target

Kind = Literal["docker", "oci", "oci-archive", "docker-archive"]


@dataclass(frozen=True, slots=True)
class Place:
    """One side of a copy: a registry's image by `name`, or a `path` and what is meant in it."""

    kind: Kind
    path: Path = Path()
    reference: str = ""
    name: ImageName | None = None

    @classmethod
    def parse(cls, text: str, way: Reach) -> Place:
        """Read one side. Raises NameInvalid and ConfigurationError."""
        kind, _, rest = text.partition(":")
        if kind not in ("oci", "oci-archive", "docker-archive"):
            name = reach.name_of(text.removeprefix("docker://"), way.registries)
            return cls("docker", name=name)
        path, _, reference = rest.partition(":")
        if not path:
            raise ConfigurationError(f"{text!r}: a path is missing; {kind}:PATH[:TAG] is meant")
        return cls(cast(Kind, kind), Path(path), reference)

    @property
    def tag(self) -> Tag | None:
        """The tag that was written with it, if there is one."""
        if self.name is not None:
            return self.name.tag
        tail = self.reference.rpartition(":")[2] if self.kind == "docker-archive" else self.reference
        with contextlib.suppress(TagInvalid):
            return Tag.parse(tail) if self.reference and not is_digest_text(self.reference) else None
        raise ConfigurationError(f"{self.reference!r} is no tag")


@contextlib.asynccontextmanager
async def open_source(place: Place, way: Reach) -> AsyncGenerator[tuple[Source, Descriptor], None]:
    """The place to read from, and what is meant in it."""
    if place.name is not None:
        source = way.source(place.name)
        yield source, await source.resolve(place.name.reference)
    elif place.kind == "oci":
        layout = await LayoutDirectory.open(place.path)
        yield layout, await _listed(layout, place.reference)
    else:
        async with threads.holding(partial(_opened, place.path), Archive.close) as archive:
            yield await _saved(archive, place)


def _opened(path: Path) -> Archive:
    from registry.cli.whole import open_archive  # what inflates is imported for an archive alone

    return open_archive(path)


async def _saved(archive: Archive, place: Place) -> tuple[Source, Descriptor]:
    if place.kind == "docker-archive" and INDEX_FILE not in archive:
        saved = await DockerArchive.open(archive)
        only = {image.descriptor for image in saved.images} if not place.reference else set()
        return saved, only.pop() if len(only) == 1 else await saved.resolve(place.reference or "latest")
    reference = place.reference
    if place.kind == "docker-archive" and reference and not is_digest_text(reference):
        reference = str(ImageName.parse(reference).with_default_tag())
    found = LayoutArchive(archive)
    return found, await _listed(found, reference)


async def _listed(layout: LayoutDirectory | LayoutArchive, reference: str) -> Descriptor:
    """What a reference means; without one, the only image that is listed, or `latest`."""
    only = {entry.descriptor.digest: entry.descriptor for entry in await layout.entries()}
    if not reference and len(only) == 1:
        return next(iter(only.values()))
    return await layout.resolve(reference or "latest")


def is_digest_text(text: str) -> bool:
    """Whether a reference is a digest, and not `name:tag`."""
    with contextlib.suppress(DigestInvalid):
        return bool(Digest.parse(text))
    return False


@contextlib.asynccontextmanager
async def open_target(place: Place, way: Reach) -> AsyncGenerator[Target, None]:
    """The place to write to; an archive is there, whole, when the context ends without an error."""
    if place.name is not None:
        yield way.target(place.name)
    elif place.kind == "oci":
        yield await LayoutDirectory.create(place.path)
    else:
        with replacing(place.path) as file:
            writer = ArchiveWriter(file, place.kind == "docker-archive")
            yield writer
            await writer.finish()


async def look_at_target(place: Place, way: Reach) -> Target:
    """The place as it is, or one that has nothing yet: to plan with, not to write to."""
    if place.name is not None:
        return way.target(place.name)
    if place.kind == "oci" and place.path.exists():
        return await LayoutDirectory.open(place.path)
    return ArchiveWriter(io.BytesIO(), False)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of *path* when all went well; a device or a pipe is written to as it is."""
    path = path.resolve()  # the file that a link means is replaced, not the link
    if path.is_dir():
        raise HytheError(f"{path}: is a directory; name a file in it")
    if not path.parent.is_dir():
        raise HytheError(f"{path}: No such file or directory; make {path.parent} first")
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            with _renamed(path) as file:
                yield file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HytheError(f"{path}: {error.strerror}; free some, or write to another disk") from None
        raise


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb", buffering=1 << 20) as file:
            yield cast(IO[bytes], file)
            file.flush()
            os.fchmod(handle, 0o644)
            os.fsync(handle)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
