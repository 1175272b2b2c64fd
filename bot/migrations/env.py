"""Alembic's entry: runs on the connection that `bot.database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from bot import ledger as ledger  # registers its tables
from handoff.records import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
