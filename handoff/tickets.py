"""What people do with tickets, whichever desk they sit at: every move is checked, recorded and clocked.

Every method works inside the caller's transaction and never commits. Each first locks the conversation, so that two
agents who press at once act one after the other, and the second is told what the first did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import Integer, Select, Table, bindparam, func, insert, inspect, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from handoff import desk
from handoff.assignment import Candidate, Waiting, assign
from handoff.clocks import Clock, ClockKind, turn
from handoff.errors import AgentNotFoundError, CustomerError, OwnershipError, TicketStateError
from handoff.hours import WorkingHours
from handoff.lifecycle import LIVE, TicketEvent, TicketStatus, after
from handoff.policy import LEVELS, DeskPolicy
from handoff.records import (
    Agent,
    Author,
    ClockRow,
    Conversation,
    Customer,
    Feedback,
    HistoryEntry,
    Message,
    Owner,
    Presence,
    Reason,
    Ticket,
)
from handoff.routing import PRIORITIES, Route, Topics

SUBJECT_CHARS = 120
ACTS = (TicketStatus.NEW, TicketStatus.OPEN)
"""Where the next word is a person's."""
SYSTEM, ASSISTANT, CUSTOMER = "system", "assistant", "customer"
ESCALATES_EVERY = 0.5
"""After a breach, a level higher each time so much more of the promised time has passed."""


URGENCY = {"low": "low", "medium": "normal", "high": "high"}
"""Of an escalation (R62) → the least priority."""


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


Listener = Callable[[AsyncSession, Ticket, HistoryEntry], Awaitable[None]]
"""Hears of what happened to a ticket, within the transaction in which it happened: what it writes is written with it,
or not at all."""


