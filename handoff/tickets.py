"""What people do with tickets, whichever desk they sit at: every move is checked, recorded and clocked.

Every method works inside the caller's transaction and never commits. Each first locks the conversation, so that two
agents who press at once act one after the other, and the second is told what the first did.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import Integer, Table, bindparam, case, func, insert, inspect, or_, select, tuple_, update
from sqlalchemy import event as sql_event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from handoff import desk
from handoff.answered import answers
from handoff.assignment import Candidate, Waiting, assign, order, senior
from handoff.clocks import Clock, ClockKind, turn
from handoff.errors import (
    CustomerError,
    HoldDateError,
    OwnershipError,
    TicketStateError,
    UnansweredError,
)
from handoff.hours import WorkingHours
from handoff.lifecycle import ACTS, LIVE, TicketEvent, TicketStatus, after
from handoff.policy import LEVELS, DeskPolicy
from handoff.policy_change import CountedBy, as_json, hours_of
from handoff.presence import lapse
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
    Reason,
    Ticket,
)
from handoff.routing import PRIORITIES, Route, Topics
from handoff.staff import ACTING, at_least, find_agent, get_agent, in_place_of, is_there, manned, staff, way_up

SUBJECT_CHARS = 120
SYSTEM, ASSISTANT, CUSTOMER = "system", "assistant", "customer"
TOLD_AGAIN = timedelta(minutes=10)
"""That the customer writes in another channel, too."""
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


class Followed(StrEnum):
    """What follows from the customer's word on whether it helped."""

    ENDED = "ended"
    REOPENED = "reopened"
    STILL_OPEN = "still open"
    """It is being worked on already."""
    ELSEWHERE = "elsewhere"
    """Another ticket of the conversation is live, and stays the only one."""
    NOTHING = "nothing"
    """Pressed twice."""


Listener = Callable[[AsyncSession, Ticket, HistoryEntry], Awaitable[None]]
"""Hears of what happened to a ticket, within the transaction in which it happened: what it writes is written with it,
or not at all."""


