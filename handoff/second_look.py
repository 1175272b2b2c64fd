"""What a customer adds to his ticket: it may tell at last what the ticket is about, and that it can't wait.

Works inside the caller's transaction and never commits, as `handoff.tickets` does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.history import ASSISTANT, CUSTOMER, SYSTEM
from handoff.lifecycle import LIVE
from handoff.records import HistoryEntry, Reason, Ticket
from handoff.routing import PRIORITIES, Route
from handoff.tickets import Tickets, subject_of

BY_DEFAULT = "default"
"""`Ticket.routed_by` while nothing tells the topic."""
TELLING_WORDS = 3
"""So many make a subject: "hello" and "a person!" do not."""
WORTH_TELLING = timedelta(minutes=1)
_PROGRAMS = (SYSTEM, ASSISTANT, CUSTOMER)


def undecided(ticket: Ticket) -> bool:
    """Nothing has told its topic yet, and no person has answered: what the customer writes next may."""
    return ticket.routed_by == BY_DEFAULT and ticket.first_reply_at is None and ticket.status in LIVE


async def heed(
    tickets: Tickets,
    session: AsyncSession,
    ticket: Ticket,
    said: Sequence[str],
    route: Route | None,
    *,
    keeps: bool,
    now: datetime,
) -> bool:
    """Follow what the customer has just said: the route while there is none, words of urgency always. A priority
    rises and never falls; one that an agent has set is his. Returns whether he may expect his answer at another time
    than he was told.

    said: his new words. route: where all that he said leads now; None: that was not asked. keeps: whoever has the
    ticket keeps it, though it goes to another team.
    """
    await desk.lock_ticket(session, ticket)
    team = ticket.team
    if route is not None and undecided(ticket):
        subject = await _subject(session, ticket, said, decided=route.by != BY_DEFAULT)
        if route.by != BY_DEFAULT:
            fixed = await _set_by_hand(session, ticket, "priority")
            await tickets.reroute(
                session, ticket, route, texts=said, subject=subject, keeps=keeps, fixed=fixed, now=now
            )
        elif subject:
            await tickets.change(session, ticket, subject=subject, agent=CUSTOMER, now=now)
    if tickets.policy.is_urgent(said) and not await _set_by_hand(session, ticket, "priority"):
        priority = max(ticket.priority, "urgent", key=PRIORITIES.index)
        await tickets.change(session, ticket, priority=priority, agent=CUSTOMER, now=now)
    if ticket.first_reply_at is not None:
        return False
    promised, before = tickets.clocks.promise(ticket, now), ticket.promised_at
    if ticket.team == team:
        promised = min(promised, before)
    ticket.promised_at = promised
    return abs(promised - before) >= WORTH_TELLING


async def _subject(session: AsyncSession, ticket: Ticket, said: Sequence[str], *, decided: bool) -> str | None:
    """Better words for the subject than the bare wish for a person; None where it has better ones already."""
    told = next(filter(_tells, said), said[0] if decided and said else None)
    if told is None or ticket.reason is not Reason.ASKED_FOR_PERSON or await _set_by_hand(session, ticket, "subject"):
        return None
    before = await desk.customer_texts(session, ticket.conversation_id, now=ticket.created_at)
    return subject_of(told) if sum(map(_tells, before)) <= 1 else None


def _tells(text: str) -> bool:
    return len(re.findall(r"[^\W\d_]{2,}", text)) >= TELLING_WORDS


async def _set_by_hand(session: AsyncSession, ticket: Ticket, what: str) -> bool:
    changes = await session.scalars(
        select(HistoryEntry.details).where(
            HistoryEntry.ticket_id == ticket.id,
            HistoryEntry.event == "changed",
            HistoryEntry.actor.not_in(_PROGRAMS),
        )
    )
    return any(what in details.get("after", {}) for details in changes)