class Tickets:
    """All that happens to tickets under one policy."""

    def __init__(self, policy: DeskPolicy, topics: Topics) -> None:
        self.policy = policy
        self.topics = topics
        self.listeners: list[Listener] = []

    # The customer's side

    async def hand_off(
        self,
        session: AsyncSession,
        conversation: Conversation,
        *,
        reason: Reason,
        route: Route,
        texts: Sequence[str],
        now: datetime,
    ) -> Ticket:
        """Make the ticket and give the conversation to people. The change of owner begins a new epoch, so that a
        reply computed before it can be told from one computed after.

        texts: what the customer said in this episode, the most telling first. Raises OwnershipError when a person
        already has the conversation.
        """
        conversation = await desk.lock_conversation(session, conversation.id)
        if conversation.owner is Owner.PERSON:
            raise OwnershipError(conversation.id, conversation.owner)
        newcomer = conversation.customer_id is None
        customer = await self.customer_of(session, conversation, now)
        segment = customer.segment
        priority = self.policy.priority(route.topic, texts, segment)
        target = self.policy.target(route.topic, priority, segment)
        first = target.first_response or timedelta(minutes=route.topic.expected_minutes)
        subject = " ".join((texts[0] if texts else "").split()) or route.topic.title_in(conversation.lang or "en")
        ticket = Ticket(
            conversation_id=conversation.id,
            status=TicketStatus.NEW,
            reason=reason,
            topic=route.topic.id,
            topic_confidence=route.evidence.confidence,
            topic_score=route.evidence.score,
            runner_up=route.runner_up,
            runner_up_confidence=route.runner_up_evidence.confidence,
            runner_up_score=route.runner_up_evidence.score,
            routed_by=route.by,
            team=route.topic.team,
            level=route.topic.level,
            priority=priority,
            segment=segment,
            lang=conversation.lang or "ru",
            subject=subject if len(subject) <= SUBJECT_CHARS else subject[: SUBJECT_CHARS - 1].rstrip() + "…",
            preferred_id=None if newcomer else await self._last_agent(session, conversation),
            promised_at=self.policy.hours_of(route.topic.team).add(now, first),
            created_at=now,
            updated_at=now,
        )
        session.add(ticket)
        conversation.owner = Owner.PERSON
        conversation.epoch += 1
        conversation.updated_at = now
        await session.flush()
        ours = desk.held(session)
        ours.tickets[ticket.id], ours.clocks[ticket.id] = ticket, {}
        await self._record(session, ticket, "created", ASSISTANT, now, reason=reason, topic=ticket.topic)
        await self._clock(session, ticket, now)
        return ticket

    async def customer_wrote(
        self, session: AsyncSession, conversation: Conversation, *, now: datetime
    ) -> Ticket | None:
        """The customer said something in a conversation that a person has; None when no ticket is live."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is not None:
            await self._move(session, ticket, TicketEvent.CUSTOMER_WROTE, CUSTOMER, now)
        return ticket

    async def give_feedback(self, session: AsyncSession, ticket: Ticket, feedback: Feedback, *, now: datetime) -> None:
        """The customer pressed a button of the survey. "No" gives the ticket to a senior.

        Raises TicketStateError when it was settled otherwise meanwhile, or another ticket is live by now.
        """
        await desk.lock_ticket(session, ticket)
        if feedback is Feedback.HELPED:
            await self._end(session, ticket, TicketEvent.HELPED, CUSTOMER, now)
            ticket.feedback = feedback
            return
        if ticket.status not in LIVE:
            await self._reopen(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
        else:
            await self._move(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
            ticket.reopened += 1
            ticket.asked_at = None
        ticket.feedback = feedback
        await self._raise_level(session, ticket, CUSTOMER, now, why="not helped")

    # The agent's side

    async def reply(self, session: AsyncSession, ticket: Ticket, text: str, *, agent: str, now: datetime) -> Message:
        """Write an agent's message into the conversation. Sending it is the ledger's work.

        Whoever answers a ticket that nobody has, has it. Raises TicketStateError when it is no longer live: the
        conversation is the assistant's again.
        """
        await desk.lock_ticket(session, ticket)
        if ticket.status not in LIVE:
            raise TicketStateError(ticket.id, ticket.status, "answered")
        if ticket.assignee_id is None and (known := await find_agent(session, agent)):
            await self._give(session, ticket, known, agent, now)
        message = Message(
            conversation_id=ticket.conversation_id,
            author=Author.AGENT,
            agent_name=agent,
            text=text,
            sent_at=now,
            created_at=now,
        )
        session.add(message)
        await session.flush()
        await self.replied(session, ticket, message, agent=agent, now=now)
        return message

    async def replied(
        self, session: AsyncSession, ticket: Ticket, message: Message, *, agent: str, now: datetime
    ) -> None:
        """An agent's message stands in the transcript: the next word is the customer's."""
        ticket.first_reply_at = ticket.first_reply_at or now
        await self._move(session, ticket, TicketEvent.AGENT_REPLIED, agent, now, answered=True, message_id=message.id)

    async def hold(
        self, session: AsyncSession, ticket: Ticket, *, task: str, until: datetime | None, agent: str, now: datetime
    ) -> None:
        """Let it wait for something else, for as long as that takes.

        task: a link or a name, which `task_done` finds it by. until: when somebody should look again at the latest.
        """
        await desk.lock_ticket(session, ticket)
        await self._move(session, ticket, TicketEvent.HELD, agent, now, task=task)
        ticket.hold_task, ticket.hold_until = task, until

    async def resume(self, session: AsyncSession, ticket: Ticket, *, actor: str, now: datetime) -> None:
        await desk.lock_ticket(session, ticket)
        await self._move(session, ticket, TicketEvent.RESUMED, actor, now, task=ticket.hold_task)
        ticket.hold_task = ticket.hold_until = None

    async def task_done(self, session: AsyncSession, task: str, *, now: datetime) -> Sequence[Ticket]:
        """A linked task ended: every ticket that waits for it goes on. Returns them."""
        return await self._resume_all(session, _OF_TASK, {"task": task}, now)

    async def finish(self, session: AsyncSession, ticket: Ticket, *, agent: str, now: datetime) -> None:
        """The agent has said his last word; the customer will be asked whether it helped."""
        await desk.lock_ticket(session, ticket)
        await self._move(session, ticket, TicketEvent.FEEDBACK_ASKED, agent, now)
        ticket.finished_at = now

    async def resolve(self, session: AsyncSession, ticket: Ticket, *, agent: str, now: datetime) -> Conversation:
        """End it at once, and give the conversation back to the assistant, who starts anew: nothing of the ended
        episode is remembered."""
        await desk.lock_ticket(session, ticket)
        return await self._end(session, ticket, TicketEvent.RESOLVED, agent, now)

    async def close(
        self, session: AsyncSession, ticket: Ticket, *, why: str, agent: str, now: datetime
    ) -> Conversation:
        """End it without a resolution: a duplicate, spam, a customer who left."""
        await desk.lock_ticket(session, ticket)
        return await self._end(session, ticket, TicketEvent.CLOSED, agent, now, why=why)

    async def reopen(self, session: AsyncSession, ticket: Ticket, *, agent: str, now: datetime) -> None:
        """Raises TicketStateError when it is live, or another ticket of the conversation is."""
        await desk.lock_ticket(session, ticket)
        await self._reopen(session, ticket, TicketEvent.REOPENED, agent, now)

    async def assign(
        self, session: AsyncSession, ticket: Ticket, agent_id: int | None, *, actor: str, now: datetime
    ) -> None:
        """Give it to an agent, or back to the queue. Raises AgentNotFoundError."""
        await desk.lock_ticket(session, ticket)
        if ticket.status not in LIVE:
            raise TicketStateError(ticket.id, ticket.status, "assigned")
        if agent_id is None:
            await self._take_away(session, ticket, actor, now)
        else:
            await self._give(session, ticket, await get_agent(session, agent_id), actor, now)

    async def transfer(
        self, session: AsyncSession, ticket: Ticket, topic_id: str, *, why: str, agent: str, now: datetime
    ) -> Message:
        """Pass it to the team of another topic, with a note of the reason (R74). Returns the note.

        What people correct here is what the routing learns from.
        """
        await desk.lock_ticket(session, ticket)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        status = after(ticket.id, ticket.status, TicketEvent.TRANSFERRED)
        topic = self.topics.get(topic_id)
        before, hours = ticket.topic, self.policy.hours_of(ticket.team)
        giver = await find_agent(session, agent)
        ticket.topic, ticket.team = topic.id, topic.team
        ticket.level = max(ticket.level, topic.level, key=LEVELS.index)
        ticket.routed_by = "agent"
        if giver:
            ticket.given_away = [*ticket.given_away, giver.id]
        self._set_status(ticket, status, now)
        await self._take_away(session, ticket, agent, now)
        ticket.preferred_id = None
        await self._record(session, ticket, "transferred", agent, now, topic=topic.id, topic_before=before, why=why)
        await self._clock(session, ticket, now, hours_before=hours)
        title = topic.title_in(conversation.lang or "ru")
        return await desk.note(
            session, conversation.id, f"→ {title}: {why}", agent_name=agent, about={"transferred": topic.id}, now=now
        )

    async def escalate(
        self, session: AsyncSession, ticket: Ticket, *, details: str, urgency: str, agent: str, now: datetime
    ) -> Message:
        """Pass it a level higher by the template of R62: to, subject, details and steps, contact, urgency."""
        await desk.lock_ticket(session, ticket)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        self._set_status(ticket, after(ticket.id, ticket.status, TicketEvent.ESCALATED), now)
        hours, giver = self.policy.hours_of(ticket.team), await find_agent(session, agent)
        if giver:
            ticket.given_away = [*ticket.given_away, giver.id]
        ticket.priority = max(ticket.priority, URGENCY.get(urgency, "normal"), key=PRIORITIES.index)
        await self._raise_level(session, ticket, agent, now, why=details)
        await self._clock(session, ticket, now, hours_before=hours)
        about = {
            "to": f"{ticket.team} {ticket.level}",
            "subject": ticket.subject,
            "details": details,
            "contact": f"{conversation.channel}:{conversation.chat_id}",
            "urgency": urgency,
        }
        text = "\n".join(f"{key}: {value}" for key, value in about.items())
        return await desk.note(session, conversation.id, text, agent_name=agent, about={"escalated": about}, now=now)

    async def change(
        self,
        session: AsyncSession,
        ticket: Ticket,
        *,
        agent: str,
        now: datetime,
        priority: str | None = None,
        complexity: int | None = None,
        subject: str | None = None,
    ) -> None:
        await desk.lock_ticket(session, ticket)
        wanted = {"priority": priority, "complexity": complexity, "subject": subject}
        changed = {key: value for key, value in wanted.items() if value is not None and value != getattr(ticket, key)}
        if not changed:
            return
        before = {key: getattr(ticket, key) for key in changed}
        for key, value in changed.items():
            setattr(ticket, key, value)
        await self._record(session, ticket, "changed", agent, now, before=before, after=changed)
        await self._clock(session, ticket, now, hours_before=self.policy.hours_of(ticket.team))

    async def move(
        self, session: AsyncSession, ticket: Ticket, conversation_id: int, *, agent: str, now: datetime
    ) -> Conversation:
        """Go on in another conversation of the same customer: that one is a person's now, the first the assistant's.

        Raises TicketStateError when the ticket has ended or another one is live there, CustomerError when the
        conversation is not known to be his.
        """
        ids = sorted({ticket.conversation_id, conversation_id})
        locked = {each: await desk.lock_conversation(session, each) for each in ids}
        await session.refresh(ticket)
        left, there = locked.get(ticket.conversation_id), locked[conversation_id]
        if ticket.status not in LIVE or left is None or left is there:
            raise TicketStateError(ticket.id, ticket.status, f"moved to conversation {conversation_id}")
        if left.customer_id is None or left.customer_id != there.customer_id:
            raise CustomerError(f"conversation {there.id} is not known to be the same customer's: link them first")
        live = await desk.open_ticket(session, there.id)
        if live is not None:
            raise TicketStateError(ticket.id, ticket.status, f"moved there: ticket {live.id} is live in it")
        left.owner, left.state = Owner.ASSISTANT, {"greeted": True}
        there.owner = Owner.PERSON
        for conversation in (left, there):
            conversation.epoch += 1
            conversation.updated_at = now
        ticket.conversation_id, ticket.updated_at = there.id, now
        await self._record(session, ticket, "moved", agent, now, left=left.id, to=there.id)
        return there

    # What is learnt of the customer

    async def follow_customer(self, session: AsyncSession, customer: Customer, actor: str, now: datetime) -> None:
        """Bring his live tickets to his segment: what is promised changes, and the priority rises, never falls."""
        theirs = select(Conversation.id).where(Conversation.customer_id == customer.id)
        live = await session.scalars(
            select(Ticket).where(Ticket.conversation_id.in_(theirs), Ticket.status.in_(LIVE)).order_by(Ticket.id)
        )
        found = live.all()
        await desk.lock_tickets(session, (ticket.id for ticket in found), clocks=True)
        for ticket in found:
            if ticket.segment == customer.segment or ticket.status not in LIVE:
                continue
            least = self.policy.segment_priority.get(customer.segment or "", "low")
            before = {"segment": ticket.segment, "priority": ticket.priority}
            ticket.segment = customer.segment
            ticket.priority = max(ticket.priority, least, key=PRIORITIES.index)
            after_it = {"segment": ticket.segment, "priority": ticket.priority}
            await self._record(session, ticket, "changed", actor, now, before=before, after=after_it)
            await self._clock(session, ticket, now, hours_before=self.policy.hours_of(ticket.team))

    async def record_link(
        self, session: AsyncSession, customer_id: int, event: str, actor: str, now: datetime, **details: Any
    ) -> None:
        """Write into the histories of a customer's live tickets that conversations were joined or taken apart; where
        none is live, into his newest one's."""
        theirs = select(Conversation.id).where(Conversation.customer_id == customer_id)
        rows = await session.scalars(
            select(Ticket).where(Ticket.conversation_id.in_(theirs)).order_by(Ticket.id.desc()).limit(100)
        )
        found = rows.all()
        for ticket in [ticket for ticket in found if ticket.status in LIVE] or found[:1]:
            await self._record(session, ticket, event, actor, now, **details)

    # What happens by itself

    async def give_out(self, session: AsyncSession, *, now: datetime) -> Mapping[int, int]:
        """Give every waiting ticket to somebody who is there, and take back what an absent one has to act on.

        Returns ticket → agent. Tickets that wait for the customer or a task go back only when they need an agent.
        """
        everybody = (await session.execute(_AGENTS)).all()
        tops = _tops((row.teams, row.level) for row in everybody)
        agents = [row for row in everybody if self._there(row.presence, row.schedule, now)]
        present = {row.id for row in agents}
        holders = [(row[0], row[1]) for row in await session.execute(_HOLDERS)]
        load = Counter(agent_id for _, agent_id in holders)
        left = [ticket_id for ticket_id, agent_id in holders if agent_id not in present]
        ours = await desk.lock_tickets(session, left)
        async with self._together(session):
            for ticket in (ours.tickets[each] for each in left):
                if ticket.status in ACTS and ticket.assignee_id not in present:
                    ticket.preferred_id = ticket.assignee_id
                    await self._take_away(session, ticket, SYSTEM, now, why="off duty")
        candidates = [
            Candidate(
                agent_id=row.id,
                teams=frozenset(row.teams),
                level=row.level,
                langs=frozenset(row.langs),
                on_duty=True,
                load=load[row.id],
                capacity=row.capacity,
                last_assigned_at=row.last_assigned_at,
            )
            for row in agents
        ]
        # The queue of a team of whom nobody is there can be long.
        teams = {team for candidate in candidates if candidate.free for team in candidate.teams}
        if not teams:
            return {}
        rows = await session.execute(_QUEUE, {"teams": sorted(teams)})
        given = assign([_waiting(tuple(row), tops) for row in rows], candidates, now)
        if not given:
            return {}
        ours = await desk.lock_tickets(session, given)
        receivers = await session.scalars(select(Agent).where(Agent.id.in_(given.values())))
        by_id = {agent.id: agent for agent in receivers}
        done = {}
        async with self._together(session):
            for ticket_id, agent_id in given.items():
                ticket = ours.tickets[ticket_id]
                if ticket.status in ACTS and ticket.assignee_id is None:
                    await self._give(session, ticket, by_id[agent_id], SYSTEM, now)
                    done[ticket_id] = agent_id
        return done

    def on_duty(self, agent: Agent, now: datetime) -> bool:
        return agent.active and self._there(agent.presence, agent.schedule, now)

    def _there(self, presence: Presence, schedule: str, now: datetime) -> bool:
        if presence in (Presence.AWAY, Presence.OFFLINE):
            return False
        hours = self.policy.schedules.get(schedule) or self.policy.schedules["default"]
        return presence is Presence.ONLINE or hours.contains(now)

    async def raise_clocks(self, session: AsyncSession, *, now: datetime, limit: int = 200) -> list[Raised]:
        """Every clock that has to be spoken of now, each once: before the deadline, at it, and after it along
        L1 → L2 → L3 → supervisor."""
        due = [(row[0], row[1]) for row in await session.execute(_DUE, {"now": now, "most": limit})]
        ours = await desk.lock_tickets(session, (ticket_id for ticket_id, _ in due), clocks=True)
        raised = []
        async with self._together(session):
            for ticket_id, kind in due:
                ticket, row = ours.tickets[ticket_id], ours.clocks[ticket_id][kind]
                if row.look_at is None or row.look_at > now:
                    continue  # answered meanwhile
                row.raised += 1
                alarm = {1: Alarm.WARNING, 2: Alarm.BREACH}.get(row.raised, Alarm.ESCALATION)
                if alarm is Alarm.ESCALATION:
                    await self._raise_level(session, ticket, SYSTEM, now, why=f"{row.kind} breached")
                else:
                    await self._record(session, ticket, alarm, SYSTEM, now, clock=row.kind)
                self._look(row, ticket)
                raised.append(Raised(ticket, row.kind, alarm, row.due_at or now, ticket.level))
        return raised

    async def wake_held(self, session: AsyncSession, *, now: datetime) -> Sequence[Ticket]:
        """Tickets on hold whose time is up go on."""
        return await self._resume_all(session, _HELD_LONG, {"now": now}, now)

    async def _resume_all(
        self, session: AsyncSession, which: Select[int], values: Mapping[str, Any], now: datetime
    ) -> Sequence[Ticket]:
        ids = (await session.scalars(which, values)).all()
        ours = await desk.lock_tickets(session, ids, clocks=True)
        found = [ours.tickets[each] for each in ids if ours.tickets[each].status is TicketStatus.ON_HOLD]
        for ticket in found:
            await self.resume(session, ticket, actor=SYSTEM, now=now)
        return found

    # Inside

    async def _move(
        self,
        session: AsyncSession,
        ticket: Ticket,
        event: TicketEvent,
        actor: str,
        now: datetime,
        *,
        answered: bool = False,
        **details: Any,
    ) -> None:
        self._set_status(ticket, after(ticket.id, ticket.status, event), now)
        await self._record(session, ticket, event, actor, now, **details)
        answered = answered or event is TicketEvent.FEEDBACK_ASKED
        await self._clock(session, ticket, now, answered=answered)

    def _set_status(self, ticket: Ticket, status: TicketStatus, now: datetime) -> None:
        ticket.status, ticket.updated_at = status, now
        if status in LIVE and status is not TicketStatus.AWAITING_FEEDBACK:
            ticket.finished_at = None  # the last word was not the last

    async def _end(
        self, session: AsyncSession, ticket: Ticket, event: TicketEvent, actor: str, now: datetime, **details: Any
    ) -> Conversation:
        await self._move(session, ticket, event, actor, now, **details)
        ticket.resolved_at = now
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        conversation.owner = Owner.ASSISTANT
        conversation.epoch += 1
        conversation.state = {"greeted": True}
        conversation.updated_at = now
        return conversation

    async def _reopen(
        self, session: AsyncSession, ticket: Ticket, event: TicketEvent, actor: str, now: datetime
    ) -> None:
        live = await desk.open_ticket(session, ticket.conversation_id)
        if live is not None and live.id != ticket.id:
            raise TicketStateError(ticket.id, ticket.status, f"reopened: ticket {live.id} is live")
        ticket.reopened += 1
        ticket.resolved_at = ticket.asked_at = None
        await self._move(session, ticket, event, actor, now)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        conversation.owner = Owner.PERSON
        conversation.epoch += 1
        conversation.updated_at = now

    async def _give(self, session: AsyncSession, ticket: Ticket, agent: Agent, actor: str, now: datetime) -> None:
        ticket.assignee_id, ticket.updated_at, agent.last_assigned_at = agent.id, now, now
        await self._record(session, ticket, "assigned", actor, now, agent=agent.name)

    async def _take_away(
        self, session: AsyncSession, ticket: Ticket, actor: str, now: datetime, **details: Any
    ) -> None:
        if ticket.assignee_id is not None:
            ticket.assignee_id, ticket.updated_at = None, now
            await self._record(session, ticket, "unassigned", actor, now, **details)

    async def _raise_level(self, session: AsyncSession, ticket: Ticket, actor: str, now: datetime, *, why: str) -> None:
        """A level higher, and to the team above where this one has nobody of it; whoever has it keeps it if he may."""
        before, team = ticket.level, ticket.team
        ticket.level = LEVELS[min(LEVELS.index(ticket.level) + 1, len(LEVELS) - 1)]
        holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
        if holder is None or LEVELS.index(holder.level) < LEVELS.index(ticket.level):
            ticket.team = await self._team_above(session, ticket)
            await self._take_away(session, ticket, actor, now, why="escalated")
        moved = {"team": ticket.team, "team_before": team} if ticket.team != team else {}
        await self._record(
            session, ticket, "escalated", actor, now, level=ticket.level, before=before, why=why, **moved
        )
        if moved:
            await self._clock(session, ticket, now, hours_before=self.policy.hours_of(team))

    async def _team_above(self, session: AsyncSession, ticket: Ticket) -> str:
        """The first team on the way up that has anybody of the ticket's level; its own where none has."""
        if self.policy.team(ticket.team).escalates_to is None:
            return ticket.team
        tops = _tops((row[0], row[1]) for row in await session.execute(_LEVELS_OF))
        team, passed = ticket.team, set[str]()
        while tops.get(team, -1) < LEVELS.index(ticket.level):
            passed.add(team)
            above = self.policy.team(team).escalates_to
            if above is None or above in passed:
                return ticket.team
            team = above
        return team

    async def _record(
        self, session: AsyncSession, ticket: Ticket, event: str, actor: str, now: datetime, **details: Any
    ) -> None:
        row = {"ticket_id": ticket.id, "at": now, "event": event, "actor": actor, "status": ticket.status}
        row["details"] = details
        gathered = desk.held(session).history
        if gathered is None:
            await session.execute(_HISTORY, [row])
        else:
            gathered.append(row)
        entry = HistoryEntry(**row)
        for listener in self.listeners:
            await listener(session, ticket, entry)

    @asynccontextmanager
    async def _together(self, session: AsyncSession) -> AsyncIterator[None]:
        """What is recorded is written in one statement."""
        rows: list[dict[str, Any]] = []
        desk.held(session).history = rows
        try:
            yield
        finally:
            desk.held(session).history = None
        if rows:
            await session.execute(_HISTORY, rows)

    async def _clock(
        self,
        session: AsyncSession,
        ticket: Ticket,
        now: datetime,
        *,
        answered: bool = False,
        hours_before: WorkingHours | None = None,
    ) -> None:
        """Bring the clocks to the ticket's status; `hours_before`: also to a changed promise or team."""
        hours = self.policy.hours_of(ticket.team)
        target = self.policy.target(self.topics.get(ticket.topic), ticket.priority, ticket.segment)
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
            elif hours_before is not None and clock.target.total_seconds() != row.target_seconds:
                # Under a longer promise it may be early again.
                share = clock.used / clock.target if clock.target else 1.0
                row.raised = min(row.raised, 0 if share < self.policy.warn_at else 1) if share < 1 else row.raised
            row.target_seconds = int(clock.target.total_seconds())
            row.used_seconds = clock.used.total_seconds()
            row.running_since, row.done_at = clock.running_since, clock.done_at
            self._look(row, ticket)
            for name in _CLOCK_COLUMNS if inspect(row).persistent else ():
                flag_modified(row, name)  # one statement writes all that change at once

    def _look(self, row: ClockRow, ticket: Ticket) -> None:
        """When somebody has to look at this clock next."""
        clock, hours = clock_of(row), self.policy.hours_of(ticket.team)
        row.due_at = clock.due_at(hours)
        if row.raised >= 2 and ticket.level == LEVELS[-1]:
            row.look_at = None  # there is nobody higher
            return
        share = {0: self.policy.warn_at, 1: 1.0}.get(row.raised, 1 + ESCALATES_EVERY * (row.raised - 1))
        row.look_at = clock.share_at(share, hours)

    async def customer_of(self, session: AsyncSession, conversation: Conversation, now: datetime) -> Customer:
        """Who writes in a conversation; from now on there is somebody."""
        if conversation.customer_id is not None:
            return await session.get_one(Customer, conversation.customer_id)
        customer = Customer(name=conversation.customer_name, note="", created_at=now)
        session.add(customer)
        await session.flush()
        conversation.customer_id = customer.id
        return customer

    async def _last_agent(self, session: AsyncSession, conversation: Conversation) -> int | None:
        """Who had the customer's last ticket, in whatever channel."""
        theirs = select(Conversation.id).where(Conversation.customer_id == conversation.customer_id)
        found: int | None = await session.scalar(
            select(Ticket.assignee_id)
            .where(
                or_(Ticket.conversation_id == conversation.id, Ticket.conversation_id.in_(theirs)),
                Ticket.assignee_id.is_not(None),
            )
            .order_by(Ticket.id.desc())
            .limit(1)
        )
        return found


