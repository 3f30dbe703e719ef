"""A Tree in a bucket: what is above the next slash of a key is its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from registry.content.s3_bucket import Bucket
from registry.content.s3_client import Missing, S3Options, store_faults_are_answers
from registry.content.s3_notes import Extent
from registry.content.s3_read import whole


class BucketTree:
    """See `trees.Tree`. The options' prefix ends with a slash, or is empty."""

    def __init__(self, options: S3Options) -> None:
        self.bucket = Bucket(options)
        self.name = f"s3://{options.bucket}/{options.prefix}"

    def require(self) -> None:
        """Raise ConfigurationError when the bucket cannot be used, Unavailable when the store does not answer."""
        self.bucket.require()

    def folders(self, path: str) -> list[str]:
        return sorted(self.bucket.folders(f"{path}/"))

    def read(self, path: str, most_bytes: int) -> bytes:
        try:
            stream = self.bucket.get(path)
            with contextlib.closing(stream), store_faults_are_answers():
                return bytes(stream.read(most_bytes))
        except Missing:
            raise FileNotFoundError(path) from None

    def size(self, path: str) -> int | None:
        return self.bucket.size(path)

    def pieces(self, path: str) -> Iterator[bytes]:
        try:
            stream = self.bucket.get(path)
            yield from whole(self.bucket, [Extent(path, stream.content_length)], stream)
        except Missing:
            raise FileNotFoundError(path) from None
