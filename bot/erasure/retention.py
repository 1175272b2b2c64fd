"""Customers who have been silent for long are erased by themselves, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bot.erasure.erasing import Eraser
from bot.ledger import PENDING, InboxRow
from bot.work import Sessions
from handoff.desk import lock_conversation
from handoff.lifecycle import LIVE
from handoff.records import Conversation, Message, Ticket

log = structlog.get_logger()

RETENTION: Final = "retention"
"""Kind of the standing errand, the reason in the metric, and who is named in the audit log."""
TURN_SECONDS: Final = 15.0
"""How long one errand goes on, well below what an errand may take."""
AT_ONCE: Final = 200
"""Conversations that are looked up together."""
PAUSE: Final = timedelta(seconds=2)
"""Between two turns, while there is more."""
LOOK: Final = timedelta(hours=1)


class Retention:
    def __init__(self, *, eraser: Eraser, sessions: Sessions, clock: Callable[[], datetime], days: int) -> None:
        """days: since the newest message of a customer, over all his conversations."""
        self._eraser = eraser
        self._sessions = sessions
        self._clock = clock
        self._days = timedelta(days=days)

    async def run(self, _payload: Mapping[str, Any]) -> datetime:
        """The standing errand; each customer is a transaction of its own."""
        end = time.monotonic() + TURN_SECONDS
        before = self._clock() - self._days
        async with self._sessions.reading() as session:
            due = select(Conversation.id).where(_silent(before)).order_by(Conversation.id).limit(AT_ONCE)
            found = (await session.scalars(due)).all()
        for conversation_id in found:
            if time.monotonic() > end:
                break
            async with self._sessions.begin() as session:
                await self._erase(session, conversation_id, before)
        return self._clock() + (PAUSE if found else LOOK)

    async def _erase(self, session: AsyncSession, conversation_id: int, before: datetime) -> None:
        """Unless he has written meanwhile."""
        await lock_conversation(session, conversation_id)
        still = await session.scalar(select(Conversation.id).where(Conversation.id == conversation_id, _silent(before)))
        if still is not None:
            now = self._clock()
            await self._eraser.erase_conversation(session, conversation_id, by=RETENTION, now=now, why=RETENTION)


def _silent(before: datetime) -> ColumnElement[bool]:
    """Of a conversation: whoever writes there has not written anywhere since, nor been written to, and no ticket of
    his is open."""
    other = aliased(Conversation)
    his = or_(other.id == Conversation.id, other.customer_id == Conversation.customer_id)
    spoke = exists().where(Message.conversation_id == other.id, Message.created_at >= before)
    works = exists().where(Ticket.conversation_id == other.id, Ticket.status.in_(LIVE))
    waits = exists().where(
        PENDING,
        InboxRow.channel == other.channel,
        InboxRow.account == other.account,
        InboxRow.chat_id == other.chat_id,
    )
    busy = exists().where(his, or_(other.updated_at >= before, spoke, works, waits))
    return and_(Conversation.erased_at.is_(None), Conversation.updated_at < before, ~busy)
