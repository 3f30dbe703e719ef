"""Accounts, teams, grants, tokens, signing keys and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", text(), nullable=False),
        sa.Column("kind", text(), nullable=False),
        sa.Column("origin", text(), nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_account_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "team",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_team_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "membership",
        sa.Column("team_id", sa.Integer, primary_key=True),
        sa.Column("account_id", sa.Integer, primary_key=True),
        sa.Column("role", text(), nullable=False),
        sa.Column("origin", text(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_membership_account_id", "membership", ["account_id"])
    op.create_table(
        "permission",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("subject_kind", text(), nullable=False),
        sa.Column("subject_id", sa.Integer, nullable=False),
        sa.Column("pattern", text(), nullable=False),
        sa.Column("actions", text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint(
            "subject_kind", "subject_id", "pattern", name="uq_permission_subject_kind_subject_id_pattern"
        ),
    )
    op.create_table(
        "credential",
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
    )
    op.create_index("ix_credential_account_id", "credential", ["account_id"])
    op.create_index("ix_credential_expires_ms", "credential", ["expires_ms"])
    op.create_table(
        "signing_key",
        sa.Column("id", text(), primary_key=True),
        sa.Column("private_pem", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("retired_ms", sa.BigInteger),
    )
    op.create_table(
        "attempt",
        sa.Column("key", text(), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.Column("touched_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_attempt_touched_ms", "attempt", ["touched_ms"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", text(), nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("action", text(), nullable=False),
        sa.Column("target", text(), nullable=False),
        sa.Column("result", text(), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at_ms", "audit", ["at_ms"])
    for statement in _append_only(op.get_bind().dialect.name):
        op.execute(statement)


def _append_only(dialect: str) -> list[str]:
    """The audit log takes rows and gives none back."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit "
        "FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    ]


def downgrade() -> None:
    for table in ("audit", "attempt", "signing_key", "credential", "permission", "membership", "team", "account"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION IF EXISTS audit_refuse()")
