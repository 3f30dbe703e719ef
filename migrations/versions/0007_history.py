"""History: where tags pointed before, and manifests that were deleted and can be restored."""

# ruff: noqa: S608 - the statements are made of this file's own words

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# As migration 0005 has it for everything else that keeps something.
_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
_LATER = (
    "ON CONFLICT (repository_id, digest) DO UPDATE SET reason = excluded.reason, since_ms = "
    "CASE WHEN excluded.since_ms > candidate.since_ms THEN excluded.since_ms ELSE candidate.since_ms + 1 END"
)
_INSERT = "INSERT INTO candidate (repository_id, digest, since_ms, reason)"
_NAME = "candidate_of_tag_history_delete"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tag_history",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("repository_id", sa.Integer, nullable=False),
        sa.Column("name", text(), nullable=False),
        sa.Column("digest", text(), nullable=False),
        sa.Column("from_ms", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", text(), nullable=False),
        sa.Column("action", text(), nullable=False),
        sqlite_autoincrement=True,
    )
    for columns in (
        ["repository_id", "id"],
        ["repository_id", "name", "id"],
        ["repository_id", "digest"],
        ["until_ms"],
    ):
        op.create_index(f"ix_tag_history_{'_'.join(columns)}", "tag_history", columns)
    op.add_column("tag", sa.Column("since_ms", sa.BigInteger))
    op.add_column("manifest", sa.Column("deleted_ms", sa.BigInteger))
    for statement in _sqlite() if op.get_bind().dialect.name == "sqlite" else _postgresql():
        op.execute(statement)


def _sqlite() -> list[str]:
    body = f"{_INSERT} VALUES (old.repository_id, old.digest, {_NOW['sqlite']}, 'forgotten') {_LATER}; "
    return [f"CREATE TRIGGER {_NAME} AFTER DELETE ON tag_history BEGIN {body}END"]


def _postgresql() -> list[str]:
    body = (
        f"{_INSERT} SELECT of, named, {_NOW['postgresql']}, 'forgotten' "
        "FROM (SELECT DISTINCT gone.repository_id AS of, gone.digest AS named FROM old_rows AS gone) AS seen "
        f"ORDER BY 1, 2 {_LATER}; "
    )
    return [
        f"CREATE FUNCTION {_NAME}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$",
        f"CREATE TRIGGER {_NAME} AFTER DELETE ON tag_history REFERENCING OLD TABLE AS old_rows "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {_NAME}()",
    ]


def downgrade() -> None:
    raise NotImplementedError("a release before the history cannot go on with this index; restore its backup")
