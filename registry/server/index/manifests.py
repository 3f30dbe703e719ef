"""Manifests: their exact bytes, what they name, and who refers to whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.oci.digest import Digest
from registry.oci.manifest import Manifest
from registry.oci.reference import Repository, Tag
from registry.server.index import blobs, candidates, changes, dialects, history, names, tags
from registry.server.index.history import Change, Period
from registry.server.index.schema import manifest, reference, repository, tag


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it is served: its exact bytes, the type that it was pushed as, and its digest."""

    digest: Digest
    media_type: str
    payload: bytes


_COLUMNS = (manifest.c.digest, manifest.c.media_type, manifest.c.payload)
_BY_DIGEST = (
    sa.select(*_COLUMNS)
    .join(repository, repository.c.id == manifest.c.repository_id)
    .where(
        repository.c.name == bindparam("repository"),
        manifest.c.digest == bindparam("digest"),
        manifest.c.deleted_ms.is_(None),
    )
)
_BY_TAG = (
    sa.select(*_COLUMNS)
    .join(tag, sa.and_(tag.c.repository_id == manifest.c.repository_id, tag.c.digest == manifest.c.digest))
    .join(repository, repository.c.id == tag.c.repository_id)
    .where(repository.c.name == bindparam("repository"), tag.c.name == bindparam("tag"))
)
_PAGE = (
    sa.select(*_COLUMNS)
    .join(repository, repository.c.id == manifest.c.repository_id)
    .where(
        repository.c.name == bindparam("repository"),
        manifest.c.digest > bindparam("after"),
        manifest.c.deleted_ms.is_(None),
    )
    .order_by(manifest.c.digest)
    .limit(bindparam("limit"))
)
_ROW = sa.select(manifest.c.id, manifest.c.media_type, manifest.c.deleted_ms, manifest.c.pushed_ms).where(
    manifest.c.repository_id == bindparam("repository_id"), manifest.c.digest == bindparam("digest")
)
# A push keeps the manifest from being removed until its tags point to it; a removal waits for such pushes, and
# then sees their tags. (The order of locks: blobs.py.)
_IS_RIGHT = (manifest.c.payload == bindparam("pushed", type_=sa.LargeBinary)).label("is_right")
_KEEP = _ROW.add_columns(_IS_RIGHT).with_for_update(read=True, key_share=True)
_HOLD = _ROW.with_for_update()
_TAGS_TO = (
    sa.select(tag.c.name)
    .where(tag.c.repository_id == bindparam("repository_id"), tag.c.digest == bindparam("digest"))
    .order_by(tag.c.name)
    .with_for_update()
)
_UNTAG = (
    tag.delete()
    .where(tag.c.repository_id == bindparam("repository_id"), tag.c.name.in_(_TAGS_TO))
    .returning(tag.c.name, tag.c.digest, tag.c.moved_ms, tag.c.since_ms)
)
_HIDE = manifest.update().where(manifest.c.id == bindparam("row_id")).values(deleted_ms=bindparam("moment_ms"))
_PRESENT = (
    sa.select(manifest.c.digest)
    .where(
        manifest.c.repository_id == bindparam("repository_id"),
        manifest.c.digest.in_(bindparam("digests", expanding=True)),
        manifest.c.deleted_ms.is_(None),
    )
    .order_by(manifest.c.digest)
)
_PRESENT_KEPT = _PRESENT.with_for_update(read=True, key_share=True)
_REFERRERS = (
    sa.select(manifest.c.digest, manifest.c.referrer)
    .join(repository, repository.c.id == manifest.c.repository_id)
    .where(
        repository.c.name == bindparam("repository"),
        manifest.c.subject == bindparam("subject"),
        manifest.c.deleted_ms.is_(None),
        manifest.c.digest > bindparam("after"),
    )
    .order_by(manifest.c.digest)
    .limit(bindparam("limit"))
)
_REFERRERS_OF_TYPE = _REFERRERS.where(manifest.c.artifact_type == bindparam("artifact_type"))


def get(tx: sa.Connection, name: Repository, wanted: Tag | Digest) -> Stored | None:
    """The manifest under a tag or a digest, in one query; None when the repository has none."""
    if isinstance(wanted, Digest):
        row = tx.execute(_BY_DIGEST, {"repository": name, "digest": wanted}).first()
    else:
        row = tx.execute(_BY_TAG, {"repository": name, "tag": wanted}).first()
    return None if row is None else Stored(Digest(row.digest), row.media_type, bytes(row.payload))


