"""The life of tickets, whichever desk works on them: every move is checked, recorded and clocked.

Every method works inside the caller's transaction and never commits. Each first locks the conversation, so that two
agents who press at once act one after the other, and the second is told what the first did.

Which move leads where: `handoff.lifecycle`. What happened, who has a ticket and its clocks are parts of it:
`handoff.history`, `handoff.holders`, `handoff.ticket_clocks`. Whom the clocks call: `handoff.alarms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.answered import answers
from handoff.clocks import ClockKind
from handoff.errors import (
    CustomerError,
    HoldDateError,
    OwnershipError,
    TicketStateError,
    UnansweredError,
)
from handoff.history import ASSISTANT, CUSTOMER, SYSTEM, History
from handoff.holders import Holders
from handoff.lifecycle import ACTS, LIVE, TicketEvent, TicketStatus, after
from handoff.policy import LEVELS, DeskPolicy
from handoff.records import (
    Agent,
    Author,
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
from handoff.staff import find_agent, get_agent, in_place_of, manned
from handoff.ticket_clocks import TicketClocks

SUBJECT_CHARS = 120
URGENCY = {"low": "low", "medium": "normal", "high": "high"}
"""Of an escalation (R62) → the least priority."""

# What is asked for all the time is made once: it takes as long as the asking.
_LIVE = Ticket.status.in_(LIVE)
_LINKED = select(Ticket.id, Ticket.hold_task).where(_LIVE, Ticket.hold_task.is_not(None)).order_by(Ticket.id)
_HELD_LONG = select(Ticket.id).where(_LIVE, Ticket.hold_until <= bindparam("now")).order_by(Ticket.id)


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


class Tickets:
    """All that happens to tickets under one policy."""

    def __init__(self, policy: DeskPolicy, topics: Topics) -> None:
        self.policy = policy
        self.topics = topics
        self.history = History()
        self.clocks = TicketClocks(policy, topics)
        self.holders = Holders(policy, topics, self.history, self.clocks)

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
        customer = await desk.customer_of(session, conversation, now)
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
            preferred_id=None if newcomer else await _last_agent(session, conversation),
            created_at=now,
            updated_at=now,
        )
        ticket.promised_at = self.clocks.promise(ticket, now)
        session.add(ticket)
        conversation.owner = Owner.PERSON
        conversation.epoch += 1
        conversation.updated_at = now
        await session.flush()
        ours = desk.held(session)
        ours.tickets[ticket.id], ours.clocks[ticket.id] = ticket, {}
        await self.history.record(session, ticket, "created", ASSISTANT, now, reason=reason, topic=ticket.topic)
        await self.clocks.follow(session, ticket, now)
        return ticket

    async def reroute(
        self,
        session: AsyncSession,
        ticket: Ticket,
        route: Route,
        *,
        texts: Sequence[str],
        subject: str | None,
        keeps: bool,
        fixed: bool,
        now: datetime,
    ) -> None:
        """Send it where its matter, which is known only now, belongs. Its level and its priority never fall.

        texts: what made it known. subject: none keeps the one it has. keeps: whoever has it keeps it in whatever team.
        fixed: its priority stays.
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
        ticket.priority = ticket.priority if fixed else max(ticket.priority, wanted, key=PRIORITIES.index)
        ticket.subject, ticket.updated_at = subject or ticket.subject, now
        holder = await session.get(Agent, ticket.assignee_id) if moved and ticket.assignee_id else None
        if holder is not None and not keeps and team not in holder.teams:
            await self.holders.take_away(session, ticket, ASSISTANT, now, why="rerouted")
        await self.history.record(
            session, ticket, "rerouted", ASSISTANT, now, topic=topic.id, topic_before=before, **moved
        )
        await self.clocks.follow(session, ticket, now, hours_before=hours)

    async def customer_wrote(
        self, session: AsyncSession, conversation: Conversation, *, now: datetime
    ) -> Ticket | None:
        """The customer said something in a conversation that a person has; None when no ticket is live."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is not None:
            await self._move(session, ticket, TicketEvent.CUSTOMER_WROTE, CUSTOMER, now)
        return ticket

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
                await self.history.record(session, ticket, TicketEvent.HELPED, CUSTOMER, now)
            ticket.feedback = feedback
            return Followed.ENDED
        if before is feedback and ticket.status in (*ACTS, TicketStatus.ON_HOLD):
            return Followed.STILL_OPEN
        if not live and await desk.open_ticket(session, ticket.conversation_id) is not None:
            if before is not feedback:
                ticket.feedback = feedback
                await self.history.record(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
            return Followed.ELSEWHERE
        if live:
            await self._move(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
            ticket.reopened += 1
            ticket.asked_at = None
        else:
            await self._reopen(session, ticket, TicketEvent.NOT_HELPED, CUSTOMER, now)
        ticket.feedback = feedback
        await self.holders.raise_level(session, ticket, CUSTOMER, now, why="not helped")
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
            await self.holders.give(session, ticket, known, agent, now)
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
            await self.history.record(session, ticket, TicketEvent.NOT_DELIVERED, SYSTEM, now, message_id=message.id)
            return
        rows = await desk.clocks_of(session, ticket)
        row = rows.get(ClockKind.NEXT_RESPONSE if replies else ClockKind.FIRST_RESPONSE)
        if row is not None and row.done_at is not None and (not replies or row.done_at == message.created_at):
            row.running_since, row.done_at = row.done_at, None
        await self._move(session, ticket, TicketEvent.NOT_DELIVERED, SYSTEM, now, message_id=message.id)
        await self.clocks.follow(session, ticket, now, hours_before=self.policy.hours_of(ticket.team))
        for row in rows.values():
            self.clocks.look(row, ticket)

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
            await self.history.record(session, ticket, "changed", actor, now, **off)
        else:
            raise TicketStateError(ticket.id, ticket.status, "resumed")
        ticket.hold_task = ticket.hold_until = None

    async def task_done(self, session: AsyncSession, task: str, *, now: datetime) -> Sequence[Ticket]:
        """A linked task ended: every live ticket that it was linked to goes on, whatever was said meanwhile. Returns
        them."""
        wanted = _folded(task)
        ids = [row.id for row in await session.execute(_LINKED) if wanted and _folded(row.hold_task) == wanted]
        ours = await desk.lock_tickets(session, ids, clocks=True)
        tickets = (ours.tickets[each] for each in ids)
        found = [each for each in tickets if each.status in LIVE and _folded(each.hold_task or "") == wanted]
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
            await self.holders.take_away(session, ticket, actor, now)
        else:
            await self.holders.give(session, ticket, await get_agent(session, agent_id), actor, now)

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
        await self.holders.take_away(session, ticket, agent, now)
        ticket.preferred_id = None
        await self.history.record(
            session, ticket, "transferred", agent, now, topic=topic.id, topic_before=before, why=why
        )
        await self.clocks.follow(session, ticket, now, hours_before=hours)
        if ticket.first_reply_at is None:
            due = (await desk.clocks_of(session, ticket))[ClockKind.FIRST_RESPONSE].due_at
            ticket.promised_at = due if due is not None and due > now else self.clocks.promise(ticket, now)
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
        await self.holders.raise_level(session, ticket, agent, now, why=details, passed_on=True)
        await self.clocks.follow(session, ticket, now, hours_before=hours)
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
        await self.history.record(session, ticket, "changed", agent, now, before=before, after=changed)
        await self.clocks.follow(session, ticket, now, hours_before=self.policy.hours_of(ticket.team))

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
        await self.history.record(session, ticket, "moved", agent, now, left=left.id, to=there.id)
        return there

    # What happens by itself

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
        await self.history.record(session, ticket, event, actor, now, **details)
        answered = answered or event is TicketEvent.FEEDBACK_ASKED
        await self.clocks.follow(session, ticket, now, answered=answered)

    def _set_status(self, ticket: Ticket, status: TicketStatus, now: datetime) -> None:
        ticket.status, ticket.updated_at = status, now
        if status in LIVE and status is not TicketStatus.AWAITING_FEEDBACK:
            ticket.finished_at = None  # the last word was not the last

    async def _end(
        self, session: AsyncSession, ticket: Ticket, event: TicketEvent, actor: str, now: datetime, **details: Any
    ) -> Conversation:
        await self._move(session, ticket, event, actor, now, **details)
        ticket.resolved_at, ticket.hold_until = now, None
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


async def _last_agent(session: AsyncSession, conversation: Conversation) -> int | None:
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


def _folded(task: str) -> str:
    return " ".join(task.split()).casefold()


def subject_of(text: str) -> str:
    """A line for lists: the text without its breaks, cut; empty for no words."""
    line = " ".join(text.split())
    return line if len(line) <= SUBJECT_CHARS else line[: SUBJECT_CHARS - 1].rstrip() + "…"


async def forget_agent(session: AsyncSession, agent: Agent, tickets: Tickets, *, actor: str, now: datetime) -> None:
    """Nobody is lost with an agent who left: his tickets go back to the queue."""
    theirs = select(Ticket.id).where(Ticket.assignee_id == agent.id, _LIVE)
    ours = await desk.lock_tickets(session, await session.scalars(theirs))  # first: who gives out locks them first, too
    await session.execute(update(Agent).where(Agent.id == agent.id).values(active=False))
    for ticket in [each for each in ours.tickets.values() if each.assignee_id == agent.id and each.status in LIVE]:
        await tickets.assign(session, ticket, None, actor=actor, now=now)
