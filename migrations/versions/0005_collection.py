"""Collection: candidates, kept by triggers; the bytes of manifests; pull times; how background work stands."""

# ruff: noqa: S608 - the statements are made of this file's own words

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# Whatever removes a row that kept something, and whatever adds something that nothing keeps yet, leaves a
# candidate; no caller has to remember to. (table, event, what to look at again, from which row, why)
_CAUSES = (
    ("blob_link", "INSERT", "repository_id", "new", "pushed"),
    ("blob_link", "UPDATE", "repository_id", "new", "pushed"),
    ("blob_link", "DELETE", "0", "old", "unlinked"),
    ("reference", "DELETE", "repository_id", "old", "unreferenced"),
    ("manifest", "INSERT", "repository_id", "new", "pushed"),
    ("manifest", "DELETE", "0", "old", "manifest removed"),
    ("tag", "UPDATE", "repository_id", "old", "untagged"),
    ("tag", "DELETE", "repository_id", "old", "untagged"),
)
# Which changes of a row count: another time of a link, another manifest under a tag.
_CHANGED = {"blob_link": "linked_ms", "tag": "digest"}
# What was pulled goes with its name.
_PULLED = {("tag", "DELETE"): "name", ("manifest", "DELETE"): "digest"}
_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
# A later event always makes a later time, so that who has seen the row as it was cannot take it for this one.
_LATER = (
    "ON CONFLICT (repository_id, digest) DO UPDATE SET reason = excluded.reason, since_ms = "
    "CASE WHEN excluded.since_ms > candidate.since_ms THEN excluded.since_ms ELSE candidate.since_ms + 1 END"
)


def text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    _tables()
    _repository_of_references(dialect)
    op.execute(
        "INSERT INTO blob (digest, size_bytes, stored_ms) "
        "SELECT digest, max(length(payload)), min(pushed_ms) FROM manifest "
        "WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = manifest.digest) GROUP BY digest"
    )
    # Pulls are known from now on: what was pulled last before cannot be told from what never was.
    op.execute(
        "INSERT INTO job (name, paused, holder, started_ms, detail) "
        f"VALUES ('pulls', FALSE, '', {_NOW[dialect]}, '{{}}')"
    )
    for table, event, repository, row, reason in _CAUSES:
        for statement in (_sqlite if dialect == "sqlite" else _postgresql)(table, event, repository, row, reason):
            op.execute(statement)


