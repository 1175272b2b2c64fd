"""The clocks of tickets in their table: started and stopped with the ticket, and by when somebody has to look.

What a clock is, and when it runs: `handoff.clocks`. A ticket whose clocks are changed is locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import event as sql_event
from sqlalchemy import inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from handoff import desk
from handoff.clocks import Clock, ClockKind, turn
from handoff.hours import WorkingHours
from handoff.policy import LEVELS, DeskPolicy
from handoff.policy_change import CountedBy, as_json, hours_of
from handoff.records import ClockRow, Ticket
from handoff.routing import Topics

ESCALATES_EVERY = 0.5
"""After a breach, a level higher each time so much more of the promised time has passed."""
_COLUMNS = ("target_seconds", "used_seconds", "running_since", "done_at", "due_at", "look_at", "raised")


class TicketClocks:
    """All clocks under one policy."""

    def __init__(self, policy: DeskPolicy, topics: Topics) -> None:
        self._policy = policy
        self._topics = topics
        self._followed = False

    async def follow(
        self,
        session: AsyncSession,
        ticket: Ticket,
        now: datetime,
        *,
        answered: bool = False,
        hours_before: WorkingHours | None = None,
    ) -> None:
        """Bring the clocks to the ticket's status; `hours_before`: also to a changed promise or team."""
        hours = self._policy.hours_of(ticket.team)
        target = self._policy.target(self._topics.get(ticket.topic), ticket.priority, ticket.segment)
        rows = await desk.clocks_of(session, ticket)
        clocks = {kind: clock_of(row) for kind, row in rows.items()}
        if hours_before is not None:
            clocks = {
                kind: clock.moved(now, hours_before, target.of(kind) or clock.target) for kind, clock in clocks.items()
            }
        turned = turn(clocks, ticket.status, answered=answered, target=target, hours=hours, now=now)
        for kind, clock in turned.items():
            row = rows.get(kind)
            if row is None:
                row = rows[kind] = ClockRow(ticket_id=ticket.id, kind=kind, raised=0, used_seconds=0.0)
                session.add(row)
            elif clock == clock_of(row):
                continue
            if clock.used == timedelta(0) and row.used_seconds:
                row.raised = 0  # the next question's clock
            elif clock.target.total_seconds() != row.target_seconds:
                # Under a longer promise it may be early again.
                share = clock.used / clock.target if clock.target else 1.0
                row.raised = min(row.raised, 0 if share < self._policy.warn_at else 1) if share < 1 else row.raised
            row.target_seconds = int(clock.target.total_seconds())
            row.used_seconds = clock.used.total_seconds()
            row.running_since, row.done_at = clock.running_since, clock.done_at
            self.look(row, ticket)
            for name in _COLUMNS if inspect(row).persistent else ():
                flag_modified(row, name)  # one statement writes all that change at once

    def look(self, row: ClockRow, ticket: Ticket) -> None:
        """When somebody has to look at this clock next."""
        clock, hours = clock_of(row), self._policy.hours_of(ticket.team)
        row.due_at = clock.due_at(hours)
        if row.raised >= 2 and ticket.level == LEVELS[-1]:
            row.look_at = None  # there is nobody higher
            return
        share = {0: self._policy.warn_at, 1: 1.0}.get(row.raised, 1 + ESCALATES_EVERY * (row.raised - 1))
        row.look_at = clock.share_at(share, hours)

    def promise(self, ticket: Ticket, now: datetime) -> datetime:
        """By when a person answers what nobody has answered yet, told from now on."""
        target = self._policy.target(self._topics.get(ticket.topic), ticket.priority, ticket.segment)
        return self._policy.hours_of(ticket.team).add(now, target.first_response or timedelta(0))

    async def answer_due(self, session: AsyncSession, ticket: Ticket, now: datetime) -> datetime:
        """By when the customer may expect the next word of a person: as he was told, or as his clock says; what is late
        already is promised anew."""
        due: datetime | None = ticket.promised_at
        if ticket.first_reply_at is not None:
            row = (await desk.clocks_of(session, ticket)).get(ClockKind.NEXT_RESPONSE)
            due = row.due_at if row is not None else None
        return due if due is not None and due > now else self.promise(ticket, now)

    async def follow_policy(self, session: AsyncSession, *, now: datetime) -> int:
        """Bring the running clocks to the desk.yml of now, once in the life of the process; how many tickets.

        What they have used stays as the hours of then measured it; what comes counts by the new hours and promises.
        """
        if self._followed:
            return 0
        said = as_json(self._policy, self._topics)
        row = (await session.scalars(select(CountedBy).with_for_update())).one()
        found: Sequence[int] = ()
        before, row.policy = row.policy, said
        if before and before != said:
            running = select(ClockRow.ticket_id).where(ClockRow.running_since.is_not(None)).distinct()
            found = (await session.scalars(running.order_by(ClockRow.ticket_id))).all()
            ours = await desk.lock_tickets(session, found, clocks=True)
            known: dict[str, WorkingHours] = {}
            for ticket in (ours.tickets[each] for each in found):
                if ticket.team not in known:
                    try:
                        known[ticket.team] = hours_of(before, ticket.team)
                    except (KeyError, ValueError, TypeError):  # another version wrote it: then the new ones count
                        known[ticket.team] = self._policy.hours_of(ticket.team)
                await self.follow(session, ticket, now, hours_before=known[ticket.team])
        sql_event.listen(session.sync_session, "after_commit", self._has_followed, once=True)
        return len(found)

    def _has_followed(self, _session: object) -> None:
        self._followed = True


def clock_of(row: ClockRow) -> Clock:
    return Clock(
        timedelta(seconds=row.target_seconds), timedelta(seconds=row.used_seconds), row.running_since, row.done_at
    )
