"""Which upload is about to become the bytes of a digest in a distant store."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "claim",
        sa.Column("digest", text(), nullable=False),
        sa.Column("holder", text(), nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", "holder", name="pk_claim"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_claim_holder", "claim", ["holder"])
    op.create_index("ix_claim_since_ms", "claim", ["since_ms"])


def downgrade() -> None:
    op.drop_table("claim")
