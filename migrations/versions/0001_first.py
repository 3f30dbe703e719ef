"""Repositories, blobs, manifests, tags and uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "repository",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_repository_name"),
    )
    op.create_table(
        "blob",
        sa.Column("digest", text(), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "blob_link",
        sa.Column("repository_id", sa.Integer, primary_key=True),
        sa.Column("digest", text(), primary_key=True),
        sa.Column("linked_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_blob_link_digest", "blob_link", ["digest"])
    op.create_table(
        "manifest",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("repository_id", sa.Integer, nullable=False),
        sa.Column("digest", text(), nullable=False),
        sa.Column("media_type", text(), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("subject", text()),
        sa.Column("artifact_type", text()),
        sa.Column("referrer", sa.Text),
        sa.Column("pushed_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("repository_id", "digest", name="uq_manifest_repository_id_digest"),
    )
    op.create_index("ix_manifest_repository_id_subject_digest", "manifest", ["repository_id", "subject", "digest"])
    op.create_index("ix_manifest_digest", "manifest", ["digest"])
    op.create_table(
        "reference",
        sa.Column("manifest_id", sa.Integer, primary_key=True),
        sa.Column("digest", text(), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_reference_digest", "reference", ["digest"])
    op.create_table(
        "tag",
        sa.Column("repository_id", sa.Integer, primary_key=True),
        sa.Column("name", text(), primary_key=True),
        sa.Column("digest", text(), nullable=False),
        sa.Column("moved_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tag_repository_id_digest", "tag", ["repository_id", "digest"])
    op.create_table(
        "upload",
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
    )
    op.create_index("ix_upload_owner_finished_digest", "upload", ["owner", "finished_digest"])
    op.create_index("ix_upload_touched_ms", "upload", ["touched_ms"])
    change = op.create_table(
        "change",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(change, [{"id": 1, "count": 0}])


def downgrade() -> None:
    for table in ("change", "upload", "tag", "reference", "manifest", "blob_link", "blob", "repository"):
        op.drop_table(table)
