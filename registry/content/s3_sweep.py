"""Finding what killed processes left in a bucket. Everything blocks.

*older_than* is in seconds of the epoch, and so long ago that no request of that time goes on.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, groupby

from registry.content.s3_bucket import Bucket, Item
from registry.content.s3_client import Missing, store_faults_are_answers
from registry.content.s3_notes import DATA, UPLOADS, Link, link_key, noted_digest, session_of

# Bytes with a note are looked at for so long after they have become old: a link, once seen, stays.
_DOUBTFUL_SECONDS = 7 * 86_400


def uploads(bucket: Bucket, session: str = "") -> Iterator[Item]:
    """The tails and the multipart uploads of one upload that is not finished, or of all."""
    under = f"{session}/" if session else ""
    for page in chain(bucket.items(UPLOADS + under), bucket.multiparts(DATA + under)):
        yield from page


def remove(bucket: Bucket, item: Item) -> None:
    """Free a tail or a multipart upload; safe to repeat."""
    if item.upload_id:
        bucket.abort(item.key, item.upload_id)
    else:
        bucket.delete(item.key)


def remove_abandoned(bucket: Bucket, older_than: float) -> set[str]:
    """Free the uploads that nothing was written for since *older_than*, and return those that live."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in uploads(bucket):
        found[session_of(item.key)].append(item)
    living = set()
    for session, items in found.items():
        if any(_touched_seconds(bucket, item) >= older_than for item in items):
            living.add(session)
        else:
            for item in items:
                remove(bucket, item)
    return living


def _touched_seconds(bucket: Bucket, item: Item) -> float:
    if not item.upload_id:
        return item.seconds
    return max(item.seconds, bucket.last_part_seconds(item.key, item.upload_id))


def remove_unpublished(bucket: Bucket, older_than: float, living: set[str]) -> None:
    """Free the bytes that no link names: a process was killed before it wrote the link, or after it deleted it."""
    items = (item for page in bucket.items(DATA) for item in page)
    for session, group in groupby(items, lambda item: session_of(item.key)):
        objects = list(group)
        newest = max(item.seconds for item in objects)
        noted = [digest for item in objects if (digest := noted_digest(item.key))]
        if newest >= older_than or session in living or (noted and newest < older_than - _DOUBTFUL_SECONDS):
            continue
        if not any(_names(read_link(bucket, link_key(digest)), session) for digest in noted):
            for item in objects:
                bucket.delete(item.key)


def _names(link: Link | None, session: str) -> bool:
    return link is not None and any(session_of(extent.key) == session for extent in link.extents)


def read_link(bucket: Bucket, key: str) -> Link | None:
    """The link at *key*, None when it is not there. Raises ValueError when it is damaged."""
    try:
        stream = bucket.get(key)
    except Missing:
        return None
    with contextlib.closing(stream), store_faults_are_answers():
        return Link.from_bytes(stream.read())