def absent_references(
    tx: sa.Connection,
    name: Repository,
    document: Manifest,
    need_blobs: bool,
    need_children: bool,
    keep: bool = False,
) -> list[Digest]:
    """What *document* names and the repository does not have, in the order in which it is named.

    With *keep*, what it has stays until this transaction ends, also what is not needed.
    """
    repository_id = names.find(tx, name)
    wanted = [descriptor.digest for descriptor in document.blobs()] if need_blobs or keep else []
    missing = wanted if repository_id is None else blobs.absent(tx, repository_id, wanted, keep)
    children = [descriptor.digest for descriptor in document.children()] if need_children or keep else []
    if repository_id is not None and children:
        children = _absent_children(tx, repository_id, children, keep)
    return [*(missing if need_blobs else []), *(children if need_children else [])]


def _absent_children(
    tx: sa.Connection, repository_id: int, children: Sequence[Digest], keep: bool
) -> list[Digest]:
    """Children that are neither manifests nor blobs: a build cache lists its layers in an index."""
    statement = _PRESENT_KEPT if keep else _PRESENT
    present: set[str] = set()
    for chunk in blobs.chunks(sorted(set(children))):
        present.update(tx.execute(statement, {"repository_id": repository_id, "digests": chunk}).scalars())
    missing = [digest for digest in children if digest not in present]
    return blobs.absent(tx, repository_id, missing, keep) if missing else []


def absent(tx: sa.Connection, name: Repository, digests: Sequence[Digest]) -> list[Digest]:
    """Those of *digests* that are no manifests of a repository."""
    repository_id, present = names.find(tx, name), set[str]()
    for chunk in blobs.chunks(digests):
        present.update(tx.execute(_PRESENT, {"repository_id": repository_id, "digests": chunk}).scalars())
    return [digest for digest in digests if digest not in present]


def page(tx: sa.Connection, name: Repository, after: str, limit: int) -> list[Stored]:
    """Up to *limit* manifests of a repository after a digest, in byte order."""
    rows = tx.execute(_PAGE, {"repository": name, "after": after, "limit": limit})
    return [Stored(Digest(row.digest), row.media_type, bytes(row.payload)) for row in rows]


def put(
    tx: sa.Connection,
    name: Repository,
    stored: Stored,
    document: Manifest,
    with_tags: Sequence[Tag],
    change: Change | None = None,
) -> list[Tag]:
    """Record a manifest, what it names, and the tags that shall point to it; safe to repeat.

    Returns those of the tags that pointed to another manifest before; *change* says in the history who moved them.
    """
    repository_id = names.find_or_add(tx, name)
    blobs.keep_bytes(tx, stored.digest, len(stored.payload))
    key = {"repository_id": repository_id, "digest": stored.digest}
    while (present := tx.execute(_KEEP, {**key, "pushed": stored.payload}).first()) is None:
        if _insert(tx, repository_id, stored, document):
            break
    if present is not None and not present.is_right:  # the database lost them
        repair(tx, stored.digest, stored.payload)
    if present is not None and present.media_type != stored.media_type:
        _retype(tx, present.id, stored, document)
    if present is not None and present.deleted_ms is not None:
        tx.execute(_HIDE, {"row_id": present.id, "moment_ms": None})
    if present is not None and not with_tags:  # a new one is a candidate anyway
        candidates.add(tx, repository_id, [stored.digest], "pushed")
    return tags.move_all(tx, repository_id, with_tags, stored.digest, change)


def _referrer(stored: Stored, document: Manifest) -> str | None:
    """The entry for the subject's referrers list, None without a subject."""
    descriptor = document.referrer_descriptor(stored.digest, len(stored.payload))
    return None if document.subject is None else json.dumps(descriptor, ensure_ascii=False)


