"""The index's tables. A change here goes with a migration in migrations/versions.

Names and digests compare byte by byte in every database, so that paging has one order: SQLite's BINARY,
PostgreSQL's "C". Times are milliseconds since 1970.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


def text() -> sa.types.TypeEngine[str]:
    """Text that is compared byte by byte."""
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


repository = sa.Table(
    "repository",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", text(), nullable=False, unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

# The bytes that the content store has, manifests among them, whichever repositories may read them. The row is the
# digest's lock: who links or stores keeps it, who deletes the bytes holds it alone.
blob = sa.Table(
    "blob",
    metadata,
    sa.Column("digest", text(), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Which repository may read which blob: a digest alone is no right to bytes. `linked_ms` is when a client was told
# last that it is there and may build upon it.
blob_link = sa.Table(
    "blob_link",
    metadata,
    sa.Column("repository_id", sa.Integer, primary_key=True),
    sa.Column("digest", text(), primary_key=True),
    sa.Column("linked_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "digest"),
    sqlite_with_rowid=False,
)

manifest = sa.Table(
    "manifest",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("repository_id", sa.Integer, nullable=False),
    sa.Column("digest", text(), nullable=False),
    sa.Column("media_type", text(), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("subject", text()),
    sa.Column("artifact_type", text()),
    # The entry of the subject's referrers list, as JSON; null without a subject.
    sa.Column("referrer", sa.Text),
    sa.Column("pushed_ms", sa.BigInteger, nullable=False),
    # Since when nobody is served it, as somebody deleted it by its digest: it can be restored while the history
    # names it. For collection it is a manifest like others (docs/garbage-collection.md).
    sa.Column("deleted_ms", sa.BigInteger),
    sa.UniqueConstraint("repository_id", "digest"),
    sa.Index(None, "repository_id", "subject", "digest"),
    sa.Index(None, "digest"),
)

# What each manifest names: its config and layers, or an index's children.
reference = sa.Table(
    "reference",
    metadata,
    sa.Column("manifest_id", sa.Integer, primary_key=True),
    sa.Column("digest", text(), primary_key=True),
    sa.Column("repository_id", sa.Integer, nullable=False),
    sa.Index(None, "repository_id", "digest"),
    sqlite_with_rowid=False,
)

tag = sa.Table(
    "tag",
    metadata,
    sa.Column("repository_id", sa.Integer, primary_key=True),
    sa.Column("name", text(), primary_key=True),
    sa.Column("digest", text(), nullable=False),
    sa.Column("moved_ms", sa.BigInteger, nullable=False),
    # Since when it points there, if that is not `moved_ms`: it was pushed again as it was.
    sa.Column("since_ms", sa.BigInteger),
    sa.Index(None, "repository_id", "digest"),
    sqlite_with_rowid=False,
)

# Where a tag pointed from one moment to another, and who ended that and how. The name is empty for a manifest that
# was deleted by its digest, whether it had tags or not. While an entry is there its manifest stays.
tag_history = sa.Table(
    "tag_history",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("repository_id", sa.Integer, nullable=False),
    sa.Column("name", text(), nullable=False),
    sa.Column("digest", text(), nullable=False),
    sa.Column("from_ms", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", text(), nullable=False),
    sa.Column("action", text(), nullable=False),
    sa.Index(None, "repository_id", "id"),
    sa.Index(None, "repository_id", "name", "id"),
    sa.Index(None, "repository_id", "digest"),
    sa.Index(None, "until_ms"),
    sqlite_autoincrement=True,
)

# An upload between its first request and its last. `tail` are bytes too few to be worth a file or a part;
# the content store has the others. A finished one keeps its digest for a while, so that finishing twice is fine.
upload = sa.Table(
    "upload",
    metadata,
    sa.Column("id", text(), primary_key=True),
    sa.Column("repository", text(), nullable=False),
    sa.Column("owner", text(), nullable=False),
    sa.Column("algorithm", text(), nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("hash_state", sa.LargeBinary, nullable=False),
    sa.Column("parts", sa.LargeBinary, nullable=False),
    sa.Column("tail", sa.LargeBinary, nullable=False),
    sa.Column("finished_digest", text()),
    sa.Column("touched_ms", sa.BigInteger, nullable=False),
    sa.Column("closers", sa.Integer, nullable=False, server_default="0"),
    sa.Index(None, "owner", "finished_digest"),
    sa.Index(None, "touched_ms"),
)

# One row: how often an answer that somebody may have cached became wrong.
change = sa.Table(
    "change",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)

# People and robots. `generation` moves when everything that was signed for the account shall stop to hold.
account = sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", text(), nullable=False, unique=True),
    sa.Column("kind", text(), nullable=False),
    sa.Column("origin", text(), nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("is_admin", sa.Boolean, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,  # the id of an account that is gone is never another's
)

team = sa.Table(
    "team",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", text(), nullable=False, unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

membership = sa.Table(
    "membership",
    metadata,
    sa.Column("team_id", sa.Integer, primary_key=True),
    sa.Column("account_id", sa.Integer, primary_key=True),
    sa.Column("role", text(), nullable=False),
    sa.Column("origin", text(), nullable=False),
    sa.Index(None, "account_id"),
    sqlite_with_rowid=False,
)

# A grant. `subject_kind` is account, team, everyone (who signed in) or anonymous; the last two have id 0.
permission = sa.Table(
    "permission",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("subject_kind", text(), nullable=False),
    sa.Column("subject_id", sa.Integer, nullable=False),
    sa.Column("pattern", text(), nullable=False),
    sa.Column("actions", text(), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("subject_kind", "subject_id", "pattern"),
)

# Personal access tokens and docker's refresh tokens, as hashes. `limits` is JSON, null for none.
credential = sa.Table(
    "credential",
    metadata,
    sa.Column("id", text(), primary_key=True),
    sa.Column("account_id", sa.Integer, nullable=False),
    sa.Column("kind", text(), nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("parent", text()),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger),
    sa.Column("used_ms", sa.BigInteger),
    sa.Index(None, "account_id"),
    sa.Index(None, "expires_ms"),
)

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("id", text(), primary_key=True),
    sa.Column("private_pem", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("retired_ms", sa.BigInteger),
)

# Failed logins by account and address, so that every worker counts the same.
attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("key", text(), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("touched_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "touched_ms"),
)

# Who did what, from where, with which result. Triggers of the database refuse to change or delete a row.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", text(), nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("action", text(), nullable=False),
    sa.Column("target", text(), nullable=False),
    sa.Column("result", text(), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index(None, "at_ms"),
    sqlite_autoincrement=True,
)

# Who does a piece of background work now, until when by the database's clock.
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", text(), primary_key=True),
    sa.Column("holder", text(), nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# A browser in which somebody signed in: the hash of what its cookie says. It ends with its time, and when the
# account's generation moves on.
session = sa.Table(
    "session",
    metadata,
    sa.Column("hash", text(), primary_key=True),
    sa.Column("account_id", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "account_id"),
    sa.Index(None, "expires_ms"),
    sqlite_with_rowid=False,
)

# Which account belongs to whom at an identity provider; names decide nothing. `is_admin` and `is_shut_out` say
# what of the account came from there, and may be taken back by it.
identity = sa.Table(
    "identity",
    metadata,
    sa.Column("issuer", text(), primary_key=True),
    sa.Column("subject", text(), primary_key=True),
    sa.Column("account_id", sa.Integer, nullable=False, unique=True),
    sa.Column("is_admin", sa.Boolean, nullable=False),
    sa.Column("is_shut_out", sa.Boolean, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What may be garbage since a moment: triggers of the database (migration 0005) add a row whenever something that
# kept it goes, and when it comes and nothing keeps it yet. Repository 0 stands for the bytes themselves.
candidate = sa.Table(
    "candidate",
    metadata,
    sa.Column("repository_id", sa.Integer, primary_key=True),
    sa.Column("digest", text(), primary_key=True),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("reason", text(), nullable=False),
    sa.Index(None, "since_ms", "repository_id", "digest"),
    sqlite_with_rowid=False,
)

# How often bytes were deleted from a distant store, by the first byte of their digest (sweeps.py).
sweep = sa.Table(
    "sweep",
    metadata,
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("count", sa.BigInteger, nullable=False),
)

# Bytes that are being deleted from a distant store, and until when that may still come true.
condemned = sa.Table(
    "condemned",
    metadata,
    sa.Column("digest", text(), primary_key=True),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Which upload is about to become the bytes of a digest in a distant store (claims.py).
claim = sa.Table(
    "claim",
    metadata,
    sa.Column("digest", text(), primary_key=True),
    sa.Column("holder", text(), primary_key=True),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "holder"),
    sa.Index(None, "since_ms"),
    sqlite_with_rowid=False,
)

# How the work in the background stands, for whoever asks on whichever machine. `detail` is JSON.
job = sa.Table(
    "job",
    metadata,
    sa.Column("name", text(), primary_key=True),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("holder", text(), nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("updated_ms", sa.BigInteger),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("detail", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

# When somebody last asked for a tag or a digest, to within an hour.
pulled = sa.Table(
    "pulled",
    metadata,
    sa.Column("repository_id", sa.Integer, primary_key=True),
    sa.Column("name", text(), primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Bytes that were found missing or wrong, until they are right again (damage.py).
damage = sa.Table(
    "damage",
    metadata,
    sa.Column("digest", text(), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("reason", text(), nullable=False),
    sa.Column("found_ms", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Where a tag of another registry pointed when it was taken over from there (`hythe admin import`).
imported_tag = sa.Table(
    "imported_tag",
    metadata,
    sa.Column("source", text(), primary_key=True),
    sa.Column("repository_id", sa.Integer, primary_key=True),
    sa.Column("name", text(), primary_key=True),
    sa.Column("digest", text(), nullable=False),
    sqlite_with_rowid=False,
)
