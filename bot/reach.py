"""Customers who can't be reached for a time, because they blocked us or left: what is for them waits."""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from handoff import desk
from handoff.records import Conversation

log = structlog.get_logger()


async def lost(session: AsyncSession, conversation: Conversation, why: str, *, now: datetime) -> None:
    """Nothing more is sent until he is back; agents see why. Once only."""
    if conversation.blocked_at is not None:
        return
    conversation.blocked_at, conversation.blocked_why = now, why
    text = f"The customer can't be reached ({why}). What is written waits until he is back."
    await desk.note(session, conversation.id, text, about={"blocked": why}, now=now)
    log.info("customer.lost", conversation=conversation.id, channel=conversation.channel)


async def back(session: AsyncSession, conversation: Conversation, *, now: datetime) -> None:
    """He is: what agents wrote meanwhile goes out, in its order. Answers of the assistant would come too late."""
    if conversation.blocked_at is None:
        return
    conversation.blocked_at = conversation.blocked_why = None
    await desk.note(session, conversation.id, "The customer is back.", about={"blocked": None}, now=now)
    await ledger.release_held(session, conversation, answers=False, now=now)
    log.info("customer.back", conversation=conversation.id, channel=conversation.channel)
