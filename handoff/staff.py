"""Who there is: the agents as the assignment sees them, and the way up that the tickets of a team take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.assignment import Candidate
from handoff.errors import AgentNotFoundError
from handoff.lifecycle import ACTS, TicketStatus
from handoff.policy import LEVELS, DeskPolicy
from handoff.records import Agent, Presence, Ticket
from handoff.routing import Topics

# What is asked for all the time is made once: it takes as long as the asking.
_AGENTS = select(
    *(Agent.id, Agent.teams, Agent.level, Agent.langs, Agent.capacity, Agent.last_assigned_at),
    *(Agent.presence, Agent.schedule),
).where(Agent.active)
ACTING = Ticket.status.in_((*ACTS, TicketStatus.ON_HOLD)) & (
    (Ticket.status != TicketStatus.ON_HOLD) | Ticket.first_reply_at.is_(None)
)
"""Whether a person has to act on it: his word is next, or it was put on hold before he said one. The statuses stand
first and alone, so that an index by them is of use: most tickets that nobody has ended long ago."""
_TEAMS = select(Agent.teams).where(Agent.active)
_LOADS = (
    select(Ticket.assignee_id, func.count()).where(ACTING, Ticket.assignee_id.is_not(None)).group_by(Ticket.assignee_id)
)


async def staff(session: AsyncSession, policy: DeskPolicy, now: datetime) -> list[Candidate]:
    """Every agent, on duty or not, with what he has to act on."""
    load = await _loads(session)
    return [
        Candidate(
            agent_id=row.id,
            teams=frozenset(row.teams),
            level=row.level,
            langs=frozenset(row.langs),
            on_duty=is_there(policy, row.presence, row.schedule, now),
            load=load.get(row.id, 0),
            capacity=row.capacity,
            last_assigned_at=row.last_assigned_at,
        )
        for row in await session.execute(_AGENTS)
    ]


async def _loads(session: AsyncSession) -> dict[int | None, int]:
    return {row[0]: row[1] for row in await session.execute(_LOADS)}


def acts(ticket: Ticket) -> bool:
    """The same as `ACTING`, of a ticket that is read."""
    return ticket.status in ACTS or (ticket.status is TicketStatus.ON_HOLD and ticket.first_reply_at is None)


def on_duty(policy: DeskPolicy, agent: Agent, now: datetime) -> bool:
    return agent.active and is_there(policy, agent.presence, agent.schedule, now)


def is_there(policy: DeskPolicy, presence: Presence, schedule: str, now: datetime) -> bool:
    if presence in (Presence.AWAY, Presence.OFFLINE):
        return False
    hours = policy.schedules.get(schedule) or policy.schedules["default"]
    return presence is Presence.ONLINE or hours.contains(now)


def way_up(policy: DeskPolicy, team: str) -> list[str]:
    """The team itself, and who stands above it, the nearest first."""
    way = [team]
    while (above := policy.team(way[-1]).escalates_to) is not None and above not in way:
        way.append(above)
    return way


async def manned(session: AsyncSession) -> frozenset[str]:
    """The teams that have an agent at all, on duty or not."""
    return frozenset(team for teams in await session.scalars(_TEAMS) for team in teams)


def in_place_of(policy: DeskPolicy, topics: Topics, team: str, staffed: Collection[str]) -> str:
    """Who takes a team's tickets while it has no agent: the first above it that has one, else the team of the default
    topic, or who stands above that; the team itself where there is nobody anywhere."""
    way = [*way_up(policy, team), *way_up(policy, topics.default.team)]
    return next((each for each in way if each in staffed), team)


async def seniors(session: AsyncSession, policy: DeskPolicy, ticket: Ticket) -> Sequence[Agent]:
    """Whose level a ticket asks for, on duty or not: those of the lowest level that suffices, in the first team on
    the way up that has any."""
    everybody = (await session.scalars(select(Agent).where(Agent.active).order_by(Agent.id))).all()
    for team in way_up(policy, ticket.team):
        high = [one for one in everybody if team in one.teams and at_least(one.level, ticket.level)]
        if high:
            lowest = min((one.level for one in high), key=LEVELS.index)
            return [one for one in high if one.level == lowest]
    return []


def at_least(level: str, wanted: str) -> bool:
    return LEVELS.index(level) >= LEVELS.index(wanted)


async def get_agent(session: AsyncSession, agent_id: int) -> Agent:
    agent = await session.get(Agent, agent_id)
    if agent is None or not agent.active:
        raise AgentNotFoundError(agent_id)
    return agent


async def find_agent(session: AsyncSession, name: str) -> Agent | None:
    found: Agent | None = await session.scalar(select(Agent).where(Agent.name == name, Agent.active))
    return found


async def list_agents(session: AsyncSession) -> Sequence[tuple[Agent, int]]:
    """Every agent with the number of tickets he has to act on."""
    load = await _loads(session)
    agents = await session.scalars(select(Agent).where(Agent.active).order_by(Agent.name))
    return [(agent, load.get(agent.id, 0)) for agent in agents]


async def put_agent(session: AsyncSession, name: str, *, now: datetime, **fields: Any) -> Agent:
    """Add an agent, or change what is named of one."""
    agent = await session.scalar(select(Agent).where(Agent.name == name))
    if agent is None:
        agent = Agent(name=name, created_at=now, teams=[], langs=[], notify=[])
        session.add(agent)
    if "presence" in fields:
        agent.presence_at = now
    for key, value in fields.items():
        setattr(agent, key, value)
    agent.active = fields.get("active", True)
    await session.flush()
    return agent