class Tickets:
    """All that happens to tickets under one policy."""

    def __init__(self, policy: DeskPolicy, topics: Topics) -> None:
        self.policy = policy
        self.topics = topics
        self.listeners: list[Listener] = []
        self._followed = False

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
        team = in_place_of(self.policy, self.topics, route.topic.team, await manned(session))
        subject = subject_of(texts[0] if texts else "") or route.topic.title_in(conversation.lang or "en")
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
            team=team,
            level=route.topic.level,
            priority=priority,
            segment=segment,
            lang=conversation.lang or "ru",
            subject=subject,
            preferred_id=None if newcomer else await self._last_agent(session, conversation),
            created_at=now,
            updated_at=now,
        )
        ticket.promised_at = self.promise(ticket, now)
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

    def promise(self, ticket: Ticket, now: datetime) -> datetime:
        """By when a person answers what nobody has answered yet, told from now on."""
        target = self.policy.target(self.topics.get(ticket.topic), ticket.priority, ticket.segment)
        return self.policy.hours_of(ticket.team).add(now, target.first_response or timedelta(0))

    async def answer_due(self, session: AsyncSession, ticket: Ticket, now: datetime) -> datetime:
        """By when the customer may expect the next word of a person: as he was told, or as his clock says; what is late
        already is promised anew."""
        due: datetime | None = ticket.promised_at
        if ticket.first_reply_at is not None:
            row = (await desk.clocks_of(session, ticket)).get(ClockKind.NEXT_RESPONSE)
            due = row.due_at if row is not None else None
        return due if due is not None and due > now else self.promise(ticket, now)

    async def reroute(
        self,
        session: AsyncSession,
        ticket: Ticket,
        route: Route,
        *,
        texts: Sequence[str],
        subject: str | None,
        keeps: bool,
        now: datetime,
    ) -> None:
        """Send it where its matter, which is known only now, belongs. Its level and its priority never fall.

        texts: what made it known. subject: none keeps the one it has. keeps: whoever has it keeps it in whatever team.
        """
        await desk.lock_ticket(session, ticket)
        topic, before, hours = route.topic, ticket.topic, self.policy.hours_of(ticket.team)
        team = in_place_of(self.policy, self.topics, topic.team, await manned(session))
        moved = {"team": team, "team_before": ticket.team} if team != ticket.team else {}
        ticket.topic, ticket.team, ticket.routed_by = topic.id, team, route.by
        ticket.topic_confidence, ticket.topic_score = route.evidence.confidence, route.evidence.score
        ticket.runner_up, ticket.runner_up_confidence = route.runner_up, route.runner_up_evidence.confidence
        ticket.runner_up_score = route.runner_up_evidence.score
        ticket.level = max(ticket.level, topic.level, key=LEVELS.index)
        wanted = self.policy.priority(topic, texts, ticket.segment)
        ticket.priority = max(ticket.priority, wanted, key=PRIORITIES.index)
        ticket.subject, ticket.updated_at = subject or ticket.subject, now
        holder = await session.get(Agent, ticket.assignee_id) if moved and ticket.assignee_id else None
        if holder is not None and not keeps and team not in holder.teams:
            await self._take_away(session, ticket, ASSISTANT, now, why="rerouted")
        await self._record(session, ticket, "rerouted", ASSISTANT, now, topic=topic.id, topic_before=before, **moved)
        await self._clock(session, ticket, now, hours_before=hours)

    async def customer_wrote(
        self, session: AsyncSession, conversation: Conversation, *, now: datetime
    ) -> Ticket | None:
        """The customer said something in a conversation that a person has; None when no ticket is live."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is not None:
            await self._move(session, ticket, TicketEvent.CUSTOMER_WROTE, CUSTOMER, now)
        return ticket

    async def wrote_elsewhere(self, session: AsyncSession, conversation: Conversation, *, now: datetime) -> None:
        """The customer of live tickets in other conversations said something in this one: their history tells, and
        whoever listens. Of what follows soon it says nothing."""
        if conversation.customer_id is None:
            return
        found = await session.scalars(
            select(Ticket)
            .join(Conversation, Conversation.id == Ticket.conversation_id)
            .where(
                Conversation.customer_id == conversation.customer_id,
                Conversation.id != conversation.id,
                Ticket.status.in_(LIVE),
            )
            .order_by(Ticket.id)
        )
        for ticket in found.all():
            told = await session.scalar(
                select(func.max(HistoryEntry.at)).where(
                    HistoryEntry.ticket_id == ticket.id, HistoryEntry.event == "wrote_elsewhere"
                )
            )
            if told is None or now - told > TOLD_AGAIN:
                details = {"channel": conversation.channel, "conversation": conversation.id}
                await self._record(session, ticket, "wrote_elsewhere", CUSTOMER, now, **details)

    async def give_feedback(
        self, session: AsyncSession, ticket: Ticket, feedback: Feedback, *, now: datetime
    ) -> Followed:
        """Take the customer's word on whether it helped, whenever it comes; the last one counts. "No" opens the ticket
        again and gives it to a senior, in whatever state it is; "yes" ends it, unless he has asked something since.
        """
        await desk.lock_ticket(session, ticket)
        before, live = ticket.feedback, ticket.status in LIVE
        if feedback is Feedback.HELPED:
            if live and not await self._may_end(session, ticket):
                return Followed.STILL_OPEN
            if live:
                await self._end(session, ticket, TicketEvent.HELPED, CUSTOMER, now)
            elif before is feedback:
                return Followed.NOTHING
            else:
                await self._record(session, ticket, TicketEvent.HELPED, CUSTOMER, now)
            ticket.feedback = feedback
            return Followed.ENDED
        if before is feedback and ticket.status in (*ACTS, TicketStatus.ON_HOLD):
            return Followed.STILL_OPEN
        if not live and await desk.open_ticket(session, ticket.conversation_id) is not None:
            if before is not feedback:
                ticket.feedback = feedback
                await self._record(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
            return Followed.ELSEWHERE
        if live:
            await self._move(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
            ticket.reopened += 1
            ticket.asked_at = None
        else:
            await self._reopen(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
        ticket.feedback = feedback
        await self._raise_level(session, ticket, CUSTOMER, now, why="not helped")
        return Followed.REOPENED

    async def _may_end(self, session: AsyncSession, ticket: Ticket) -> bool:
        """Whether a customer's "yes" ends a live ticket: a person has answered, and nothing was asked after that; nor
        after a "no" that it takes back."""
        if ticket.status in (TicketStatus.AWAITING_FEEDBACK, TicketStatus.WAITING):
            return True
        if ticket.status is not TicketStatus.OPEN or ticket.feedback is not Feedback.NOT_HELPED:
            return False
        said_no = select(func.max(HistoryEntry.id)).where(
            HistoryEntry.ticket_id == ticket.id, HistoryEntry.event == TicketEvent.NOT_HELPED
        )
        later = await session.scalar(
            select(HistoryEntry.id)
            .where(
                HistoryEntry.ticket_id == ticket.id,
                HistoryEntry.event == TicketEvent.CUSTOMER_WROTE,
                HistoryEntry.id > said_no.scalar_subquery(),
            )
            .limit(1)
        )
        return later is None

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
        if ticket.status is TicketStatus.WAITING:
            ticket.hold_until = None  # he has his answer

    async def not_delivered(self, session: AsyncSession, ticket: Ticket, message: Message, *, now: datetime) -> None:
        """A reply did not arrive. Unless a later one did, the next word is ours again, and the clock that it had
        stopped runs on as if it had never stood. Of an ended ticket it is only recorded."""
        await desk.lock_ticket(session, ticket)
        replies = (await answers(session, [ticket.id])).get(ticket.id, [])
        ticket.first_reply_at = replies[0].created_at if replies else None
        if ticket.status not in LIVE or any(reply.id > message.id for reply in replies):
            await self._record(session, ticket, TicketEvent.NOT_DELIVERED, SYSTEM, now, message_id=message.id)
            return
        rows = await desk.clocks_of(session, ticket)
        row = rows.get(ClockKind.NEXT_RESPONSE if replies else ClockKind.FIRST_RESPONSE)
        if row is not None and row.done_at is not None and (not replies or row.done_at == message.created_at):
            row.running_since, row.done_at = row.done_at, None
        await self._move(session, ticket, TicketEvent.NOT_DELIVERED, SYSTEM, now, message_id=message.id)
        for row in rows.values():
            self._look(row, ticket)

    async def hold(
        self, session: AsyncSession, ticket: Ticket, *, task: str, until: datetime | None, agent: str, now: datetime
    ) -> None:
        """Let it wait for something else, for as long as that takes.

        task: a link or a name, which `task_done` finds it by; empty: the one that it had. until: when somebody should
        look again at the latest; outside the team's hours, when they begin next. Raises HoldDateError for what is past.
        """
        await desk.lock_ticket(session, ticket)
        hours = self.policy.hours_of(ticket.team)
        if until is not None and until <= now:
            raise HoldDateError(until)
        if until is not None and not hours.contains(until):
            until = hours.next_opening(until)
        await self._move(session, ticket, TicketEvent.HELD, agent, now, task=task.strip())
        ticket.hold_task, ticket.hold_until = task.strip() or ticket.hold_task, until

    async def resume(self, session: AsyncSession, ticket: Ticket, *, actor: str, now: datetime) -> None:
        """Go on by hand: the task is not waited for any more; where work goes on already, it is taken off the ticket.
        Raises TicketStateError when nothing is waited for."""
        await desk.lock_ticket(session, ticket)
        if ticket.status is TicketStatus.ON_HOLD:
            await self._move(session, ticket, TicketEvent.RESUMED, actor, now, task=ticket.hold_task)
        elif ticket.status in LIVE and ticket.hold_task:
            off = {"before": {"task": ticket.hold_task}, "after": {"task": None}}
            await self._record(session, ticket, "changed", actor, now, **off)
        else:
            raise TicketStateError(ticket.id, ticket.status, "resumed")
        ticket.hold_task = ticket.hold_until = None

    async def task_done(self, session: AsyncSession, task: str, *, now: datetime) -> Sequence[Ticket]:
        """A linked task ended: every live ticket that it was linked to goes on, whatever was said meanwhile. Returns
        them."""
        wanted = _folded(task)
        ids = [row.id for row in await session.execute(_LINKED) if wanted and _folded(row.hold_task) == wanted]
        ours = await desk.lock_tickets(session, ids, clocks=True)
        found = [each for each in (ours.tickets[each] for each in ids) if each.status in LIVE and each.hold_task]
        for ticket in found:
            await self._move(session, ticket, TicketEvent.RESUMED, SYSTEM, now, task=ticket.hold_task)
            ticket.hold_task = ticket.hold_until = None
        return found

    async def finish(self, session: AsyncSession, ticket: Ticket, *, agent: str, now: datetime) -> None:
        """The agent has said his last word; the customer will be asked whether it helped. Raises UnansweredError where
        no agent has said one."""
        await desk.lock_ticket(session, ticket)
        if ticket.first_reply_at is None and ticket.status in LIVE:
            raise UnansweredError(ticket.id, ticket.status)
        await self._move(session, ticket, TicketEvent.FEEDBACK_ASKED, agent, now)
        ticket.finished_at, ticket.hold_until = now, None

    async def take_up(self, session: AsyncSession, ticket: Ticket, *, agent: str, now: datetime) -> None:
        """The last word was not the last. Raises TicketStateError when it has ended."""
        await desk.lock_ticket(session, ticket)
        await self._move(session, ticket, TicketEvent.RESUMED, agent, now)

    async def resolve(self, session: AsyncSession, ticket: Ticket, *, agent: str, now: datetime) -> Conversation:
        """End it at once, and give the conversation back to the assistant, who starts anew: nothing of the ended
        episode is remembered."""
        await desk.lock_ticket(session, ticket)
        return await self._end(session, ticket, TicketEvent.RESOLVED, agent, now)

    async def close(
        self,
        session: AsyncSession,
        ticket: Ticket,
        *,
        why: str,
        agent: str,
        now: datetime,
        merged_into: int | None = None,
    ) -> Conversation:
        """End it without a resolution: a duplicate (of which ticket), spam, a customer who left."""
        await desk.lock_ticket(session, ticket)
        ticket.merged_into = merged_into
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
        before, team, hours = ticket.topic, ticket.team, self.policy.hours_of(ticket.team)
        giver = await find_agent(session, agent)
        ticket.topic = topic.id
        ticket.team = in_place_of(self.policy, self.topics, topic.team, await manned(session))
        ticket.level = max(ticket.level, topic.level, key=LEVELS.index)
        ticket.routed_by = "agent"
        gave = ticket.given_away if ticket.team == team else []  # what the other team gave away may come back to it
        ticket.given_away = [*gave, giver.id] if giver else gave
        self._set_status(ticket, status, now)
        await self._take_away(session, ticket, agent, now)
        ticket.preferred_id = None
        await self._record(session, ticket, "transferred", agent, now, topic=topic.id, topic_before=before, why=why)
        await self._clock(session, ticket, now, hours_before=hours)
        if ticket.first_reply_at is None:
            due = (await desk.clocks_of(session, ticket))[ClockKind.FIRST_RESPONSE].due_at
            ticket.promised_at = due if due is not None and due > now else self.promise(ticket, now)
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
        await self._raise_level(session, ticket, agent, now, why=details, passed_on=True)
        await self._clock(session, ticket, now, hours_before=hours)
        who = await session.get(Customer, conversation.customer_id) if conversation.customer_id else None
        known = (who.phone, who.email) if who else ()
        chat = f"{conversation.channel}:{conversation.chat_id}"
        about = {
            "to": f"{ticket.team} {ticket.level}",
            "subject": ticket.subject,
            "details": details,
            "contact": ", ".join(filter(None, (*known, chat))),
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

    async def follow_policy(self, session: AsyncSession, *, now: datetime) -> int:
        """Bring the running clocks to the desk.yml of now, once in the life of the process; how many tickets.

        What they have used stays as the hours of then measured it; what comes counts by the new hours and promises.
        """
        if self._followed:
            return 0
        said = as_json(self.policy, self.topics)
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
                        known[ticket.team] = self.policy.hours_of(ticket.team)
                await self._clock(session, ticket, now, hours_before=known[ticket.team])
        sql_event.listen(session.sync_session, "after_commit", self._has_followed, once=True)
        return len(found)

    def _has_followed(self, _session: object) -> None:
        self._followed = True

    async def give_out(self, session: AsyncSession, *, now: datetime) -> Mapping[int, int]:
        """Give every waiting ticket to somebody who is there, and take back what an absent one has to act on.

        What waits in a team without any agent goes to the team that stands in for it.

        Returns ticket → agent. Tickets that wait for the customer or a task go back only when they need an agent.
        """
        await lapse(session, self.policy, now)
        candidates = [one for one in await staff(session, self.policy, now) if one.on_duty]
        present = {one.agent_id for one in candidates}
        holders = [(row[0], row[1]) for row in await session.execute(_HOLDERS)]
        left = [ticket_id for ticket_id, agent_id in holders if agent_id not in present]
        ours = await desk.lock_tickets(session, left)
        async with self._together(session):
            for ticket in (ours.tickets[each] for each in left):
                if acts(ticket) and ticket.assignee_id not in present:
                    ticket.preferred_id = ticket.assignee_id
                    await self._take_away(session, ticket, SYSTEM, now, why="off duty")
        await self._stand_in(session, now)
        done = await self._to_seniors(session, candidates, now)
        if done:
            candidates = [one for one in await staff(session, self.policy, now) if one.on_duty]
        # The queue of a team of whom nobody is there can be long.
        teams = {team for candidate in candidates if candidate.free for team in candidate.teams}
        if not teams:
            return done
        rows = await session.execute(_QUEUE, {"teams": sorted(teams)})
        given = assign([self._waiting(tuple(row)) for row in rows], candidates, now)
        if not given:
            return done
        ours = await desk.lock_tickets(session, given)
        receivers = await session.scalars(select(Agent).where(Agent.id.in_(given.values())))
        by_id = {agent.id: agent for agent in receivers}
        async with self._together(session):
            for ticket_id, agent_id in given.items():
                ticket = ours.tickets[ticket_id]
                if acts(ticket) and ticket.assignee_id is None:
                    await self._give(session, ticket, by_id[agent_id], SYSTEM, now)
                    done[ticket_id] = agent_id
        return done

    def on_duty(self, agent: Agent, now: datetime) -> bool:
        return agent.active and is_there(self.policy, agent.presence, agent.schedule, now)

    async def _stand_in(self, session: AsyncSession, now: datetime) -> None:
        staffed = await manned(session)
        for waits in (await session.scalars(_TEAMS_WAITING)).all() if staffed else ():
            team = in_place_of(self.policy, self.topics, waits, staffed)
            if team == waits:
                continue
            ids = (await session.scalars(_QUEUE.with_only_columns(Ticket.id), {"teams": [waits]})).all()
            ours = await desk.lock_tickets(session, ids, clocks=True)
            for ticket in (ours.tickets[each] for each in ids):
                if ticket.team == waits and ticket.assignee_id is None and acts(ticket):
                    ticket.team = team
                    moved = {"before": {"team": waits}, "after": {"team": team}}
                    await self._record(session, ticket, "changed", SYSTEM, now, **moved)
                    await self._clock(session, ticket, now, hours_before=self.policy.hours_of(waits))

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
            idle = raised and self.policy.hours_of(waiting.team).contains(now)
            if idle or (holder is not None and not at_least(holder.level, waiting.level)):
                wanted[waiting.ticket_id] = waiting, holder
        if not wanted:
            return {}
        stay = await self._stay(session, wanted)
        done = {}
        for waiting in order(each for each, _ in wanted.values()):
            holder = wanted[waiting.ticket_id][1]
            open_now = self.policy.hours_of(waiting.team).contains(now)
            way = way_up(self.policy, waiting.team)[: None if open_now else 1]
            found = senior(waiting, holder, way, list(by_id.values())) if waiting.ticket_id not in stay else None
            if found is None:
                continue
            team, agent_id = found
            by_id[agent_id] = replace(by_id[agent_id], load=by_id[agent_id].load + 1, last_assigned_at=now)
            ours = await desk.lock_tickets(session, [waiting.ticket_id])
            ticket = ours.tickets[waiting.ticket_id]
            if not acts(ticket) or ticket.assignee_id != (holder.agent_id if holder else None):
                continue
            before, ticket.team = ticket.team, team
            await self._give(session, ticket, await get_agent(session, agent_id), SYSTEM, now)
            if team != before:
                await self._clock(session, ticket, now, hours_before=self.policy.hours_of(before))
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
        least = self.topics.get(topic).level
        return Waiting(ticket_id, team, level, lang, priority, since, preferred, frozenset(not_to), least, late)

    async def place(self, session: AsyncSession, ticket: Ticket) -> int:
        """How many come before it in the queue of its team, plus one: in the `order` in which it is given out."""
        rows = await desk.clocks_of(session, ticket)
        late = any(row.raised > 1 and row.running_since is not None for row in rows.values())
        own: dict[str, Any] = {"in_time": int(not late), "rank": -PRIORITIES.index(ticket.priority)}
        own |= {"since": ticket.created_at, "id": ticket.id, "team": ticket.team}
        before = await session.scalar(_BEFORE, own)
        return (before or 0) + 1

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
                self._look(row, ticket)
                if row.look_at is None or row.look_at > now:
                    continue  # desk.yml has changed since: these hours are free by now
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
        """Tickets whose day has come go on; the task stays linked. Returns them."""
        ids = (await session.scalars(_HELD_LONG, {"now": now})).all()
        ours = await desk.lock_tickets(session, ids, clocks=True)
        tickets = (ours.tickets[each] for each in ids)
        found = [each for each in tickets if each.status in LIVE and each.hold_until and each.hold_until <= now]
        for ticket in found:
            await self._move(session, ticket, TicketEvent.RESUMED, SYSTEM, now, task=ticket.hold_task)
            ticket.hold_until = None
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
        if (await desk.lock_conversation(session, ticket.conversation_id)).erased_at is not None:
            raise TicketStateError(ticket.id, ticket.status, "reopened: its customer was erased")
        ticket.reopened += 1
        ticket.resolved_at = ticket.asked_at = ticket.merged_into = None
        await self._move(session, ticket, event, actor, now)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        conversation.owner = Owner.PERSON
        conversation.epoch += 1
        conversation.updated_at = now

    async def _give(self, session: AsyncSession, ticket: Ticket, agent: Agent, actor: str, now: datetime) -> None:
        left = ticket.assignee_id if ticket.assignee_id != agent.id else None
        holder = await session.get(Agent, left) if left is not None else None
        ticket.assignee_id, ticket.updated_at, agent.last_assigned_at = agent.id, now, now
        details = {"before": holder.name} if holder is not None else {}
        if agent.langs and ticket.lang not in agent.langs:
            details["foreign"] = ticket.lang  # nobody there speaks it, or somebody gave it to him nevertheless
        await self._record(session, ticket, "assigned", actor, now, agent=agent.name, **details)

    async def _take_away(
        self, session: AsyncSession, ticket: Ticket, actor: str, now: datetime, **details: Any
    ) -> None:
        if ticket.assignee_id is not None:
            ticket.assignee_id, ticket.updated_at = None, now
            await self._record(session, ticket, "unassigned", actor, now, **details)

    async def _raise_level(
        self, session: AsyncSession, ticket: Ticket, actor: str, now: datetime, *, why: str, passed_on: bool = False
    ) -> None:
        """A level higher, and to the team above where this one has nobody of it who is there.

        Whoever has it keeps it if he may, and as long as there is nobody who could have it: then those of that level
        are told. passed_on: he does not want it any more.
        """
        before, team = ticket.level, ticket.team
        ticket.level = LEVELS[min(LEVELS.index(ticket.level) + 1, len(LEVELS) - 1)]
        holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
        nobody = False
        if holder is None or not at_least(holder.level, ticket.level):
            above, free = await self._team_above(session, ticket, now)
            if free or passed_on:
                ticket.team = above
                await self._take_away(session, ticket, actor, now, why="escalated")
            nobody = not free
        moved: dict[str, Any] = {"team": ticket.team, "team_before": team} if ticket.team != team else {}
        moved |= {"nobody": True} if nobody else {}
        await self._record(
            session, ticket, "escalated", actor, now, level=ticket.level, before=before, why=why, **moved
        )
        if ticket.team != team:
            await self._clock(session, ticket, now, hours_before=self.policy.hours_of(team))

    async def _team_above(self, session: AsyncSession, ticket: Ticket, now: datetime) -> tuple[str, bool]:
        """The first team on the way up in which somebody of the ticket's level is there and has room, and whether
        there is one; else where one is there, else, while the team is closed, where there are any; else its own."""
        able = [one for one in await staff(session, self.policy, now) if at_least(one.level, ticket.level)]
        way, closed = way_up(self.policy, ticket.team), not self.policy.hours_of(ticket.team).contains(now)
        for team in way[: 1 if closed else None]:
            if any(one.free and team in one.teams for one in able):
                return team, True
        found = [team for team in way if any((closed or one.on_duty) and team in one.teams for one in able)]
        return found[0] if found else ticket.team, False

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


def acts(ticket: Ticket) -> bool:
    """Whether a person has to act on it: his word is next, or it was put on hold before he said one."""
    return ticket.status in ACTS or (ticket.status is TicketStatus.ON_HOLD and ticket.first_reply_at is None)


def _folded(task: str) -> str:
    return " ".join(task.split()).casefold()


def clock_of(row: ClockRow) -> Clock:
    return Clock(
        timedelta(seconds=row.target_seconds), timedelta(seconds=row.used_seconds), row.running_since, row.done_at
    )


def subject_of(text: str) -> str:
    """A line for lists: the text without its breaks, cut; empty for no words."""
    line = " ".join(text.split())
    return line if len(line) <= SUBJECT_CHARS else line[: SUBJECT_CHARS - 1].rstrip() + "…"


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
_DUE = (
    select(ClockRow.ticket_id, ClockRow.kind)
    .where(ClockRow.look_at <= bindparam("now"))
    .order_by(ClockRow.look_at)
    .limit(bindparam("most", type_=Integer))
)
_LIVE = Ticket.status.in_(LIVE)
_LINKED = select(Ticket.id, Ticket.hold_task).where(_LIVE, Ticket.hold_task.is_not(None)).order_by(Ticket.id)
_HELD_LONG = select(Ticket.id).where(_LIVE, Ticket.hold_until <= bindparam("now")).order_by(Ticket.id)
_HISTORY = insert(cast(Table, HistoryEntry.__table__))
_CLOCK_COLUMNS = ("target_seconds", "used_seconds", "running_since", "done_at", "due_at", "look_at", "raised")


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
