"""Who gets a ticket. Pure: the desk asks with what it read, and writes what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from handoff.policy import LEVELS
from handoff.routing import PRIORITIES

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Candidate:
    """An agent as the assignment sees him."""

    agent_id: int
    teams: frozenset[str]
    level: str
    langs: frozenset[str]
    """The languages he answers in; empty: any."""
    on_duty: bool
    load: int
    """Tickets that he has to act on."""
    capacity: int
    last_assigned_at: datetime | None = None

    @property
    def free(self) -> bool:
        return self.on_duty and self.load < self.capacity


@dataclass(frozen=True)
class Waiting:
    """A ticket without an agent."""

    ticket_id: int
    team: str
    level: str
    lang: str
    priority: str
    since: datetime
    preferred: int | None = None
    """The agent who knows it already: who had it before, or had the customer's last one."""
    not_to: frozenset[int] = frozenset()
    """Agents who gave it away."""


def choose(ticket: Waiting, agents: Iterable[Candidate]) -> int | None:
    """The agent for a ticket; none when nobody fits who is on duty and has room.

    Of those who fit, whoever knows the customer, else the one of the lowest level that suffices, with the smallest
    share of his capacity in use, who got one longest ago.
    """
    wanted = LEVELS.index(ticket.level)
    fitting = [
        agent
        for agent in agents
        if agent.free
        and ticket.team in agent.teams
        and LEVELS.index(agent.level) >= wanted
        and (not agent.langs or ticket.lang in agent.langs)
        and agent.agent_id not in ticket.not_to
    ]
    if any(agent.agent_id == ticket.preferred for agent in fitting):
        return ticket.preferred
    best = min(
        fitting,
        key=lambda agent: (
            LEVELS.index(agent.level),
            agent.load / agent.capacity,
            agent.last_assigned_at or LONG_AGO,
            agent.agent_id,
        ),
        default=None,
    )
    return best.agent_id if best else None


def order(tickets: Iterable[Waiting]) -> list[Waiting]:
    """The queue: by priority, and whoever waits longest first. Nobody jumps ahead by writing again."""
    return sorted(tickets, key=lambda ticket: (-PRIORITIES.index(ticket.priority), ticket.since, ticket.ticket_id))


def assign(tickets: Sequence[Waiting], agents: Sequence[Candidate], now: datetime) -> Mapping[int, int]:
    """Ticket → agent for everything that can be given out now, in the order of the queue."""
    present = {agent.agent_id: agent for agent in agents}
    given = {}
    for ticket in order(tickets):
        agent_id = choose(ticket, present.values())
        if agent_id is not None:
            given[ticket.ticket_id] = agent_id
            agent = present[agent_id]
            present[agent_id] = replace(agent, load=agent.load + 1, last_assigned_at=now)
    return given
