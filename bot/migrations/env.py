"""Alembic's entry: runs on the connection that `bot.database.migrate` hands over."""

from __future__ import annotations

from typing import Literal

from alembic import context

from bot import ledger as ledger
from bot import timers as timers
from handoff import words as words
from handoff.records import Base, UtcDateTime
from kb_index import records as articles
from nlu import records as intents

connection = context.config.attributes["connection"]


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """A migration is history: it names plain column types, not this program's classes."""
    moment = kind == "type" and isinstance(item, UtcDateTime | articles.UtcDateTime | intents.UtcDateTime)
    return "sa.DateTime(timezone=True)" if moment else False


context.configure(
    connection=connection,
    target_metadata=[Base.metadata, articles.Base.metadata, intents.Base.metadata],
    render_as_batch=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
