"""Sessions of browsers, and accounts that an identity provider vouches for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "session",
        sa.Column("hash", text(), primary_key=True),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_session_account_id", "session", ["account_id"])
    op.create_index("ix_session_expires_ms", "session", ["expires_ms"])
    op.create_table(
        "identity",
        sa.Column("issuer", text(), primary_key=True),
        sa.Column("subject", text(), primary_key=True),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("is_shut_out", sa.Boolean, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account_id", name="uq_identity_account_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("identity", "session"):
        op.drop_table(table)