def clock_of(row: ClockRow) -> Clock:
    return Clock(
        timedelta(seconds=row.target_seconds), timedelta(seconds=row.used_seconds), row.running_since, row.done_at
    )


# What is asked for all the time is made once: it takes as long as the asking.
_AGENTS = select(
    *(Agent.id, Agent.teams, Agent.level, Agent.langs, Agent.capacity, Agent.last_assigned_at),
    *(Agent.presence, Agent.schedule),
).where(Agent.active)
_LEVELS_OF = select(Agent.teams, Agent.level).where(Agent.active)
_HOLDERS = (
    select(Ticket.id, Ticket.assignee_id)
    .where(Ticket.status.in_(ACTS), Ticket.assignee_id.is_not(None))
    .order_by(Ticket.id)
)
_QUEUE = select(
    *(Ticket.id, Ticket.team, Ticket.level, Ticket.lang, Ticket.priority, Ticket.created_at),
    *(Ticket.preferred_id, Ticket.given_away),
).where(Ticket.status.in_(ACTS), Ticket.assignee_id.is_(None), Ticket.team.in_(bindparam("teams", expanding=True)))
_DUE = (
    select(ClockRow.ticket_id, ClockRow.kind)
    .where(ClockRow.look_at <= bindparam("now"))
    .order_by(ClockRow.look_at)
    .limit(bindparam("most", type_=Integer))
)
_ON_HOLD = select(Ticket.id).where(Ticket.status == TicketStatus.ON_HOLD).order_by(Ticket.id)
_OF_TASK = _ON_HOLD.where(Ticket.hold_task == bindparam("task"))
_HELD_LONG = _ON_HOLD.where(Ticket.hold_until <= bindparam("now"))
_HISTORY = insert(cast(Table, HistoryEntry.__table__))
_CLOCK_COLUMNS = ("target_seconds", "used_seconds", "running_since", "done_at", "due_at", "look_at", "raised")


