"""What a supervisor sees: the live queue by team and agent, and the charts of a period. Read-only."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from sqlalchemy import distinct, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.access import Permission, Viewer
from handoff.lifecycle import ACTS, LIVE
from handoff.outcomes import Facts, Figures
from handoff.records import ClockRow, Presence, Ticket
from handoff.reports import load_facts
from handoff.staff import list_agents, on_duty
from handoff.tickets import Tickets


@dataclass
class Load:
    """Tickets of a team or an agent, as they are now."""

    name: str
    unassigned: int = 0
    acts: int = 0
    """The next word is a person's."""
    waits: int = 0
    """For the customer, a task or the survey."""
    late: int = 0
    """With a promise that is broken."""
    on_shift: int = 0
    people: int = 0


@dataclass
class AgentLoad(Load):
    teams: tuple[str, ...] = ()
    capacity: int = 0
    presence: Presence = Presence.AUTO
    on_duty: bool = False


@dataclass(frozen=True)
class Live:
    teams: Sequence[Load]
    agents: Sequence[AgentLoad]
    total: Load = field(default_factory=lambda: Load(""))


async def live(session: AsyncSession, tickets: Tickets, viewer: Viewer, *, now: datetime) -> Live:
    viewer.require(Permission.FIGURES)
    names = {topic.team for topic in tickets.topics.all.values()} | set(tickets.policy.teams)
    teams = {name: Load(name) for name in sorted(names)}
    agents: dict[int, AgentLoad] = {}
    for agent, _ in await list_agents(session):
        there = on_duty(tickets.policy, agent, now)
        agents[agent.id] = AgentLoad(
            agent.name,
            teams=tuple(agent.teams),
            capacity=agent.capacity,
            presence=agent.presence,
            on_duty=there,
        )
        for team in agent.teams:
            load = teams.setdefault(team, Load(team))
            load.people += 1
            load.on_shift += there
    total = Load("", on_shift=sum(a.on_duty for a in agents.values() if a.teams))
    total.people = sum(bool(a.teams) for a in agents.values())
    counted = await session.execute(
        select(Ticket.team, Ticket.assignee_id, Ticket.status, func.count())
        .where(Ticket.status.in_(LIVE))
        .group_by(Ticket.team, Ticket.assignee_id, Ticket.status)
    )
    for team, agent_id, status, count in counted:
        for load in _of(teams, agents, total, team, agent_id):
            load.unassigned += count if agent_id is None and status in ACTS else 0
            load.acts += count if status in ACTS else 0
            load.waits += count if status not in ACTS else 0
    late = await session.execute(
        select(Ticket.team, Ticket.assignee_id, func.count(distinct(Ticket.id)))
        .join(ClockRow, ClockRow.ticket_id == Ticket.id)
        .where(ClockRow.due_at <= now, Ticket.status.in_(LIVE))
        .group_by(Ticket.team, Ticket.assignee_id)
    )
    for team, agent_id, count in late:
        for load in _of(teams, agents, total, team, agent_id):
            load.late += count
    shown = [agent for agent in agents.values() if agent.teams or agent.acts or agent.waits]
    return Live(list(teams.values()), shown, total)


def _of(
    teams: dict[str, Load], agents: dict[int, AgentLoad], total: Load, team: str, agent_id: int | None
) -> list[Load]:
    found: list[Load] = [total, teams.setdefault(team, Load(team))]
    if agent_id in agents:
        found.append(agents[agent_id])
    return found


async def facts_of(
    session: AsyncSession, tickets: Tickets, viewer: Viewer, *, since: datetime, until: datetime, now: datetime
) -> Facts:
    """All tickets and episodes of a period."""
    viewer.require(Permission.FIGURES)
    return await load_facts(session, tickets.policy, since=since, until=until, now=now, topics=tickets.topics)


class Chart(StrEnum):
    TICKETS = "tickets"
    """Per day."""
    FIRST_RESPONSE = "first_response"
    """Median and 90th percentile per day, in minutes of working time."""
    RESOLUTION = "resolution"
    """The same, in hours."""
    ON_TIME = "on_time"
    """Per day."""
    SATISFACTION = "satisfaction"
    """Per day."""
    TOPICS = "topics"
    HOURS = "hours"
    """Tickets by the hour of the day."""
    AGENTS = "agents"
    """Tickets by who has or had them."""
    NPS = "nps"
    """Answers by how likely the customer is to recommend the company, 0 to 10."""


