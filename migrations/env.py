"""Where Alembic meets our connection: smg.storage.migrations opens it and ends the transaction.

Logging is not configured here, and no URL is read: a gateway that starts has done both.
"""

from alembic import context

from smg.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
