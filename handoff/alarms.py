"""The clocks that somebody has to be told of: each warned of, breached and escalated once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Integer, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.clocks import ClockKind
from handoff.history import SYSTEM
from handoff.records import ClockRow, Ticket
from handoff.tickets import Tickets

_DUE = (
    select(ClockRow.ticket_id, ClockRow.kind)
    .where(ClockRow.look_at <= bindparam("now"))
    .order_by(ClockRow.look_at)
    .limit(bindparam("most", type_=Integer))
)


class Alarm(StrEnum):
    WARNING = "warned"
    BREACH = "breached"
    ESCALATION = "escalated"


@dataclass(frozen=True)
class Raised:
    """A clock that somebody has to be told of."""

    ticket: Ticket
    kind: ClockKind
    alarm: Alarm
    due_at: datetime
    level: str


async def raise_clocks(session: AsyncSession, tickets: Tickets, *, now: datetime, limit: int = 200) -> list[Raised]:
    """Every clock that has to be spoken of now, each once: before the deadline, at it, and after it along
    L1 → L2 → L3 → supervisor."""
    due = [(row[0], row[1]) for row in await session.execute(_DUE, {"now": now, "most": limit})]
    ours = await desk.lock_tickets(session, (ticket_id for ticket_id, _ in due), clocks=True)
    raised = []
    async with tickets.history.together(session):
        for ticket_id, kind in due:
            ticket, row = ours.tickets[ticket_id], ours.clocks[ticket_id][kind]
            if row.look_at is None or row.look_at > now:
                continue  # answered meanwhile
            tickets.clocks.look(row, ticket)
            if row.look_at is None or row.look_at > now:
                continue  # desk.yml has changed since: these hours are free by now
            row.raised += 1
            alarm = {1: Alarm.WARNING, 2: Alarm.BREACH}.get(row.raised, Alarm.ESCALATION)
            if alarm is Alarm.ESCALATION:
                await tickets.holders.raise_level(session, ticket, SYSTEM, now, why=f"{row.kind} breached")
            else:
                await tickets.history.record(session, ticket, alarm, SYSTEM, now, clock=row.kind)
            tickets.clocks.look(row, ticket)
            raised.append(Raised(ticket, row.kind, alarm, row.due_at or now, ticket.level))
    return raised
