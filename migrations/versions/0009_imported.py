"""Where tags of another registry pointed when they were taken over, so that catching up knows who moved what."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "imported_tag",
        sa.Column("source", text(), nullable=False),
        sa.Column("repository_id", sa.Integer, nullable=False),
        sa.Column("name", text(), nullable=False),
        sa.Column("digest", text(), nullable=False),
        sa.PrimaryKeyConstraint("source", "repository_id", "name", name="pk_imported_tag"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("imported_tag")
