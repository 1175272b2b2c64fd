"""Reports by shift (R69) and of a night in which something happened (R119), from what the tickets' history says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.desk import parts
from handoff.hours import WorkingHours
from handoff.lifecycle import LIVE
from handoff.policy import LEVELS, DeskPolicy
from handoff.records import Agent, ClockRow, HistoryEntry, Reason, Ticket
from handoff.routing import PRIORITIES
from handoff.staff import on_duty
from handoff.tickets import Tickets

SEARCHED = timedelta(days=15)
COUNTED = ("created", "agent_replied", "transferred", "escalated", "breached", "resolved", "closed", "reopened")
MAX_LINES = 50

Moment = Literal["start", "end", "handover"]
Kind = Literal["start", "end", "handover", "night", "now"]


@dataclass(frozen=True)
class Boundary:
    at: datetime
    kind: Moment


@dataclass(frozen=True)
class Line:
    """One ticket."""

    ticket_id: int
    topic: str
    priority: str
    level: str
    status: str
    assignee: str | None
    due_at: datetime | None
    """The next moment by which something was promised; none while nothing is."""
    late: bool
    created_at: datetime
    answered_at: datetime | None


@dataclass(frozen=True)
class ShiftReport:
    kind: Kind
    team: str | None
    """None: all teams."""
    since: datetime
    until: datetime
    on_duty: Sequence[str]
    counts: dict[str, int] = field(default_factory=dict)
    """Event of the history → how often in this time."""
    open: Sequence[Line] = ()
    """What is to be taken over or handed over: everything that is live, the most urgent first."""
    unassigned: int = 0
    late: int = 0
    escalated: Sequence[Line] = ()
    """Escalated in this time, or still above the first level."""
    incidents: Sequence[Line] = ()
    """Urgent, late or broken in this time."""

    @property
    def idle(self) -> bool:
        """Nothing happened, and nothing is open."""
        return not (self.open or any(self.counts.values()))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def boundaries(schedules: Iterable[WorkingHours], begin: datetime, end: datetime) -> list[Boundary]:
    """When shifts of these schedules begin and end after `begin` and until `end`. Round-the-clock ones never do."""
    begins, ends = set(), set()
    for hours in schedules:
        first, last = begin - SEARCHED, end + SEARCHED
        for opens, closes in hours.shifts(first, last):
            if opens > first and closes < last:  # what reaches over the edge of the search is left out
                begins.add(opens)
                ends.add(closes)
    return [
        Boundary(at, "handover" if at in begins and at in ends else "start" if at in begins else "end")
        for at in sorted(begins | ends)
        if begin < at <= end
    ]


async def schedules_of(session: AsyncSession, policy: DeskPolicy, team: str) -> list[WorkingHours]:
    """The schedules by which a team's agents work; the team's own where it has none."""
    agents = await session.scalars(select(Agent).where(Agent.active))
    names = {agent.schedule for agent in agents if team in agent.teams}
    return [policy.schedules[name] for name in sorted(names & set(policy.schedules))] or [policy.hours_of(team)]


async def last_boundary(session: AsyncSession, policy: DeskPolicy, team: str, now: datetime) -> datetime:
    """When the present shift of a team began, or the last one ended; a day ago where that is never."""
    found = boundaries(await schedules_of(session, policy, team), now - timedelta(days=7), now)
    before = [each.at for each in found if each.at < now]
    return before[-1] if before else now - timedelta(days=1)


def last_night(hours: WorkingHours, now: datetime) -> tuple[datetime, datetime] | None:
    """The last time from a closing to the opening after it; None where nobody ever goes home."""
    found = boundaries([hours], now - timedelta(days=7), now)
    for position in range(len(found) - 1, 0, -1):
        if found[position].kind == "start" and found[position - 1].kind == "end":
            return found[position - 1].at, found[position].at
    return None


async def shift_report(
    session: AsyncSession, tickets: Tickets, *, kind: Kind, team: str | None, since: datetime, until: datetime
) -> ShiftReport:
    """What happened in a time, and what is open at its end. team: of this one; None: of all.

    What is open and who is there is read as it is now: ask for it at the end of the time.
    """
    agents = {agent.id: agent for agent in await session.scalars(select(Agent).where(Agent.active))}
    ours = select(Ticket) if team is None else select(Ticket).where(Ticket.team == team)
    live = (await session.scalars(ours.where(Ticket.status.in_(LIVE)))).all()
    entries = await session.execute(
        select(HistoryEntry.event, Ticket)
        .join(Ticket, Ticket.id == HistoryEntry.ticket_id)
        .where(HistoryEntry.at >= since, HistoryEntry.at < until, *([Ticket.team == team] if team else []))
    )
    # At the moment of closing nobody is there any more.
    then = until - timedelta(seconds=1) if kind == "end" else until
    events: Counter[str] = Counter()
    escalated = {ticket.id: ticket for ticket in live if LEVELS.index(ticket.level) > 0}
    incidents: dict[int, Ticket] = {}
    for event, ticket in entries:
        events[event] += 1
        if event == "escalated":
            escalated[ticket.id] = ticket
        broken = event == "created" and (ticket.priority == "urgent" or ticket.reason is Reason.ERROR)
        if broken or event in ("breached", "escalated"):
            incidents[ticket.id] = ticket
    clocks = await clocks_of(session, {ticket.id for ticket in [*live, *escalated.values(), *incidents.values()]})
    lines = [_line(ticket, agents, clocks.get(ticket.id, ()), until) for ticket in live]
    return ShiftReport(
        kind=kind,
        team=team,
        since=since,
        until=until,
        on_duty=[
            agent.name
            for agent in sorted(agents.values(), key=lambda agent: agent.name)
            if (team is None or team in agent.teams) and on_duty(tickets.policy, agent, then)
        ],
        counts={event: events[event] for event in COUNTED},
        open=sorted(lines, key=lambda line: (-PRIORITIES.index(line.priority), line.created_at))[:MAX_LINES],
        unassigned=sum(line.assignee is None for line in lines),
        late=sum(line.late for line in lines),
        escalated=[_line(ticket, agents, clocks.get(ticket.id, ()), until) for ticket in escalated.values()][
            :MAX_LINES
        ],
        incidents=[_line(ticket, agents, clocks.get(ticket.id, ()), until) for ticket in incidents.values()][
            :MAX_LINES
        ],
    )


async def supervisors(session: AsyncSession, team: str | None) -> list[Agent]:
    """Who is told of a team's shifts by himself."""
    rows = await session.scalars(select(Agent).where(Agent.active, Agent.level == LEVELS[-1]))
    return [agent for agent in rows if team is None or not agent.teams or team in agent.teams]


async def clocks_of(session: AsyncSession, ticket_ids: Collection[int]) -> dict[int, list[ClockRow]]:
    found: dict[int, list[ClockRow]] = {}
    for ids in parts(sorted(ticket_ids)):
        for row in await session.scalars(select(ClockRow).where(ClockRow.ticket_id.in_(ids))):
            found.setdefault(row.ticket_id, []).append(row)
    return found


def _line(ticket: Ticket, agents: dict[int, Agent], clocks: Sequence[ClockRow], now: datetime) -> Line:
    running = [row.due_at for row in clocks if row.due_at is not None and row.done_at is None]
    agent = agents.get(ticket.assignee_id or 0)
    return Line(
        ticket_id=ticket.id,
        topic=ticket.topic,
        priority=ticket.priority,
        level=ticket.level,
        status=ticket.status,
        assignee=agent.name if agent else None,
        due_at=min(running, default=None),
        late=any(due_at < now for due_at in running) or any(row.raised >= 2 and not row.done_at for row in clocks),
        created_at=ticket.created_at,
        answered_at=ticket.first_reply_at,
    )