def _insert(tx: sa.Connection, repository_id: int, stored: Stored, document: Manifest) -> bool:
    """Add a manifest and what it names; False when another transaction has just added it."""
    manifest_id = tx.execute(
        dialects.insert_or_leave(tx, manifest, manifest.c.id),
        {
            "repository_id": repository_id,
            "digest": stored.digest,
            "media_type": stored.media_type,
            "payload": stored.payload,
            "subject": None if document.subject is None else document.subject.digest,
            "artifact_type": document.referrer_type(),
            "referrer": _referrer(stored, document),
            "pushed_ms": names.now_ms(),
        },
    ).scalar()
    if manifest_id is None:
        return False
    named = {descriptor.digest for descriptor in (*document.blobs(), *document.children())}
    named.update(layer.digest for layer in document.layers)
    if named:
        row = {"manifest_id": manifest_id, "repository_id": repository_id}
        tx.execute(reference.insert(), [{**row, "digest": item} for item in sorted(named)])
    return True


def _retype(tx: sa.Connection, manifest_id: int, stored: Stored, document: Manifest) -> None:
    """The same bytes pushed as another type: the last one counts."""
    tx.execute(
        manifest.update()
        .where(manifest.c.id == manifest_id)
        .values(media_type=stored.media_type, referrer=_referrer(stored, document))
    )
    changes.mark(tx)


def repair(tx: sa.Connection, digest: Digest, payload: bytes) -> int:
    """Write a manifest's bytes again wherever they are not these; returns in how many repositories."""
    wrong = (manifest.c.digest == digest, manifest.c.payload != payload)
    found = tx.execute(manifest.update().where(*wrong).values(payload=payload)).rowcount
    changes.mark(tx)
    return found


def keep(tx: sa.Connection, name: Repository, digest: Digest) -> bool:
    """Keep a manifest from being removed until this transaction ends; False when the repository has none."""
    return bool(tx.execute(_PRESENT_KEPT, {"repository_id": names.find(tx, name), "digests": [digest]}).all())


def hold(tx: sa.Connection, name: Repository, digest: str, also_deleted: bool = False) -> list[Tag] | None:
    """Keep everybody else from building upon a manifest until this transaction ends; returns the tags that it has.

    None when the repository has no such manifest; one that was deleted and can be restored is none either, unless
    it is asked for.
    """
    key = {"repository_id": names.find(tx, name), "digest": digest}
    found = tx.execute(_HOLD, key).first()
    if found is None or (found.deleted_ms is not None and not also_deleted):
        return None
    return [Tag(found) for found in tx.execute(_TAGS_TO, key).scalars()]


def remove(tx: sa.Connection, name: Repository, digest: Digest) -> bool:
    """Remove a manifest and every tag that points to it; False when the repository has none."""
    repository_id = names.find(tx, name)
    if repository_id is None:
        return False
    key = {"repository_id": repository_id, "digest": digest}
    manifest_id = tx.execute(_HOLD, key).scalar()
    if manifest_id is None:
        return False
    tx.execute(_UNTAG, key)
    tx.execute(reference.delete().where(reference.c.manifest_id == manifest_id))
    tx.execute(manifest.delete().where(manifest.c.id == manifest_id))
    changes.mark(tx)
    return True


def hide(tx: sa.Connection, name: Repository, digest: Digest, change: Change) -> bool:
    """Remove every tag that points to a manifest, and serve it to nobody; False when the repository has none.

    The history keeps where the tags pointed, and the manifest itself: it can be restored until that is forgotten.
    """
    repository_id = names.find(tx, name)
    if repository_id is None:
        return False
    key = {"repository_id": repository_id, "digest": digest}
    found = tx.execute(_HOLD, key).first()
    if found is None or found.deleted_ms is not None:
        return False
    moment = names.now_ms()
    ended = [tags.period_of(row.name, row, moment) for row in tx.execute(_UNTAG, key)]
    itself = Period(history.UNTAGGED, digest, found.pushed_ms, max(moment, found.pushed_ms))
    history.add(tx, repository_id, change, [*sorted(ended, key=lambda period: period.name), itself])
    tx.execute(_HIDE, {"row_id": found.id, "moment_ms": moment})
    changes.mark(tx)
    return True


def referrers(
    tx: sa.Connection, name: Repository, subject: Digest, artifact_type: str | None, after: str, limit: int
) -> list[tuple[str, str]]:
    """Digest and list entry (JSON) of up to *limit* manifests that refer to *subject*, after a digest."""
    values = {"repository": name, "subject": subject, "after": after, "limit": limit}
    if artifact_type is None:
        rows = tx.execute(_REFERRERS, values)
    else:
        rows = tx.execute(_REFERRERS_OF_TYPE, {**values, "artifact_type": artifact_type})
    return [(row.digest, row.referrer) for row in rows]
