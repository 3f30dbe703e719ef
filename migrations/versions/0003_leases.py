"""Leases, and change counters that need no row of their own number."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("name", text(), primary_key=True),
        sa.Column("holder", text(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # The first row was added with its number written out, which the sequence has not seen.
        op.execute("SELECT setval(pg_get_serial_sequence('change', 'id'), (SELECT max(id) FROM change))")


def downgrade() -> None:
    op.drop_table("lease")