@dataclass(frozen=True)
class Series:
    """What a chart shows: for each label one value of each line; None where nothing was measured."""

    labels: Sequence[str]
    lines: Mapping[str, Sequence[float | None]]
    kind: Literal["bars", "lines", "shares"]


def series(chart: Chart, facts: Facts, days: Sequence[str]) -> Series:
    """days: every day of the period, so that a day without tickets is there as well."""
    figures = {day: part.figures() for day, part in facts.by("day").items()}

    def daily(read: Callable[[Figures], float | None]) -> list[float | None]:
        return [read(figures[day]) if day in figures else None for day in days]

    match chart:
        case Chart.TICKETS:
            return Series(
                days, {"tickets": [float(figures[day].tickets) if day in figures else 0 for day in days]}, "bars"
            )
        case Chart.FIRST_RESPONSE:
            lines = {
                "half": daily(lambda f: _in(f.first_response.p50, 60)),
                "nine of ten": daily(lambda f: _in(f.first_response.p90, 60)),
            }
            return Series(days, lines, "lines")
        case Chart.RESOLUTION:
            lines = {
                "half": daily(lambda f: _in(f.resolution.p50, 3600)),
                "nine of ten": daily(lambda f: _in(f.resolution.p90, 3600)),
            }
            return Series(days, lines, "lines")
        case Chart.ON_TIME:
            return Series(days, {"on time": daily(lambda f: f.on_time)}, "shares")
        case Chart.SATISFACTION:
            return Series(days, {"satisfaction": daily(lambda f: f.satisfaction)}, "shares")
        case Chart.NPS:
            counts = [float(count) for count in facts.figures().nps.by_score]
            return Series([str(score) for score in range(len(counts))], {"answers": counts}, "bars")
        case _:
            key = {Chart.TOPICS: "topic", Chart.HOURS: "hour", Chart.AGENTS: "agent"}[chart]
            parts = {name: float(len(part.tickets)) for name, part in facts.by(key).items() if part.tickets}
            if chart is Chart.HOURS:
                parts = {f"{hour:02}": parts.get(f"{hour:02}", 0.0) for hour in range(24)}
            else:
                parts = dict(sorted(parts.items(), key=lambda item: -item[1])[:15])
            return Series(list(parts), {"tickets": list(parts.values())}, "bars")


def _in(seconds: float | None, unit: int) -> float | None:
    return None if seconds is None else round(seconds / unit, 2)


def as_csv(shown: Series) -> str:
    """With a heading, for a spreadsheet. A cell that a spreadsheet could take for a formula is written as text."""
    out = io.StringIO()
    write = csv.writer(out)
    write.writerow(["", *shown.lines])
    for number, label in enumerate(shown.labels):
        values = [line[number] for line in shown.lines.values()]
        write.writerow([_harmless(label), *("" if value is None else value for value in values)])
    return out.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


TICKET_COLUMNS = (
    *("ticket_id", "created_at", "channel", "topic", "team", "level", "priority", "lang", "reason", "status", "agent"),
    *("first_response_seconds", "first_response_on_time", "resolution_seconds", "resolution_on_time", "helped"),
    "reopened",
)


def tickets_csv(facts: Facts) -> str:
    """A line for each ticket of the period."""
    return _lines(TICKET_COLUMNS, facts.tickets)


NPS_COLUMNS = ("asked_at", "answered_at", "score", "comment", "channel", "lang", "topic", "ticket_id", "agent")


def nps_csv(facts: Facts) -> str:
    """A line for each customer who was asked in the period how likely he is to recommend the company."""
    return _lines(NPS_COLUMNS, facts.nps)


def _lines(columns: Sequence[str], rows: Sequence[object]) -> str:
    out = io.StringIO()
    write = csv.writer(out)
    write.writerow(columns)
    for row in rows:
        values = (getattr(row, name) for name in columns)
        write.writerow([_harmless(str("" if value is None else value)) for value in values])
    return out.getvalue()
