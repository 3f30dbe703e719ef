"""Uploads between their first request and their last, so that any process can go on with them."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from registry.content.store import Progress
from registry.oci.digest import Digest
from registry.oci.reference import Repository
from registry.server.index import claims, dialects
from registry.server.index.names import now_ms
from registry.server.index.schema import upload

_NOTHING = Progress()
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Session:
    """An upload as the index has it. `stored` is with the content store, `tail` follows it."""

    id: str
    repository: Repository
    owner: str
    algorithm: str
    stored: Progress = _NOTHING
    tail: bytes = b""
    finished: Digest | None = None

    @property
    def size_bytes(self) -> int:
        """All bytes taken in so far."""
        return self.stored.size_bytes + len(self.tail)


_GET = sa.select(upload).where(upload.c.id == bindparam("id"))
_OPEN = sa.select(sa.func.count()).select_from(
    sa.select(sa.literal(1))
    .where(upload.c.owner == bindparam("owner"), upload.c.finished_digest.is_(None))
    .limit(bindparam("limit"))
    .subquery()
)
_UPDATE = (
    upload.update()
    .where(
        upload.c.id == bindparam("session"),
        upload.c.stored_bytes == bindparam("was_stored"),
        sa.func.length(upload.c.tail) == bindparam("was_tail"),
        upload.c.finished_digest.is_(None),
    )
    .values(
        stored_bytes=bindparam("stored_bytes"),
        hash_state=bindparam("hash_state"),
        parts=bindparam("parts"),
        tail=bindparam("tail"),
        touched_ms=bindparam("touched_ms"),
    )
)
_FINISH = (
    upload.update()
    .where(upload.c.id == bindparam("session"))
    .values(
        finished_digest=bindparam("digest"),
        touched_ms=bindparam("touched_ms"),
        tail=b"",
        hash_state=b"",
        parts=b"",
    )
    .returning(upload.c.closers)
)
_CLOSE = (
    upload.update()
    .where(upload.c.id == bindparam("session"), upload.c.finished_digest.is_(None))
    .values(closers=upload.c.closers + bindparam("more"), touched_ms=bindparam("now_ms"))
    .returning(upload.c.closers)
)


def _columns(progress: Progress, tail: bytes) -> dict[str, object]:
    return {
        "stored_bytes": progress.size_bytes,
        "hash_state": progress.hash_state,
        "parts": progress.parts,
        "tail": tail,
        "touched_ms": now_ms(),
    }


def add(tx: sa.Connection, session: Session, open_max: int) -> bool:
    """Record a new upload; False when its owner has *open_max* open already.

    Those who begin at the same moment on PostgreSQL do not count each other. So near the bound they come one by
    one, and it is exact as long as no more than _AT_ONCE of an owner's transactions run together.
    """
    asked = {"owner": session.owner, "limit": open_max}
    count = tx.execute(_OPEN, asked).scalar_one()
    if open_max - _AT_ONCE <= count < open_max and dialects.wait_for_others(tx, session.owner):
        count = tx.execute(_OPEN, asked).scalar_one()
    if count >= open_max:
        return False
    tx.execute(
        upload.insert(),
        {
            "id": session.id,
            "repository": session.repository,
            "owner": session.owner,
            "algorithm": session.algorithm,
            "finished_digest": None,
            **_columns(session.stored, session.tail),
        },
    )
    return True


def get(tx: sa.Connection, session: str) -> Session | None:
    """An upload by its id, finished ones included."""
    row = tx.execute(_GET, {"id": session}).first()
    if row is None:
        return None
    return Session(
        id=row.id,
        repository=Repository(row.repository),
        owner=row.owner,
        algorithm=row.algorithm,
        stored=Progress(row.stored_bytes, bytes(row.hash_state), bytes(row.parts)),
        tail=bytes(row.tail),
        finished=None if row.finished_digest is None else Digest(row.finished_digest),
    )


def advance(tx: sa.Connection, was: Session, stored: Progress, tail: bytes) -> bool:
    """Record more bytes; False when another request has moved the upload since *was* was read."""
    changed = tx.execute(
        _UPDATE,
        {
            "session": was.id,
            "was_stored": was.stored.size_bytes,
            "was_tail": len(was.tail),
            **_columns(stored, tail),
        },
    )
    return bool(changed.rowcount)


@dataclass(frozen=True, slots=True)
class Closing:
    """One request's going about to join an upload's parts; others may be at it too."""

    is_contested: bool


def close(tx: sa.Connection, session: str, digest: Digest) -> Closing | None:
    """Say that its parts are going to be joined to *digest*; None when it is finished, or not known any more.

    From now on nobody but a sweep of what is very old frees its parts: a store that is told to join and to free
    the same at once may do both, and lose the bytes hours later. And nobody deletes what they become, until the
    upload is finished or forgotten. Raises BeingDeleted.
    """
    claims.lock(tx, digest)
    closers = tx.execute(_CLOSE, {"session": session, "more": 1, "now_ms": now_ms()}).scalar()
    if closers is None:
        return None
    is_young = claims.take(tx, digest, session)
    return Closing(is_contested=closers > 1 and is_young)


def reopen(tx: sa.Connection, session: str) -> None:
    """Take one `close` back, when no request to the store is under way any more."""
    if tx.execute(_CLOSE, {"session": session, "more": -1, "now_ms": now_ms()}).scalar() == 0:
        claims.release(tx, session)


def finish(tx: sa.Connection, session: str, digest: Digest) -> bool:
    """Record what became of an upload, for a while, so that the same last request is answered the same.

    True when nobody else has set about joining its parts, and nobody will: what is left of them may be freed.
    """
    closers = tx.execute(_FINISH, {"session": session, "digest": digest, "touched_ms": now_ms()}).scalar()
    if closers:
        claims.release(tx, session, digest)
    return closers is not None and closers <= 1


def remove(tx: sa.Connection, session: str) -> bool:
    """Forget an upload; safe to repeat. True when its parts may be freed: nobody has set about joining them."""
    removed = upload.delete().where(upload.c.id == session).returning(upload.c.closers)
    closers = tx.execute(removed).scalar()
    if closers:
        claims.release(tx, session)
    return closers == 0


def stale(tx: sa.Connection, open_before_ms: int, finished_before_ms: int, limit: int) -> list[Session]:
    """Uploads last touched before a moment: unfinished ones before the first, finished before the second."""
    found = tx.execute(
        sa.select(upload.c.id)
        .where(
            sa.or_(
                sa.and_(upload.c.finished_digest.is_(None), upload.c.touched_ms < open_before_ms),
                sa.and_(upload.c.finished_digest.is_not(None), upload.c.touched_ms < finished_before_ms),
            )
        )
        .limit(limit)
    ).scalars()
    return [session for name in found if (session := get(tx, name)) is not None]
