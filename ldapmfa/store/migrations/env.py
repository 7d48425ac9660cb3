"""Run by Alembic, within the transaction of the connection it is handed."""

from __future__ import annotations

from alembic import context

from ldapmfa.store.schema import METADATA

# the transaction is begun and committed by the caller, so that half a migration never stays
context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
