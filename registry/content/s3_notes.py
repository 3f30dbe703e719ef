"""What the S3 store writes down as plain JSON, and its keys. docs/storage-s3.md has the argument.

blobs/<algorithm>/<first two digits>/<digits>         a blob of less than one part: its bytes
blobs/<algorithm>/<first two digits>/<digits>.link    a larger one: the Link that names its bytes
data/<session>/<random>                               bytes that links name, or a multipart upload under way
data/<session>/of-<algorithm>-<digits>                says which link names this session's bytes
uploads/<session>/tail-<random>                       what an upload has that makes no part yet
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from registry.oci.digest import Digest
from registry.oci.errors import RegistryError

_VERSION = 1
LINK = ".link"
NOTE = "of-"
BLOBS, DATA, UPLOADS = "blobs/", "data/", "uploads/"


def blob_key(digest: Digest) -> str:
    """Where a blob of less than one part lies."""
    encoded = digest.encoded
    return f"{BLOBS}{digest.algorithm}/{encoded[:2]}/{encoded}"


def link_key(digest: Digest) -> str:
    """Where the link of a larger blob lies."""
    return blob_key(digest) + LINK


def digest_of(key: str) -> Digest | None:
    """The digest that a blob's or a link's key stands for; None for a stranger's key."""
    algorithm, _, rest = key.removeprefix(BLOBS).partition("/")
    try:
        return Digest.parse(f"{algorithm}:{rest.partition('/')[2].removesuffix(LINK)}")
    except RegistryError:
        return None


def data_key(session: str) -> str:
    """A new place for bytes of an upload; no other hold of it will ever write there."""
    return f"{DATA}{session}/{secrets.token_hex(16)}"


def note_key(session: str, digest: Digest) -> str:
    """Where it is noted that the link of *digest* names bytes of *session*."""
    return f"{DATA}{session}/{NOTE}{digest.algorithm}-{digest.encoded}"


def noted_digest(key: str) -> Digest | None:
    """The digest of a note's key; None for bytes."""
    name = key.rpartition("/")[2]
    if not name.startswith(NOTE):
        return None
    try:
        return Digest.parse(name.removeprefix(NOTE).replace("-", ":", 1))
    except RegistryError:
        return None


def tail_key(session: str) -> str:
    """A new place for the rest of an upload."""
    return f"{UPLOADS}{session}/tail-{secrets.token_hex(16)}"


def session_of(key: str) -> str:
    """The upload that a key under data/ or uploads/ belongs to."""
    return key.split("/", 2)[1]


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a blob that lie in one object."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of an upload that one hold wrote: a multipart upload whose parts are all there, not yet joined.

    Without an `upload_id` it is an object already.
    """

    key: str
    size_bytes: int
    upload_id: str = ""
    etags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """`Progress.parts` of an upload: its segments, then its tail.

    `superseded` are tails of earlier requests. They go when the row that names this is sure to have been
    written, which the next request is the first to know.
    """

    segments: tuple[Segment, ...] = ()
    tail: Extent | None = None
    superseded: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """As plain JSON with a version."""
        tail = self.tail and {"key": self.tail.key, "size": self.tail.size_bytes}
        segments = [
            {"key": each.key, "size": each.size_bytes, "upload": each.upload_id, "etags": each.etags}
            for each in self.segments
        ]
        return _dump({"segments": segments, "tail": tail, "superseded": self.superseded})

    @classmethod
    def from_bytes(cls, data: bytes) -> Parts:
        """Read what `to_bytes` wrote, or nothing. Raises ValueError for what it did not write."""
        if not data:
            return cls()
        document = _load(data)
        try:
            segments = tuple(
                Segment(each["key"], each["size"], each["upload"], tuple(each["etags"]))
                for each in document["segments"]
            )
            tail = document["tail"] and Extent(document["tail"]["key"], document["tail"]["size"])
            return cls(segments, tail, tuple(document["superseded"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not the parts of an upload") from error


@dataclass(frozen=True, slots=True)
class Link:
    """Where the bytes of a larger blob lie, in order. Its keys have no prefix, so that a bucket can be moved."""

    digest: Digest
    extents: tuple[Extent, ...]

    @property
    def size_bytes(self) -> int:
        """The length of the blob."""
        return sum(extent.size_bytes for extent in self.extents)

    def to_bytes(self) -> bytes:
        """As plain JSON with a version."""
        extents = [{"key": extent.key, "size": extent.size_bytes} for extent in self.extents]
        return _dump({"digest": self.digest, "size": self.size_bytes, "extents": extents})

    @classmethod
    def from_bytes(cls, data: bytes) -> Link:
        """Read what `to_bytes` wrote. Raises ValueError for what it did not write."""
        document = _load(data)
        try:
            extents = tuple(Extent(each["key"], each["size"]) for each in document["extents"])
            return cls(Digest.parse(document["digest"]), extents)
        except (KeyError, TypeError, RegistryError) as error:
            raise ValueError("not a link") from error


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps({"version": _VERSION, **document}, separators=(",", ":")).encode()


def _load(data: bytes) -> dict[str, Any]:
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError("of an unknown version")
    return document
