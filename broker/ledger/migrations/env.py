"""Run the migrations on the connection that ``broker.ledger.migrate`` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from broker.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
