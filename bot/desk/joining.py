"""Whether an agent has joined the customer, and what ends when he does."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.records import AuditEntry
from bot.desk.survey import SURVEY
from handoff import desk
from handoff.history import SYSTEM
from handoff.records import Agent, HistoryEntry, Ticket

BACK = "assistant"
"""The choice not to wait for a person."""


async def a_person_spoke(session: AsyncSession, ticket: Ticket) -> None:
    """A person is there: the choice not to wait is over, though its button may still stand in the chat; and a yes or no
    that is typed now answers him, and no survey."""
    conversation = await desk.lock_conversation(session, ticket.conversation_id)
    state = {key: value for key, value in conversation.state.items() if key != SURVEY}
    options = state.get("options", {})
    if BACK in options:
        state["options"] = {token: label for token, label in options.items() if token != BACK}
    if state != conversation.state:
        conversation.state = state


async def given_by_hand(session: AsyncSession, ticket: Ticket) -> bool:
    """Whether a person gave it to whoever has it, and not the queue: the customer was told then."""
    actor = await session.scalar(
        select(HistoryEntry.actor)
        .where(HistoryEntry.ticket_id == ticket.id, HistoryEntry.event == "assigned")
        .order_by(HistoryEntry.id.desc())
        .limit(1)
    )
    return actor is not None and actor != SYSTEM


async def is_known_to_holder(session: AsyncSession, ticket: Ticket) -> bool:
    """Whether he who has it has opened it, or a person gave it to him."""
    holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
    if holder is None:
        return False
    acts = await session.scalar(
        select(AuditEntry.id).where(AuditEntry.ticket_id == ticket.id, AuditEntry.who == holder.name).limit(1)
    )
    return acts is not None or await given_by_hand(session, ticket)
