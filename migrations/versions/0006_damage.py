"""Scrub: bytes that were found missing or wrong, until they are right again."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "damage",
        sa.Column("digest", text(), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("reason", text(), nullable=False),
        sa.Column("found_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("damage")
