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

    def speaks(self, lang: str) -> bool:
        return not self.langs or lang in self.langs


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
    """Agents who gave it away: the last to get it."""
    least: str = "L1"
    """The level that its topic asks for. `level` is higher once it was escalated: a call for help, for which nobody
    waits who can be helped at once."""
    late: bool = False
    """A promise to the customer is broken, and not made good."""


def choose(ticket: Waiting, agents: Iterable[Candidate]) -> int | None:
    """The agent for a ticket; none when nobody is on duty who fits, or whoever is has no room.

    The level is asked for as far as anybody of it is on duty; else the highest who is there will do. Whoever gave it
    away gets it again only while none of the others who will do is on duty, and whoever does not speak the language
    only while nobody of the team who does is on duty. Of those who fit, whoever knows the customer, else the one of
    the lowest level that suffices, with the smallest share of his capacity in use, who got one longest ago.
    """
    there = _speaking(ticket.lang, [agent for agent in agents if agent.on_duty and ticket.team in agent.teams])
    for level in range(LEVELS.index(ticket.level), -1, -1):
        able = [agent for agent in there if LEVELS.index(agent.level) >= level]
        fitting = [agent for agent in able if agent.agent_id not in ticket.not_to] or able
        free = [agent for agent in fitting if agent.free]
        if any(agent.agent_id == ticket.preferred for agent in free):
            return ticket.preferred
        if free:
            return _first(free)
        if fitting and level <= LEVELS.index(ticket.least):
            return None
    return None


def senior(
    ticket: Waiting, holder: Candidate | None, way: Sequence[str], agents: Sequence[Candidate]
) -> tuple[str, int] | None:
    """The team and the agent to whom a ticket goes that somebody has who is below its level, or whose team is away.

    way: its team, and whoever stands above. Nearest to the level first, then the nearest team. Nobody gets it who can't
    speak to the customer as the holder can, or who gave it away.
    """
    has = LEVELS.index(holder.level) if holder else -1
    understood = holder is not None and holder.speaks(ticket.lang)
    for level in range(LEVELS.index(ticket.level), has, -1):
        for team in way:
            free = [
                agent
                for agent in agents
                if agent.free
                and team in agent.teams
                and LEVELS.index(agent.level) >= level
                and agent.agent_id not in ticket.not_to
                and (not understood or agent.speaks(ticket.lang))
            ]
            if free:
                return team, _first(_speaking(ticket.lang, free))
    return None


def _speaking(lang: str, agents: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those who speak a language; all where nobody does."""
    return [agent for agent in agents if agent.speaks(lang)] or agents


def _first(agents: Iterable[Candidate]) -> int:
    best = min(
        agents,
        key=lambda agent: (
            LEVELS.index(agent.level),
            agent.load / agent.capacity,
            agent.last_assigned_at or LONG_AGO,
            agent.agent_id,
        ),
    )
    return best.agent_id


def order(tickets: Iterable[Waiting]) -> list[Waiting]:
    """The queue: to whom a promise was broken first, then by priority, and whoever waits longest. Nobody jumps ahead by
    writing again, and nobody waits for ever behind those who are more important."""
    return sorted(
        tickets,
        key=lambda each: (not each.late, -PRIORITIES.index(each.priority), each.since, each.ticket_id),
    )


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
