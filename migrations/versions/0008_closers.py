"""How many requests have set about joining an upload's parts."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("upload", sa.Column("closers", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("upload", "closers")
