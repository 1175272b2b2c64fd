"""Whether a person's words reached the customer. What he never got is no answer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.lifecycle import TicketEvent
from handoff.records import Author, Delivery, HistoryEntry, Message, Ticket

UNSENT = (Delivery.FAILED, Delivery.DISCARDED, Delivery.HELD)
"""None of these reached anybody, or not yet. Where nothing is known (an answer past the desk) it did."""


async def with_unsent(session: AsyncSession, since: datetime) -> list[int]:
    """The tickets in whose conversations something that an agent wrote since then has not gone out."""
    left = select(Message.conversation_id).where(
        Message.author == Author.AGENT, Message.delivery.in_(UNSENT), Message.created_at >= since
    )
    return list(await session.scalars(select(Ticket.id).where(Ticket.conversation_id.in_(left))))


async def answers(session: AsyncSession, ticket_ids: Iterable[int]) -> dict[int, list[Message]]:
    """Ticket → the agents' replies to it that went out, the oldest first; those that have none are missing."""
    said = await session.execute(
        select(HistoryEntry.ticket_id, HistoryEntry.details).where(
            HistoryEntry.ticket_id.in_(list(ticket_ids)), HistoryEntry.event == TicketEvent.AGENT_REPLIED
        )
    )
    of = {int(details["message_id"]): ticket_id for ticket_id, details in said if "message_id" in details}
    found: dict[int, list[Message]] = {}
    gone_out = Message.delivery.is_(None) | Message.delivery.not_in(UNSENT)
    for message in await session.scalars(select(Message).where(Message.id.in_(of), gone_out).order_by(Message.id)):
        found.setdefault(of[message.id], []).append(message)
    return found
