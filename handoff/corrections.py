"""What agents said of the routing by passing tickets on: the rows that the next training learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from handoff.records import Author, Message, Ticket

BY_AGENT = "agent"
"""`Ticket.routed_by` once a person has chosen the topic."""
MOST = 5000


@dataclass(frozen=True)
class Correction:
    ticket_id: int
    topic: str
    lang: str
    texts: Sequence[str]
    """The customer's words of the episode up to the handoff, newest first: what the routing had to go by."""


async def corrections(session: AsyncSession, *, limit: int = MOST) -> list[Correction]:
    """The newest tickets whose topic an agent chose, the oldest of them first. A ticket that came back to the topic
    that the routing had chosen confirms it."""
    chosen = (
        select(Ticket.id, Ticket.conversation_id, Ticket.created_at, Ticket.topic, Ticket.lang)
        .where(Ticket.routed_by == BY_AGENT)
        .order_by(Ticket.id.desc())
        .limit(limit)
        .subquery()
    )
    earlier = aliased(Ticket)
    since = (
        select(func.max(earlier.resolved_at))
        .where(earlier.conversation_id == chosen.c.conversation_id, earlier.id < chosen.c.id)
        .scalar_subquery()
    )
    rows = await session.execute(
        select(chosen.c.id, chosen.c.topic, chosen.c.lang, Message.text)
        .join(
            Message,
            and_(
                Message.conversation_id == chosen.c.conversation_id,
                Message.created_at <= chosen.c.created_at,
                or_(since.is_(None), Message.created_at > since),
            ),
        )
        .where(Message.author == Author.CUSTOMER, Message.kind.in_(("text", "attachment")), Message.text != "")
        .order_by(chosen.c.id, Message.id.desc())
    )
    found: dict[int, Correction] = {}
    for ticket_id, topic, lang, text in rows:
        before = found.get(ticket_id)
        texts = (*before.texts, text) if before else (text,)
        found[ticket_id] = Correction(ticket_id, topic, lang, texts)
    return list(found.values())
