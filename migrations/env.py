"""Alembic's entry: runs the steps over the connection that registry/server/index/migrate.py hands in."""

from alembic import context

from registry.server.index.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # migrate.py holds the transaction
    render_as_batch=True,
)
context.run_migrations()
