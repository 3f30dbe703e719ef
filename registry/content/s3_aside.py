"""Wrong bytes of a bucket, kept for the operator under quarantine/. Everything blocks.

quarantine/<algorithm>-<digits>/bytes        the object of a small blob
quarantine/<algorithm>-<digits>/link         the link of a larger one, and
quarantine/<algorithm>-<digits>/bytes-<n>    its objects, in order

They are copies: servers remember links, and must not find the old objects any more.
"""

from __future__ import annotations

import contextlib

from registry.content.s3_bucket import Bucket
from registry.content.s3_client import Missing, store_faults_are_answers
from registry.content.s3_notes import Link, blob_key, link_key
from registry.content.store import Copy
from registry.oci.digest import Digest

QUARANTINE = "quarantine/"


def _read(bucket: Bucket, key: str) -> bytes | None:
    try:
        stream = bucket.get(key)
    except Missing:
        return None
    with contextlib.closing(stream), store_faults_are_answers():
        return bytes(stream.read())


def _link_of(text: bytes) -> Link | None:
    """A link, None when it is damaged."""
    with contextlib.suppress(ValueError):
        return Link.from_bytes(text)
    return None


def mark_of(bucket: Bucket, digest: Digest) -> str | None:
    """The mark of the copy that is there now; None when there is none."""
    found = bucket.mark(blob_key(digest))
    if found is not None:
        return found
    text = _read(bucket, link_key(digest))
    return None if text is None else str(Digest.of(text))


def copy_of(bucket: Bucket, digest: Digest) -> Copy | None:
    """The copy that is there now. Of a larger blob those bytes count whose objects are really there."""
    mark = bucket.mark(blob_key(digest))
    if mark is not None:
        return Copy(int(mark.rpartition(" ")[2]), mark)
    text = _read(bucket, link_key(digest))
    if text is None:
        return None
    link = _link_of(text)
    sizes = [bucket.size(extent.key) or 0 for extent in link.extents] if link else []
    return Copy(sum(sizes), str(Digest.of(text)))


def preserve(bucket: Bucket, digest: Digest) -> None:
    """Copy what is there to quarantine/; what cannot be found is left out."""
    place = f"{QUARANTINE}{digest.algorithm}-{digest.encoded}/"
    with contextlib.suppress(Missing):
        bucket.copy_any(blob_key(digest), place + "bytes")
    text = _read(bucket, link_key(digest))
    if text is None:
        return
    link = _link_of(text)
    for number, extent in enumerate(link.extents if link else ()):
        with contextlib.suppress(Missing):
            bucket.copy_any(extent.key, f"{place}bytes-{number}")
    bucket.put(place + "link", text)


def clear(bucket: Bucket, older_than: float) -> int:
    """Delete what was copied there before *older_than* (seconds of the epoch), and return how many objects."""
    old = [item.key for page in bucket.items(QUARANTINE) for item in page if item.seconds < older_than]
    for key in old:
        bucket.delete(key)
    return len(old)