def _tables() -> None:
    op.create_table(
        "candidate",
        sa.Column("repository_id", sa.Integer, primary_key=True),
        sa.Column("digest", text(), primary_key=True),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", text(), nullable=False),
        sqlite_with_rowid=False,
    )
    order = ["since_ms", "repository_id", "digest"]
    op.create_index("ix_candidate_since_ms_repository_id_digest", "candidate", order)
    op.create_table(
        "sweep",
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "condemned",
        sa.Column("digest", text(), primary_key=True),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job",
        sa.Column("name", text(), primary_key=True),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("holder", text(), nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("updated_ms", sa.BigInteger),
        sa.Column("finished_ms", sa.BigInteger),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pulled",
        sa.Column("repository_id", sa.Integer, primary_key=True),
        sa.Column("name", text(), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _repository_of_references(dialect: str) -> None:
    """A reference says which repository it is in: "does anything here name this digest?" is one look then."""
    of_its_manifest = "(SELECT repository_id FROM manifest WHERE manifest.id = reference.manifest_id)"
    if dialect == "postgresql":
        op.add_column("reference", sa.Column("repository_id", sa.Integer))
        op.execute(f"UPDATE reference SET repository_id = {of_its_manifest}")
        op.execute("DELETE FROM reference WHERE repository_id IS NULL")
        op.alter_column("reference", "repository_id", nullable=False)
        op.drop_index("ix_reference_digest", "reference")
    else:
        op.rename_table("reference", "reference_before")
        op.create_table(
            "reference",
            sa.Column("manifest_id", sa.Integer, primary_key=True),
            sa.Column("digest", text(), primary_key=True),
            sa.Column("repository_id", sa.Integer, nullable=False),
            sqlite_with_rowid=False,
        )
        op.execute(
            "INSERT INTO reference (manifest_id, digest, repository_id) "
            "SELECT reference.manifest_id, reference.digest, manifest.repository_id "
            "FROM reference_before AS reference JOIN manifest ON manifest.id = reference.manifest_id"
        )
        op.drop_table("reference_before")
    op.create_index("ix_reference_repository_id_digest", "reference", ["repository_id", "digest"])


def _sqlite(table: str, event: str, repository: str, row: str, reason: str) -> list[str]:
    where = repository if repository == "0" else f"{row}.{repository}"
    changed = _CHANGED.get(table)
    when = f"WHEN old.{changed} <> new.{changed} " if event == "UPDATE" else ""
    of = f" OF {changed}" if event == "UPDATE" else ""
    body = (
        f"INSERT INTO candidate (repository_id, digest, since_ms, reason) "
        f"VALUES ({where}, {row}.digest, {_NOW['sqlite']}, '{reason}') {_LATER}; "
    )
    if (table, event) == ("manifest", "DELETE"):
        body += (
            "INSERT INTO candidate (repository_id, digest, since_ms, reason) "
            f"SELECT repository_id, digest, {_NOW['sqlite']}, 'subject removed' FROM manifest "
            f"WHERE repository_id = old.repository_id AND subject = old.digest {_LATER}; "
        )
    if (table, event) in _PULLED:
        pulled = _PULLED[table, event]
        body += f"DELETE FROM pulled WHERE repository_id = old.repository_id AND name = old.{pulled}; "
    return [
        f"CREATE TRIGGER candidate_of_{table}_{event.lower()} AFTER {event}{of} ON {table} {when}BEGIN {body}END"
    ]


def _postgresql(table: str, event: str, repository: str, row: str, reason: str) -> list[str]:
    """Once for each statement, in one order of rows, so that those who add the same ones wait and do not clash."""
    name = f"candidate_of_{table}_{event.lower()}"
    insert = "INSERT INTO candidate (repository_id, digest, since_ms, reason)"
    now = _NOW["postgresql"]
    source = f"{row}_rows AS gone"
    if event == "UPDATE":
        changed, key = _CHANGED[table], "digest" if table == "blob_link" else "name"
        source += (
            f" JOIN {'old' if row == 'new' else 'new'}_rows AS other ON other.repository_id = gone.repository_id "
            f"AND other.{key} = gone.{key} AND other.{changed} <> gone.{changed}"
        )
    where = repository if repository == "0" else f"gone.{repository}"
    # The clock is asked outside of DISTINCT: it goes on from row to row, and would make one key two rows.
    body = (
        f"{insert} SELECT of, named, {now}, '{reason}' "
        f"FROM (SELECT DISTINCT {where} AS of, gone.digest AS named FROM {source}) AS seen "
        f"ORDER BY 1, 2 {_LATER}; "
    )
    if (table, event) == ("manifest", "DELETE"):
        body += (
            f"{insert} SELECT of, named, {now}, 'subject removed' "
            "FROM (SELECT DISTINCT left_over.repository_id AS of, left_over.digest AS named "
            f"FROM {source} JOIN manifest AS left_over ON left_over.repository_id = gone.repository_id "
            f"AND left_over.subject = gone.digest) AS seen ORDER BY 1, 2 {_LATER}; "
        )
    if (table, event) in _PULLED:
        body += (
            "DELETE FROM pulled USING old_rows AS gone "
            f"WHERE pulled.repository_id = gone.repository_id AND pulled.name = gone.{_PULLED[table, event]}; "
        )
    tables = {"INSERT": "NEW TABLE AS new_rows", "DELETE": "OLD TABLE AS old_rows"}
    seen = tables.get(event, "OLD TABLE AS old_rows NEW TABLE AS new_rows")
    return [
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {seen} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()",
    ]


def downgrade() -> None:
    raise NotImplementedError("a release before collection cannot go on with this index; restore its backup")