def _tops(agents: Iterable[tuple[Iterable[str], str]]) -> dict[str, int]:
    """Team → the highest level that anybody in it has, on duty or not."""
    tops: dict[str, int] = {}
    for teams, level in agents:
        for team in teams:
            tops[team] = max(tops.get(team, 0), LEVELS.index(level))
    return tops


def _waiting(row: Sequence[Any], tops: Mapping[str, int]) -> Waiting:
    """Who is wanted; a level that nobody in the team has would be waited for in vain."""
    ticket_id, team, level, lang, priority, since, preferred, not_to = row
    level = LEVELS[min(LEVELS.index(level), tops.get(team, len(LEVELS)))]
    return Waiting(ticket_id, team, level, lang, priority, since, preferred, frozenset(not_to))


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
    loads = await session.execute(
        select(Ticket.assignee_id, func.count()).where(Ticket.status.in_(ACTS)).group_by(Ticket.assignee_id)
    )
    load = {row[0]: row[1] for row in loads}
    agents = await session.scalars(select(Agent).where(Agent.active).order_by(Agent.name))
    return [(agent, load.get(agent.id, 0)) for agent in agents]


async def put_agent(session: AsyncSession, name: str, *, now: datetime, **fields: Any) -> Agent:
    """Add an agent, or change what is named of one."""
    agent = await session.scalar(select(Agent).where(Agent.name == name))
    if agent is None:
        agent = Agent(name=name, created_at=now, teams=[], langs=[], notify=[])
        session.add(agent)
    for key, value in fields.items():
        setattr(agent, key, value)
    agent.active = fields.get("active", True)
    await session.flush()
    return agent


async def history(session: AsyncSession, ticket_ids: Iterable[int]) -> Sequence[HistoryEntry]:
    rows = await session.scalars(
        select(HistoryEntry).where(HistoryEntry.ticket_id.in_(list(ticket_ids))).order_by(HistoryEntry.id)
    )
    return rows.all()


async def forget_agent(session: AsyncSession, agent: Agent, tickets: Tickets, *, actor: str, now: datetime) -> None:
    """Nobody is lost with an agent who left: his tickets go back to the queue."""
    await session.execute(update(Agent).where(Agent.id == agent.id).values(active=False))
    live = await session.scalars(select(Ticket).where(Ticket.assignee_id == agent.id, Ticket.status.in_(LIVE)))
    for ticket in live.all():
        await tickets.assign(session, ticket, None, actor=actor, now=now)
