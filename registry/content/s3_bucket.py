"""A bucket: the blocking requests that the S3 store makes of it, whose faults become answers for a client.

Stores differ in almost everything else, so no more is used than what every real one does: PUT, ranged GET, HEAD,
DELETE, lists by prefix, a copy of a small object, multipart uploads with equal parts, pre-signed GETs.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import IO, Any

from registry.content.s3_client import (
    Missing,
    S3Options,
    connect,
    require_bucket,
    store_faults_are_answers,
)

# What one request copies: the store answers when it is done, and until then nothing passes.
_COPY_BYTES_MAX = 512 << 20
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a list; `upload_id` is that of a multipart upload under way."""

    key: str
    seconds: float
    size_bytes: int = 0
    upload_id: str = ""


class Bucket:
    """The part of a bucket under the prefix; keys are given and returned without it. Safe for threads."""

    def __init__(self, options: S3Options) -> None:
        self._bucket = options.bucket
        self._prefix = options.prefix
        self._client = connect(options, options.endpoint)
        self._options = options
        self._signer = connect(options, options.redirect_endpoint) if options.redirect_endpoint else self._client
        self._encryption: dict[str, str] = {}
        if options.encryption:
            self._encryption["ServerSideEncryption"] = options.encryption
        if options.kms_key:
            self._encryption["SSEKMSKeyId"] = options.kms_key

    @functools.cached_property
    def _once(self) -> Any:
        """A client that repeats nothing."""
        return connect(replace(self._options, attempts=1), self._options.endpoint)

    @property
    def delete_seconds(self) -> float:
        """How long after it was begun a `delete_once` that raised may still come true.

        A store refuses a signature that is older than a quarter of an hour. Before the last of the few requests
        that delete a blob is sent, one that reads may be repeated, with pauses, and each may take its time.
        """
        request_seconds = self._options.connect_timeout_seconds + self._options.read_timeout_seconds
        return 900 + self._options.attempts * (request_seconds + 20) + 4 * request_seconds + 60

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def require(self) -> None:
        """Raise ConfigurationError when the bucket cannot be used, Unavailable when nobody answers."""
        require_bucket(self._client, self._bucket, self._prefix)

    # --- objects

    def put(self, key: str, body: bytes | IO[bytes]) -> None:
        """Store an object, whole or not at all; the store refuses a body that changed on its way."""
        with store_faults_are_answers():
            self._client.put_object(
                **self._at(key), Body=body, ContentType=_OCTETS, **_md5(body), **self._encryption
            )

    def get(self, key: str, start: int = 0, end: int | None = None) -> Any:
        """The object from *start* to before *end* as a stream: `read`, `close`, `content_length`."""
        wanted = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
        with store_faults_are_answers():
            reply = self._client.get_object(**self._at(key), **wanted)
        reply["Body"].content_length = reply["ContentLength"]
        return reply["Body"]

    def size(self, key: str) -> int | None:
        """An object's length in bytes, None when it is not there."""
        try:
            with store_faults_are_answers():
                return int(self._client.head_object(**self._at(key))["ContentLength"])
        except Missing:
            return None

    def mark(self, key: str) -> str | None:
        """What tells an object from one that was written in its place later; None when there is none."""
        try:
            with store_faults_are_answers():
                found = self._client.head_object(**self._at(key))
        except Missing:
            return None
        return f"{found['ETag']} {found['LastModified'].isoformat()} {found['ContentLength']}"

    def copy_any(self, source: str, target: str) -> None:
        """Copy an object of any size within the store, in parts when it is large. Raises Missing."""
        with store_faults_are_answers():
            self._client.copy(self._at(source), **self._at(target), ExtraArgs=self._encryption or None)

    def copy(self, source: str, target: str) -> None:
        """Copy a small object within the store. Raises Missing."""
        with store_faults_are_answers():
            self._client.copy_object(**self._at(target), CopySource=self._at(source), **self._encryption)

    def is_beside(self, other: Bucket) -> bool:
        """Whether the store can copy from *other* to here: it is the same one, and the same keys open both."""
        mine, its = self._options, other._options
        return (mine.endpoint, mine.region, mine.access_key) == (its.endpoint, its.region, its.access_key)

    def copy_from(self, other: Bucket, source: str, target: str, size_bytes: int) -> None:
        """Copy an object of another bucket of this store, whatever its size. Raises Missing."""
        at = other._at(source)
        if size_bytes <= _COPY_BYTES_MAX:
            with store_faults_are_answers():
                self._client.copy_object(**self._at(target), CopySource=at, **self._encryption)
            return
        upload_id, etags = self.begin(target), []
        try:
            for number, start in enumerate(range(0, size_bytes, _COPY_BYTES_MAX), 1):
                end = min(start + _COPY_BYTES_MAX, size_bytes)
                with store_faults_are_answers():
                    reply = self._client.upload_part_copy(
                        **self._at(target),
                        UploadId=upload_id,
                        PartNumber=number,
                        CopySource=at,
                        CopySourceRange=f"bytes={start}-{end - 1}",
                    )
                etags.append(str(reply["CopyPartResult"]["ETag"]))
            self.join(target, upload_id, etags)
        except BaseException:
            self.abort(target, upload_id)
            raise

    def delete(self, key: str) -> None:
        """Delete an object that may be gone already."""
        with contextlib.suppress(Missing), store_faults_are_answers():
            self._client.delete_object(**self._at(key))

    def delete_once(self, key: str) -> None:
        """As `delete`, by one request that is not repeated: when this returns, nothing of it is under way.

        When it raises, the object may still go within `delete_seconds` of its beginning.
        """
        with contextlib.suppress(Missing), store_faults_are_answers():
            self._once.delete_object(**self._at(key))

    def items(self, prefix: str) -> Iterator[list[Item]]:
        """Pages of the objects whose keys begin with *prefix*, in byte order."""
        for page in self._pages("list_objects_v2", prefix):
            yield [
                Item(self._own(found["Key"]), _seconds(found["LastModified"]), found["Size"])
                for found in page.get("Contents", ())
            ]

    def folders(self, prefix: str) -> Iterator[str]:
        """What stands between *prefix* and the next slash in the keys that begin with it."""
        whole = self._prefix + prefix
        for page in self._pages("list_objects_v2", prefix, Delimiter="/"):
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].removeprefix(whole).rstrip("/")

    def _pages(self, operation: str, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
        with store_faults_are_answers():
            paginator = self._client.get_paginator(operation)
            yield from paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, **more)

    def _own(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def presigned(self, key: str, seconds: int) -> str:
        """An address that gives the object to whoever has it, for so long."""
        with store_faults_are_answers():
            url: str = self._signer.generate_presigned_url("get_object", self._at(key), ExpiresIn=seconds)
        return url

    # --- multipart uploads

    def begin(self, key: str) -> str:
        """Begin a multipart upload and return its id."""
        with store_faults_are_answers():
            reply = self._client.create_multipart_upload(**self._at(key), ContentType=_OCTETS, **self._encryption)
        return str(reply["UploadId"])

    def send(self, key: str, upload_id: str, number: int, body: IO[bytes]) -> str:
        """Send a part and return its ETag. Raises Missing."""
        with store_faults_are_answers():
            reply = self._client.upload_part(**self._at(key), UploadId=upload_id, PartNumber=number, Body=body)
        return str(reply["ETag"])

    def join(self, key: str, upload_id: str, etags: Sequence[str]) -> None:
        """Make the object of its parts. What a store says to one who does it twice differs; ask `size` then."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        with store_faults_are_answers():
            self._client.complete_multipart_upload(
                **self._at(key), UploadId=upload_id, MultipartUpload={"Parts": parts}
            )

    def is_open(self, key: str, upload_id: str) -> bool:
        """Whether a multipart upload is there, neither joined nor aborted."""
        try:
            with store_faults_are_answers():
                self._client.list_parts(**self._at(key), UploadId=upload_id, MaxParts=1)
        except Missing:
            return False
        return True

    def last_part_seconds(self, key: str, upload_id: str) -> float:
        """When the newest part was written, in seconds of the epoch; 0 when there is none."""
        newest = 0.0
        with contextlib.suppress(Missing), store_faults_are_answers():
            for page in self._client.get_paginator("list_parts").paginate(**self._at(key), UploadId=upload_id):
                newest = max([newest, *(_seconds(part["LastModified"]) for part in page.get("Parts", ()))])
        return newest

    def abort(self, key: str, upload_id: str) -> None:
        """Free the parts of a multipart upload that may be gone already; an object made of them stays."""
        with contextlib.suppress(Missing), store_faults_are_answers():
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload_id)

    def multiparts(self, prefix: str) -> Iterator[list[Item]]:
        """Pages of the multipart uploads under way whose keys begin with *prefix*."""
        for page in self._pages("list_multipart_uploads", prefix):
            yield [
                Item(self._own(found["Key"]), _seconds(found["Initiated"]), upload_id=found["UploadId"])
                for found in page.get("Uploads", ())
            ]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._signer.close()
        if "_once" in self.__dict__:
            self._once.close()


def _md5(body: bytes | IO[bytes]) -> dict[str, str]:
    """The oldest checksum, which every store compares; for what is small enough not to feel it."""
    if not isinstance(body, bytes):
        return {}
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return {"ContentMD5": base64.b64encode(digest).decode()}


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
