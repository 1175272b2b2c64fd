"""The net promoter score: whom to ask how likely he is to recommend the company, when, and what was answered.

A customer is asked after a good end that has lasted, in the chat in which it came about. All his linked conversations
count as one person. What he is asked in words, and what his words mean, is `bot.desk.nps`' work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from handoff.hours import Daytime
from handoff.lifecycle import LIVE, TicketEvent
from handoff.outcomes import Step
from handoff.records import Base, BigId, Conversation, Delivery, HistoryEntry, Message, Owner, Ticket

SCORES = range(11)
BY_DAY = Daytime(time(10), time(20))
WINDOW_MARGIN = timedelta(minutes=30)
"""How long before the end of a platform's window the question is asked at the latest."""
LAST_CALL = timedelta(minutes=5)
"""How long before that end it is given up, should it come late."""
SOONEST = timedelta(hours=1)
"""After a good end, where a window leaves no time for more."""
SPREAD = timedelta(hours=2)
"""Over so long those are asked whose moment fell into the night, so that an opening is no rush."""
TOO_LATE = timedelta(days=3)
"""A question that could not be asked for so long (nothing ran) is not asked at all."""


@dataclass(frozen=True)
class Nps:
    """When a customer is asked, in time of the wall clock."""

    ask: bool = False
    after: timedelta = timedelta(days=1)
    """Since the good end."""
    every: timedelta = timedelta(days=90)
    """Nobody is asked twice within it."""
    share: float = 1.0
    """Of the customers who could be asked in such a period."""
    hours: Daytime = BY_DAY
    """In the time zone of the default schedule."""

    def moment(self, ended_at: datetime, zone: tzinfo, closing: datetime | None, lag: float = 0.0) -> datetime | None:
        """When to ask after a good end; None where the platform's window leaves no time by day. lag: as `by_day`."""
        at = self.by_day(ended_at + self.after, zone, lag)
        if closing is None or at <= closing - WINDOW_MARGIN:
            return at
        ends = (closing - WINDOW_MARGIN).astimezone(UTC)
        latest = self.hours.last(ends, zone)
        latest = latest if latest == ends else latest - timedelta(minutes=1)
        return latest if latest - ended_at >= SOONEST else None

    def by_day(self, at: datetime, zone: tzinfo, lag: float = 0.0) -> datetime:
        """The moment itself, or the next one at which people are asked: soon after the opening, `lag` (0..1) of SPREAD
        later."""
        found = self.hours.next(at, zone)
        return found if found == at else found + lag * min(SPREAD, self.hours.length / 2)

    def chosen(self, person: int, at: datetime) -> bool:
        """Whether a customer is among the `share` of this period: the same ones until it is over, however often they
        come, so that those who write much are not asked more."""
        period = int(at.timestamp() // max(self.every.total_seconds(), 1))
        drawn = hashlib.sha256(f"{person}:{period}".encode()).digest()
        return int.from_bytes(drawn[:6]) / 2**48 < self.share


class NpsAnswer(Base):
    """That a customer was asked, and what he answered."""

    __tablename__ = "nps_answers"
    __table_args__ = (
        # One question for one good end, whatever fires twice.
        UniqueConstraint("conversation_id", "ended_at"),
        Index("ix_nps_answers_asked", "asked_at"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"))
    ticket_id: Mapped[BigId | None] = mapped_column(ForeignKey("tickets.id"))
    """The one that ended well; None: the assistant settled the matter."""
    message_id: Mapped[BigId] = mapped_column(ForeignKey("messages.id"))
    """The question."""
    channel: Mapped[str] = mapped_column(String(32))
    lang: Mapped[str] = mapped_column(String(8))
    topic: Mapped[str | None] = mapped_column(String(64))
    """Of the matter that ended well."""
    ended_at: Mapped[datetime]
    asked_at: Mapped[datetime]
    score: Mapped[int | None]
    answered_at: Mapped[datetime | None]
    comment: Mapped[str | None] = mapped_column(Text)
    declined_at: Mapped[datetime | None]
    """He wants never to be asked again."""


async def conversations_of(session: AsyncSession, conversation: Conversation) -> Sequence[int]:
    """Ids of all that are known to be with the same person."""
    if conversation.customer_id is None:
        return [conversation.id]
    rows = await session.scalars(select(Conversation.id).where(Conversation.customer_id == conversation.customer_id))
    return rows.all()


async def refusal(
    session: AsyncSession, conversation: Conversation, policy: Nps, *, ended_at: datetime, now: datetime
) -> str | None:
    """Why a customer is not asked now, for the log; None: he may be. The conversation is locked."""
    if not policy.ask:
        return "off"
    if now - ended_at > policy.after + TOO_LATE:
        return "too late"
    if conversation.owner is not Owner.ASSISTANT or conversation.blocked_at is not None:
        return "not reachable" if conversation.blocked_at else "with a person"
    if session.get_bind().dialect.name == "postgresql":
        # Two of his conversations may come to it at once: the second must see what the first asked.
        person = f"nps:{conversation.customer_id or -conversation.id}"
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtext(person))))
    theirs = await conversations_of(session, conversation)
    of_them = NpsAnswer.conversation_id.in_(theirs)
    again = [Message.conversation_id.in_(theirs), Message.created_at > ended_at]
    tickets = select(Ticket.id).where(Ticket.conversation_id.in_(theirs))
    opened = (TicketEvent.REOPENED, TicketEvent.NOT_HELPED, "created")
    last = select(Message.delivery).where(Message.conversation_id == conversation.id, Message.delivery.is_not(None))
    reasons = {
        "asked lately": exists().where(of_them, NpsAnswer.asked_at > now - policy.every),
        "declined": exists().where(of_them, NpsAnswer.declined_at.is_not(None)),
        "a ticket is live": exists().where(Ticket.conversation_id.in_(theirs), Ticket.status.in_(LIVE)),
        "came back": exists().where(*again, Message.step.in_((Step.ANSWERED, Step.ASKED))),
        "opened again": exists().where(
            HistoryEntry.ticket_id.in_(tickets), HistoryEntry.event.in_(opened), HistoryEntry.at > ended_at
        ),
        "not reachable": last.order_by(Message.id.desc()).limit(1).scalar_subquery() == Delivery.FAILED,
    }
    found = (await session.execute(select(*(reason.label(f"r{n}") for n, reason in enumerate(reasons.values()))))).one()
    return next((why for why, holds in zip(reasons, found, strict=True) if holds), None)
