"""The two contracts of places that hold images: a registry, a layout, an archive, the local store.

A place is one repository: tags and content by digest. What may be skipped, repeated and relied on is said here
once, so that pull, push, save, load, mirror and `cp` are one `copy`. The idea is oras-go's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, runtime_checkable

from registry.oci import media
from registry.oci.descriptor import Descriptor
from registry.oci.digest import Digest
from registry.oci.errors import DigestInvalid, ManifestTooLarge, SizeInvalid
from registry.oci.reference import Repository, Tag

MANIFEST_MAX_BYTES = 4 << 20

# Content that can be read again from any byte on: `read(start)`. So a push can go on after a cut, or begin
# where an earlier process stopped. Close the generator when you stop before its end (`contextlib.aclosing`).
Pieces = AsyncGenerator[bytes, None]
Read = Callable[[int], Pieces]


class Source(Protocol):
    """A place to read images from. Every method may be called at the same time as every other."""

    async def resolve(self, reference: Tag | Digest) -> Descriptor:
        """The manifest under a tag or a digest. Raises ManifestUnknown."""
        ...

    def fetch(self, descriptor: Descriptor, start: int = 0) -> Pieces:
        """The content from byte *start* on, in order, in pieces of at most a few MiB.

        What comes is as long as *descriptor* says or an error is raised; its digest is the reader's to check
        (`verified` does), since only a reader of all of it can. Raises BlobUnknown or ManifestUnknown.
        """
        ...

    def tags(self) -> AsyncIterator[Tag]:
        """Every tag, in byte order where the place has an order."""
        ...


class Target(Source, Protocol):
    """A place to write images to."""

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether it is here. True for an image's manifest promises that all that it names is here as well,
        so that nothing of it needs to be copied; for an index it promises nothing about the children."""
        ...

    async def push(self, descriptor: Descriptor, read: Read, tag: Tag | None = None) -> None:
        """Take content in; a manifest also under *tag*, in one step.

        Size and digest are verified before it is visible: raises SizeInvalid or DigestInvalid, and nothing
        is then here. What a manifest names comes before it. Returns when the content is as safe as the place
        can make it. Pushing what is here, even at the same time by another, is no error.
        """
        ...

    async def tag(self, descriptor: Descriptor, tag: Tag) -> None:
        """Let *tag* mean a manifest that is here. Raises ManifestUnknown."""
        ...


@runtime_checkable
class Mounting(Protocol):
    """A target that can take a blob over from another repository beside it without its bytes."""

    def mount_source(self, source: Source) -> Repository | None:
        """The repository name to mount from when *source* is a neighbour (the same registry), else None."""
        ...

    async def mount(self, descriptor: Descriptor, origin: Repository) -> bool:
        """Take the blob over from *origin*; False when it could not be had and must be pushed."""
        ...


@runtime_checkable
class Referring(Protocol):
    """A source that knows which manifests have another as their subject."""

    async def referrers(self, digest: Digest) -> Sequence[Descriptor]:
        """The manifests whose subject is *digest*; none for one that nobody refers to."""
        ...


@runtime_checkable
class Doubting(Protocol):
    """A source that has its content from several places, one of which may hold wrong bytes."""

    def doubt(self, descriptor: Descriptor) -> bool:
        """What came last of a content was not what its digest says; whether another place is left to ask."""
        ...


async def verified(descriptor: Descriptor, pieces: Pieces) -> Pieces:
    """*pieces*, all of a content from its first byte on, checked: raises in the end, and at a byte too many.

    Raises SizeInvalid and DigestInvalid. Hashing holds the event loop up for 0.5 ms a MiB.
    """
    import hashlib

    running = hashlib.new(descriptor.digest.algorithm)
    size_bytes = 0
    async with aclosing(pieces):
        async for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > descriptor.size_bytes:
                raise wrong_size(descriptor, size_bytes, "at least ")
            running.update(piece)
            yield piece
    if size_bytes != descriptor.size_bytes:
        raise wrong_size(descriptor, size_bytes)
    if running.hexdigest() != descriptor.digest.encoded:
        raise wrong_digest(descriptor, f"{descriptor.digest.algorithm}:{running.hexdigest()}")


def wrong_size(descriptor: Descriptor, size_bytes: int, how: str = "") -> SizeInvalid:
    """The error for content of another length than its descriptor says."""
    return SizeInvalid(
        f"{descriptor.digest} has {descriptor.size_bytes} bytes, but {how}{size_bytes} came; it was not taken"
    )


def wrong_digest(descriptor: Descriptor, found: str) -> DigestInvalid:
    """The error for content that hashes to something else than its descriptor says."""
    return DigestInvalid(f"what came for {descriptor.digest} is {found}; it was not taken")


async def read_all(source: Source, descriptor: Descriptor, limit_bytes: int = MANIFEST_MAX_BYTES) -> bytes:
    """A small content (a manifest, a configuration), whole and verified. Raises ManifestTooLarge for others."""
    if descriptor.size_bytes > limit_bytes:
        raise ManifestTooLarge(limit_bytes)
    found = bytearray()
    async with aclosing(verified(descriptor, source.fetch(descriptor))) as pieces:
        async for piece in pieces:
            found += piece
    return bytes(found)


def from_bytes(data: bytes) -> Read:
    """Content that is in memory, to push."""

    async def read(start: int) -> Pieces:
        yield data[start:]

    return read


def describe(data: bytes, media_type: str) -> Descriptor:
    """The descriptor of content that is in memory."""
    return Descriptor(media_type, Digest.of(data), len(data))


def is_manifest(descriptor: Descriptor) -> bool:
    """Whether it belongs among manifests; all other content is blobs."""
    return media.is_manifest(descriptor.media_type)
