"""Who has a ticket: given out, given, taken away, passed to a higher level, and its place in the queue until then.

Whom to choose: `handoff.assignment`. A ticket that is given or taken away by name is locked; `give_out` locks what it
finds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, bindparam, case, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.assignment import Candidate, Waiting, assign, order, senior
from handoff.history import SYSTEM, History
from handoff.lifecycle import TicketEvent
from handoff.policy import LEVELS, DeskPolicy
from handoff.presence import lapse
from handoff.records import Agent, ClockRow, HistoryEntry, Ticket
from handoff.routing import PRIORITIES, Topics
from handoff.staff import ACTING, acts, at_least, get_agent, in_place_of, manned, staff, way_up
from handoff.ticket_clocks import TicketClocks

# What is asked for all the time is made once: it takes as long as the asking.
_HOLDERS = select(Ticket.id, Ticket.assignee_id).where(ACTING, Ticket.assignee_id.is_not(None)).order_by(Ticket.id)
_LATE = (
    select(ClockRow.ticket_id)
    .where(ClockRow.ticket_id == Ticket.id, ClockRow.raised > 1, ClockRow.running_since.is_not(None))
    .exists()
)
_WAITING = (
    *(Ticket.id, Ticket.team, Ticket.level, Ticket.lang, Ticket.priority, Ticket.created_at),
    *(Ticket.preferred_id, Ticket.given_away, Ticket.topic),
    _LATE.label("late"),
)
_QUEUE = select(*_WAITING).where(
    ACTING, Ticket.assignee_id.is_(None), Ticket.team.in_(bindparam("teams", expanding=True))
)
_BEFORE = select(func.count()).where(
    ACTING,
    Ticket.assignee_id.is_(None),
    Ticket.team == bindparam("team"),
    tuple_(
        case((_LATE, 0), else_=1),
        case({name: -rank for rank, name in enumerate(PRIORITIES)}, value=Ticket.priority),
        Ticket.created_at,
        Ticket.id,
    )
    < tuple_(
        bindparam("in_time", type_=Integer),
        bindparam("rank", type_=Integer),
        bindparam("since", type_=Ticket.created_at.type),
        bindparam("id", type_=Ticket.id.type),
    ),
)
_TEAMS_WAITING = select(Ticket.team).where(ACTING, Ticket.assignee_id.is_(None)).distinct()
_ABOVE_FIRST = select(*_WAITING, Ticket.assignee_id).where(ACTING, Ticket.level != LEVELS[0])
_TURNS = (
    select(HistoryEntry.ticket_id, HistoryEntry.event, HistoryEntry.actor)
    .where(
        HistoryEntry.ticket_id.in_(bindparam("wanted", expanding=True)),
        HistoryEntry.event.in_(("created", "assigned", "transferred", "escalated", TicketEvent.AGENT_REPLIED.value)),
    )
    .order_by(HistoryEntry.id)
)


class Holders:
    """Whoever may have a ticket under one policy."""

    def __init__(self, policy: DeskPolicy, topics: Topics, history: History, clocks: TicketClocks) -> None:
        self._policy = policy
        self._topics = topics
        self._history = history
        self._clocks = clocks

    async def give_out(self, session: AsyncSession, *, now: datetime) -> Mapping[int, int]:
        """Give every waiting ticket to somebody who is there, and take back what an absent one has to act on.

        What waits in a team without any agent goes to the team that stands in for it.

        Returns ticket → agent. Tickets that wait for the customer or a task go back only when they need an agent.
        """
        await lapse(session, self._policy, now)
        candidates = [one for one in await staff(session, self._policy, now) if one.on_duty]
        present = {one.agent_id for one in candidates}
        holders = [(row[0], row[1]) for row in await session.execute(_HOLDERS)]
        left = [ticket_id for ticket_id, agent_id in holders if agent_id not in present]
        ours = await desk.lock_tickets(session, left)
        async with self._history.together(session):
            for ticket in (ours.tickets[each] for each in left):
                if acts(ticket) and ticket.assignee_id is not None and ticket.assignee_id not in present:
                    ticket.preferred_id = ticket.assignee_id
                    await self.take_away(session, ticket, SYSTEM, now, why="off duty")
        await self._stand_in(session, now)
        done = await self._to_seniors(session, candidates, now)
        if done:
            candidates = [one for one in await staff(session, self._policy, now) if one.on_duty]
        # The queue of a team of whom nobody is there can be long.
        teams = {team for candidate in candidates if candidate.free for team in candidate.teams}
        if not teams:
            return done
        rows = await session.execute(_QUEUE, {"teams": sorted(teams)})
        waiting = {row.id: self._waiting(tuple(row)) for row in rows}
        given = assign(list(waiting.values()), candidates, now)
        if not given:
            return done
        ours = await desk.lock_tickets(session, given)
        receivers = await session.scalars(select(Agent).where(Agent.id.in_(given.values())))
        by_id = {agent.id: agent for agent in receivers}
        async with self._history.together(session):
            for ticket_id, agent_id in given.items():
                ticket = ours.tickets[ticket_id]
                if acts(ticket) and ticket.assignee_id is None and ticket.team == waiting[ticket_id].team:
                    await self.give(session, ticket, by_id[agent_id], SYSTEM, now)
                    done[ticket_id] = agent_id
        return done

    async def place(self, session: AsyncSession, ticket: Ticket) -> int:
        """How many come before it in the queue of its team, plus one: in the `order` in which it is given out."""
        rows = await desk.clocks_of(session, ticket)
        late = any(row.raised > 1 and row.running_since is not None for row in rows.values())
        own: dict[str, Any] = {"in_time": int(not late), "rank": -PRIORITIES.index(ticket.priority)}
        own |= {"since": ticket.created_at, "id": ticket.id, "team": ticket.team}
        before = await session.scalar(_BEFORE, own)
        return (before or 0) + 1

    async def give(self, session: AsyncSession, ticket: Ticket, agent: Agent, actor: str, now: datetime) -> None:
        left = ticket.assignee_id if ticket.assignee_id != agent.id else None
        holder = await session.get(Agent, left) if left is not None else None
        ticket.assignee_id, ticket.updated_at, agent.last_assigned_at = agent.id, now, now
        details = {"before": holder.name} if holder is not None else {}
        if agent.langs and ticket.lang not in agent.langs:
            details["foreign"] = ticket.lang  # nobody there speaks it, or somebody gave it to him nevertheless
        await self._history.record(session, ticket, "assigned", actor, now, agent=agent.name, **details)

    async def take_away(self, session: AsyncSession, ticket: Ticket, actor: str, now: datetime, **details: Any) -> None:
        if ticket.assignee_id is not None:
            ticket.assignee_id, ticket.updated_at = None, now
            await self._history.record(session, ticket, "unassigned", actor, now, **details)

    async def raise_level(
        self, session: AsyncSession, ticket: Ticket, actor: str, now: datetime, *, why: str, passed_on: bool = False
    ) -> None:
        """A level higher, and to the team above where this one has nobody of it who is there.

        Whoever has it keeps it if he may, and as long as there is nobody who could have it: then those of that level
        are told. passed_on: it waits for somebody else at once, even where whoever gave it away is of that level.
        """
        before, team = ticket.level, ticket.team
        ticket.level = LEVELS[min(LEVELS.index(ticket.level) + 1, len(LEVELS) - 1)]
        holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
        nobody = False
        gave = frozenset(ticket.given_away if passed_on else ())
        if holder is None or holder.id in gave or not at_least(holder.level, ticket.level):
            above, free = await self._team_above(session, ticket, gave, now)
            if free or passed_on:
                ticket.team = above
                await self.take_away(session, ticket, actor, now, why="escalated")
            nobody = not free
        moved: dict[str, Any] = {"team": ticket.team, "team_before": team} if ticket.team != team else {}
        moved |= {"nobody": True} if nobody else {}
        await self._history.record(
            session, ticket, "escalated", actor, now, level=ticket.level, before=before, why=why, **moved
        )
        if ticket.team != team:
            await self._clocks.follow(session, ticket, now, hours_before=self._policy.hours_of(team))

    # Inside

    async def _team_above(
        self, session: AsyncSession, ticket: Ticket, without: Collection[int], now: datetime
    ) -> tuple[str, bool]:
        """The first team on the way up in which somebody of the ticket's level is there and has room, and whether
        there is one; else where one is there, else, while the team is closed, where there are any; else its own."""
        everybody = [one for one in await staff(session, self._policy, now) if one.agent_id not in without]
        able = [one for one in everybody if at_least(one.level, ticket.level)]
        way, closed = way_up(self._policy, ticket.team), not self._policy.hours_of(ticket.team).contains(now)
        for team in way[: 1 if closed else None]:
            if any(one.free and team in one.teams for one in able):
                return team, True
        found = [team for team in way if any((closed or one.on_duty) and team in one.teams for one in able)]
        return found[0] if found else ticket.team, False

    async def _stand_in(self, session: AsyncSession, now: datetime) -> None:
        staffed = await manned(session)
        for waits in (await session.scalars(_TEAMS_WAITING)).all() if staffed else ():
            team = in_place_of(self._policy, self._topics, waits, staffed)
            if team == waits:
                continue
            ids = (await session.scalars(_QUEUE.with_only_columns(Ticket.id), {"teams": [waits]})).all()
            ours = await desk.lock_tickets(session, ids, clocks=True)
            for ticket in (ours.tickets[each] for each in ids):
                if ticket.team == waits and ticket.assignee_id is None and acts(ticket):
                    ticket.team = team
                    moved = {"before": {"team": waits}, "after": {"team": team}}
                    await self._history.record(session, ticket, "changed", SYSTEM, now, **moved)
                    await self._clocks.follow(session, ticket, now, hours_before=self._policy.hours_of(waits))

    async def _to_seniors(self, session: AsyncSession, there: Sequence[Candidate], now: datetime) -> dict[int, int]:
        """What asks for a higher level than that of whoever has it, or waits in a team of which nobody is there, is
        a senior's as soon as one is there and has room, unless a person gave it to whoever has it, or he answered."""
        if not any(one.free and one.level != LEVELS[0] for one in there):
            return {}
        by_id = {one.agent_id: one for one in there}
        manned = {team for one in there for team in one.teams}
        wanted = {}
        for row in await session.execute(_ABOVE_FIRST):
            waiting, holder = self._waiting(tuple(row)[:-1]), by_id.get(row.assignee_id)
            raised = holder is None and not at_least(waiting.least, waiting.level) and waiting.team not in manned
            idle = raised and self._policy.hours_of(waiting.team).contains(now)
            if idle or (holder is not None and not at_least(holder.level, waiting.level)):
                wanted[waiting.ticket_id] = waiting, holder
        if not wanted:
            return {}
        stay = await self._stay(session, wanted)
        done = {}
        for waiting in order(each for each, _ in wanted.values()):
            holder = wanted[waiting.ticket_id][1]
            open_now = self._policy.hours_of(waiting.team).contains(now)
            way = way_up(self._policy, waiting.team)[: None if open_now else 1]
            found = senior(waiting, holder, way, list(by_id.values())) if waiting.ticket_id not in stay else None
            if found is None:
                continue
            team, agent_id = found
            by_id[agent_id] = replace(by_id[agent_id], load=by_id[agent_id].load + 1, last_assigned_at=now)
            ours = await desk.lock_tickets(session, [waiting.ticket_id])
            ticket = ours.tickets[waiting.ticket_id]
            has = holder.agent_id if holder else None
            if not acts(ticket) or ticket.assignee_id != has or ticket.team != waiting.team:
                continue
            before, ticket.team = ticket.team, team
            await self.give(session, ticket, await get_agent(session, agent_id), SYSTEM, now)
            if team != before:
                await self._clocks.follow(session, ticket, now, hours_before=self._policy.hours_of(before))
            done[ticket.id] = agent_id
        return done

    async def _stay(self, session: AsyncSession, ticket_ids: Iterable[int]) -> set[int]:
        """Those that a person gave to whoever has them, or that he has answered, since a higher level was asked
        for."""
        last: dict[int, bool] = {}
        for ids in desk.parts(list(ticket_ids)):
            for row in await session.execute(_TURNS, {"wanted": ids}):
                if row.event != "assigned" or row.actor != SYSTEM:
                    last[row.ticket_id] = row.event in ("assigned", TicketEvent.AGENT_REPLIED)
        return {ticket_id for ticket_id, stays in last.items() if stays}

    def _waiting(self, row: Sequence[Any]) -> Waiting:
        ticket_id, team, level, lang, priority, since, preferred, not_to, topic, late = row
        least = self._topics.get(topic).level
        return Waiting(ticket_id, team, level, lang, priority, since, preferred, frozenset(not_to), least, late)
