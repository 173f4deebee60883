"""What alembic runs. The connection and its transaction are `database.migrate`'s."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
context.run_migrations()
