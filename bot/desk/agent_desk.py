"""What people do, told to the customer: every act at a desk with the words that follow from it.

One transaction holds the act, the words and what is to happen later. Whichever desk asks (terminal, web, forum), it
asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from math import ceil
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.attachments import StoredFile
from bot.channels.base import (
    Address,
    Capabilities,
    InboundMessage,
    Medium,
    Option,
    OutboundAttachment,
    OutboundMessage,
    fit,
)
from bot.desk.nps import NpsSurvey
from bot.desk.records import AuditEntry
from bot.desk.silence import Silence
from bot.errors import EditRefusedError, FileRefusedError
from bot.language import DEFAULT
from bot.models.shadow import settle
from bot.notifications import Notices, named_in
from bot.replies import Replies
from bot.timers import cancel_timer, set_timer
from handoff import desk
from handoff.alarms import Raised, raise_clocks
from handoff.customers import Customers, Way
from handoff.errors import TicketHeldError, TicketStateError
from handoff.history import CUSTOMER, SYSTEM
from handoff.hours import DAY_NAMES, WorkingHours
from handoff.lifecycle import ACTS, LIVE, TicketStatus
from handoff.packet import Packet, packet
from handoff.records import (
    NOTE,
    TEMPLATE,
    Agent,
    Attachment,
    AttachmentState,
    Author,
    Conversation,
    Delivery,
    Feedback,
    HistoryEntry,
    Mention,
    Message,
    Owner,
    Reason,
    Ticket,
)
from handoff.routing import Route, route
from handoff.second_look import heed
from handoff.staff import on_duty, seniors
from handoff.tickets import Followed, Tickets
from handoff.window import MARGIN, closes_at

log = structlog.get_logger()

SURVEY = "survey"
"""Kind of the timers that ask, remind and give up; in a conversation's state, the ticket that was asked about, until
the customer's next turn."""
SURVEY_HELPED, SURVEY_NOT_HELPED = "survey_yes", "survey_no"
BACK = "assistant"
"""The choice not to wait for a person."""
ELSEWHERE = "elsewhere"
"""Kind of the timers that end what a person answered past the desk."""
ELSEWHERE_FOR = timedelta(hours=12)


class AgentDesk:
    def __init__(
        self,
        *,
        tickets: Tickets,
        replies: Replies,
        clock: Callable[[], datetime],
        phone_region: str = "RU",
        notices: Notices | None = None,
        capabilities: Mapping[str, Capabilities] | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        """notices: who is told of what happens; without it nobody is. zone: that of the dates customers are told.
        capabilities: channel → what it can take; a channel that is not among them takes no files."""
        self.tickets = tickets
        self.notices = notices
        self.zone = zone
        self.customers = Customers(tickets, phone_region)
        self._replies = replies
        self._clock = clock
        self._capabilities = capabilities or {}
        policy = tickets.policy
        self.nps = NpsSurvey(
            policy=policy.nps,
            zone=policy.schedules["default"].zone,
            replies=replies,
            clock=clock,
            capabilities=self._capabilities,
        )
        self.silence = Silence(tickets=tickets, say=self._tell, options=self._survey_options, asked=self._asked)

    def media(self, channel: str) -> Mapping[str, Medium]:
        """How a channel takes files, by kind, to tell the agent before he sends one. Empty: not at all."""
        found = self._capabilities.get(channel)
        return found.media if found else {}

    def check_file(self, channel: str, file: StoredFile) -> str:
        """The kind as which a file will go out. Raises FileRefusedError with the limit."""
        attachment = OutboundAttachment(file.kind, Path(), file.file_name, file.mime_type, file.size_bytes)
        if channel not in self._capabilities:
            raise FileRefusedError(file.file_name, 0, channel)
        try:
            return self._capabilities[channel].carrier(attachment)
        except FileRefusedError as error:
            raise FileRefusedError(error.file_name, error.max_bytes, channel) from None

    # What agents do

    async def reply(
        self,
        session: AsyncSession,
        ticket_id: int,
        text: str,
        *,
        agent: str,
        template: str = "",
        files: Sequence[StoredFile] = (),
        quote: int | None = None,
    ) -> Message:
        """Answer in the customer's own chat, under the agent's name.

        template: the approved message that asks the customer to answer, should his platform's window be closed.
        files: what `AttachmentStore.store` returned. They go out in this order, the text with the last one or after
        it. Raises FileRefusedError when the channel does not take one, and nothing is sent then.
        quote: the message of this conversation that it answers. Where the platform has no quotes, it goes without.
        """
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        for file in files:
            self.check_file(conversation.channel, file)
        message = await self.tickets.reply(session, ticket, text, agent=agent, now=now)
        await self._offer_nobody_else(session, ticket)
        await settle(session, ticket_id, text, by=agent, at=now)
        if files:
            await _attach(session, message, files)
        if quote is not None:
            quoted = await session.get(Message, quote)
            if quoted is not None and quoted.conversation_id == conversation.id and quoted.kind != NOTE:
                message.reply_to_id = quoted.id
        await self._stop_survey(session, ticket)
        if template:
            message.decision = {"template_id": template}
        await ledger.queue(session, conversation, message, guarded=False, now=now)
        await self.silence.begin(session, ticket, now)
        return message

    async def ways(self, session: AsyncSession, ticket_id: int) -> list[Way]:
        """Where else the customer of a ticket can be answered, the likeliest to reach him first."""
        ticket = await desk.get_ticket(session, ticket_id)
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        return await self.customers.ways(session, conversation, now=self._clock())

    async def reply_elsewhere(
        self,
        session: AsyncSession,
        ticket_id: int,
        conversation_id: int,
        text: str,
        *,
        agent: str,
        template: str = "",
        files: Sequence[StoredFile] = (),
    ) -> Message:
        """Go on in another conversation of the same customer, and answer there: he is told which ticket it is about.

        Raises TicketStateError, CustomerError, as `Tickets.move` does, and FileRefusedError, as `reply` does.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.move(session, ticket, conversation_id, agent=agent, now=self._clock())
        await self.announce(session, ticket, "moved_here")
        return await self.reply(session, ticket_id, text, agent=agent, template=template, files=files)

    async def edit(self, session: AsyncSession, ticket_id: int, message_id: int, text: str, *, agent: str) -> Message:
        """Change what an agent wrote: before it has gone out in any channel, afterwards where the platform can.

        What it said before stays in the transcript. Raises EditRefusedError, which says why not.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        message = await session.get(Message, message_id, populate_existing=True)
        if message is None or message.conversation_id != conversation.id or message.author is not Author.AGENT:
            raise EditRefusedError(f"message {message_id} is not one of an agent's in ticket {ticket_id}")
        if message.kind in (NOTE, TEMPLATE) or (not text.strip() and not message.attachments):
            raise EditRefusedError("only messages to the customer can be changed, and not into nothing")
        if message.text == text:
            return message
        waiting = await session.scalar(
            select(ledger.OutboxRow).where(
                ledger.OutboxRow.message_id == message.id, ledger.OutboxRow.is_edit.is_(False)
            )
        )
        unsent = (message.delivery is Delivery.HELD and not message.parts_sent) or (
            waiting is not None and waiting.claimed_at is None and not waiting.parts_sent
        )
        if not unsent:
            self._check_edit(conversation, message, text)
            edits = await session.scalar(
                select(ledger.OutboxRow.id).where(
                    ledger.OutboxRow.message_id == message.id,
                    ledger.OutboxRow.is_edit,
                    ledger.OutboxRow.claimed_at.is_(None),
                )
            )
            if edits is None:
                await ledger.queue(session, conversation, message, guarded=False, now=self._clock(), is_edit=True)
        message.edits = [*message.edits, {"text": message.text, "at": self._clock().isoformat(), "by": agent}]
        message.text, message.changed_at = text, self._clock()
        await session.flush()
        return message

    async def react(
        self, session: AsyncSession, ticket_id: int, message_id: int, emoji: str, *, agent: str
    ) -> Message | None:
        """Put an emoji under what the customer wrote; empty: take it back. None where his platform has no such thing,
        and for what is not his. Raises TicketStateError when the ticket has ended."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        if ticket.status not in LIVE:
            raise TicketStateError(ticket.id, ticket.status, "answered")
        target = await session.get(Message, message_id)
        capabilities = self._capabilities.get(conversation.channel)
        if (
            target is None
            or target.conversation_id != conversation.id
            or target.author is not Author.CUSTOMER
            or not target.external_id
            or capabilities is None
            or not capabilities.reactions
        ):
            return None
        message = Message(
            conversation_id=conversation.id,
            author=Author.AGENT,
            agent_name=agent,
            kind="reaction",
            text=emoji,
            reply_to_id=target.id,
            sent_at=now,
            created_at=now,
        )
        session.add(message)
        await session.flush()
        await ledger.queue(session, conversation, message, guarded=False, now=now)
        return message

    def _check_edit(self, conversation: Conversation, message: Message, text: str) -> None:
        """Raises EditRefusedError for a sent message that can't be changed in its channel."""
        capabilities = self._capabilities.get(conversation.channel)
        if capabilities is None or not capabilities.edits:
            raise EditRefusedError(
                f"{conversation.channel} does not let a message be changed once it is sent: send a correction"
            )
        if message.delivery not in (Delivery.SENT, Delivery.DELIVERED, Delivery.READ) or not message.external_id:
            raise EditRefusedError(f"the message is {message.delivery or 'nowhere'}: it can be changed once it is sent")
        files = tuple(
            OutboundAttachment(file.kind, Path(), file.file_name or "", file.mime_type or "", file.size_bytes or 0)
            for file in message.attachments
        )
        if any(len(fit(OutboundMessage(each, attachments=files), capabilities)) > 1 for each in (message.text, text)):
            raise EditRefusedError("the message went out, or would go out, in several parts: send a correction")

    async def assign(
        self, session: AsyncSession, ticket_id: int, to: Agent | None, *, by: str, why: str = ""
    ) -> Ticket:
        """Give it to somebody, or back to the queue. A customer whom nobody has answered yet hears who took it.

        why: of a warm transfer (R74), a note for the colleague; the customer hears to whom he is passed, and that he
        need not tell it again.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        await desk.lock_ticket(session, ticket)
        if to is not None and ticket.assignee_id == to.id and await self._given_by_hand(session, ticket):
            return ticket  # pressed twice
        now, why = self._clock(), " ".join(why.split())
        await self.tickets.assign(session, ticket, to.id if to else None, actor=by, now=now)
        if why:
            note = f"→ {to.name if to else '…'}: {why}"
            about = {"passed_to": to.name if to else None}
            await desk.note(session, ticket.conversation_id, note, agent_name=by, about=about, now=now)
        if to is not None and why and to.name != by:
            await self._stop_survey(session, ticket)
            await self.announce(session, ticket, "passed_to", {"agent_name": to.name})
            await self._offer_nobody_else(session, ticket)
        elif to is not None and ticket.first_reply_at is None:
            await self.announce(session, ticket, "agent_joined", {"agent_name": to.name})
            await self._offer_nobody_else(session, ticket)
        return ticket

    async def take(
        self, session: AsyncSession, ticket_id: int, to: Agent, *, by: str, over: int | None = None, why: str = ""
    ) -> Agent | None:
        """Give it to somebody unless another who is there has it, whom `over` does not name; who had it before.

        Raises TicketHeldError, which tells whom `over` has to name.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        await desk.lock_ticket(session, ticket)
        holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id not in (None, to.id) else None
        there = holder is not None and on_duty(self.tickets.policy, holder, self._clock())
        if holder is not None and there and holder.id != over and ticket.status in LIVE:
            raise TicketHeldError(ticket_id, holder.id, holder.name)
        await self.assign(session, ticket_id, to, by=by, why=why)
        return holder

    async def note(
        self, session: AsyncSession, ticket_id: int, text: str, *, agent: str, calling: bool = True
    ) -> Message:
        """Write what agents alone see. Whom it names with an @ is told, and may look at the ticket from now on.

        calling: whether it does; what repeats a customer's words calls nobody.
        """
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        message = await desk.note(session, ticket.conversation_id, text, agent_name=agent, now=now)
        if calling:
            for called in await named_in(session, text, agent):
                session.add(Mention(agent_id=called.id, ticket_id=ticket_id, message_id=message.id, at=now))
            if self.notices is not None:
                await self.notices.mention(session, ticket, text, agent)
            await session.flush()
        return message

    async def hold(
        self, session: AsyncSession, ticket_id: int, *, task: str, until: datetime | None, agent: str
    ) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.hold(session, ticket, task=task, until=until, agent=agent, now=self._clock())
        await self._stop_survey(session, ticket)
        day = ticket.hold_until.astimezone(self.zone) if ticket.hold_until else None
        shown = "%d.%m" if day and day.year == self._clock().astimezone(self.zone).year else "%d.%m.%Y"
        await self.announce(session, ticket, "on_hold", {"until": day.strftime(shown) if day else None})
        return ticket

    async def resume(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.resume(session, ticket, actor=agent, now=self._clock())
        return ticket

    async def take_up(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """The last word was not the last: the matter goes on, and the customer is not asked whether it helped."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        await self.tickets.take_up(session, ticket, agent=agent, now=now)
        await self._stop_survey(session, ticket)
        return ticket

    async def task_done(self, session: AsyncSession, task: str, *, outcome: str = "") -> Sequence[Ticket]:
        """A linked task ended: the customers who wait for it are told in the chat they came from, however long ago,
        and whatever was said meanwhile.

        outcome: what came of it, for the customers; empty: that work on it goes on.
        """
        found = await self.tickets.task_done(session, task, now=self._clock())
        for ticket in found:
            await self._stop_survey(session, ticket)
            await self.announce(session, ticket, "task_done", {"outcome": outcome.strip() or None})
        return found

    async def transfer(self, session: AsyncSession, ticket_id: int, topic_id: str, *, why: str, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.transfer(session, ticket, topic_id, why=why, agent=agent, now=self._clock())
        await self._stop_survey(session, ticket)
        team = self.tickets.policy.team(ticket.team)
        values = await self.expectation(session, ticket) | {"team_title": team.title.get(ticket.lang), "senior": False}
        await self.announce(session, ticket, "transferred", values)
        return ticket

    async def escalate(
        self, session: AsyncSession, ticket_id: int, *, details: str, urgency: str, agent: str
    ) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.escalate(session, ticket, details=details, urgency=urgency, agent=agent, now=self._clock())
        await self._stop_survey(session, ticket)
        values = await self.expectation(session, ticket) | {"team_title": None}
        await self.announce(
            session, ticket, "transferred", values | {"senior": await self._has_senior(session, ticket, agent)}
        )
        return ticket

    async def finish(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """The agent has said his last word. The customer is asked later whether it helped, unless he was already."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        await self.tickets.finish(session, ticket, agent=agent, now=now)
        survey = self.tickets.policy.survey
        if ticket.asked_at is None:
            await self._plan_survey(session, ticket, now + survey.after)
        else:
            await self._plan_survey(session, ticket, now + survey.give_up_after, "give_up")
        return ticket

    async def settle(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """Finish what another system calls resolved; where no person has answered here, there is nothing to ask about,
        and it ends at once."""
        ticket = await desk.get_ticket(session, ticket_id)
        await desk.lock_ticket(session, ticket)
        act = self.finish if ticket.first_reply_at is not None else self.resolve
        return await act(session, ticket_id, agent=agent)

    async def resolve(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.resolve(session, ticket, agent=agent, now=self._clock())
        await self._stop_survey(session, ticket)
        # Whoever sees that it is not settled opens it again with a button, or by saying so.
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        options = [option for option in self._survey_options(ticket) if option.token.startswith(SURVEY_NOT_HELPED)]
        await self._say(session, conversation, ticket, "resolved", {}, options)
        self._asked(conversation, ticket, options)
        return ticket

    async def close(self, session: AsyncSession, ticket_id: int, *, why: str, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.close(session, ticket, why=why, agent=agent, now=self._clock())
        await self._stop_survey(session, ticket)
        await self.announce(session, ticket, "closed")
        return ticket

    async def merge(self, session: AsyncSession, ticket_id: int, into: int, *, agent: str) -> Ticket:
        """Close it as a duplicate; the customer hears where it goes on."""
        ticket = await desk.get_ticket(session, ticket_id)
        why = f"merged into {into}"
        await self.tickets.close(session, ticket, why=why, agent=agent, now=self._clock(), merged_into=into)
        await self._stop_survey(session, ticket)
        await self.announce(session, ticket, "merged", {"into": into})
        return ticket

    async def return_to_assistant(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """No person is needed after all: the customer goes on with the assistant."""
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.close(session, ticket, why="back to the assistant", agent=agent, now=self._clock())
        await self._stop_survey(session, ticket)
        await self.announce(session, ticket, "back_to_assistant")
        return ticket

    async def start_flow(self, session: AsyncSession, ticket_id: int, flow: str, title: str, *, agent: str) -> Ticket:
        """The assistant goes on with a flow in the agent's place; the ticket is closed."""
        ticket = await self.return_to_assistant(session, ticket_id, agent=agent)
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        now = self._clock()
        note = self._replies.render("note_flow", ticket.lang, {"agent": agent, "title": title})
        message = InboundMessage(
            address=Address(conversation.channel, conversation.account, conversation.chat_id),
            external_id=f"flow:{ticket_id}:{flow}:{now.isoformat()}",
            sent_at=now,
            kind="flow",
            text=flow,
            context={"note": note},
        )
        await ledger.take_in(session, message, now=now)
        return ticket

    async def reopen(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """Take an ended ticket up again, whichever desk asks: the customer hears of it, and by when he is answered."""
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.reopen(session, ticket, agent=agent, now=self._clock())
        await self.announce(session, ticket, "reopened", await self.expectation(session, ticket))
        return ticket

    # What customers do

    async def give_feedback(self, session: AsyncSession, ticket_id: int, feedback: Feedback) -> None:
        """The customer said whether it helped, by a button or in words; he is told what follows from it."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        await desk.lock_ticket(session, ticket)
        followed = await self.tickets.give_feedback(session, ticket, feedback, now=now)
        if ticket.status is not TicketStatus.AWAITING_FEEDBACK:
            await self._stop_survey(session, ticket)
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        match followed:
            case Followed.ENDED:
                await self.announce(session, ticket, "survey_thanks")
                if conversation.owner is Owner.ASSISTANT:
                    await self.nps.ended_well(session, conversation, topic=ticket.topic, ticket=ticket)
            case Followed.REOPENED:
                senior = await self._has_senior(session, ticket, "")
                await self.announce(session, ticket, "survey_reopened", {"senior": senior})
            case Followed.STILL_OPEN:
                await self.announce(session, ticket, "survey_still_open", {"helped": feedback is Feedback.HELPED})
            case Followed.ELSEWHERE:
                live = await desk.open_ticket(session, conversation.id)
                assert live is not None  # noqa: S101 - its conversation is locked
                note = self._replies.render("note_not_helped", DEFAULT, {"ticket_number": ticket.id})
                await desk.note(session, conversation.id, note, about={"not_helped": ticket.id}, now=now)
                await self.customer_wrote(session, conversation, courtesy=False)
                await self.announce(session, live, "survey_elsewhere", {"about": ticket.id})

    async def is_his(self, session: AsyncSession, conversation: Conversation, ticket_id: int) -> bool:
        """Whether a ticket is of this conversation, or of another one of the same customer, where it went on."""
        ticket = await session.get(Ticket, ticket_id)
        if ticket is None or ticket.conversation_id == conversation.id:
            return ticket is not None
        other = await desk.get_conversation(session, ticket.conversation_id)
        return other.customer_id is not None and other.customer_id == conversation.customer_id

    async def customer_wrote(
        self,
        session: AsyncSession,
        conversation: Conversation,
        *,
        courtesy: bool,
        said: Sequence[str] = (),
        route: Route | None = None,
    ) -> None:
        """Something was said in a conversation that a person has. A word of thanks changes nothing where the next
        word is not ours. said, route: as `handoff.second_look.heed` has them."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is None or (courtesy and ticket.status not in ACTS):
            return
        now, keeps = self._clock(), await self._is_known_to_holder(session, ticket)
        otherwise = await heed(self.tickets, session, ticket, said, route, keeps=keeps, now=now)
        await self.tickets.customer_wrote(session, conversation, now=now)
        await self._stop_survey(session, ticket)
        if otherwise:
            await self.announce(session, ticket, "promise_changed", await self.expectation(session, ticket))

    async def customer_ends(self, session: AsyncSession, conversation: Conversation) -> None:
        """The customer needs nobody any more (`/end`)."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is not None:
            await self.tickets.resolve(session, ticket, agent=CUSTOMER, now=self._clock())
            await self._stop_survey(session, ticket)
            await self.announce(session, ticket, "ended")

    async def customer_goes_back(self, session: AsyncSession, conversation: Conversation) -> None:
        """The customer would rather go on with the assistant than wait. Only while nobody has joined or answered: an
        agent who is in the conversation is not cut off."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is None:
            return
        joined = ticket.assignee_id is not None and await self._given_by_hand(session, ticket)
        if joined or ticket.status is not TicketStatus.NEW:
            await self.announce(session, ticket, "agent_is_here")
            return
        await self.tickets.close(session, ticket, why="back to the assistant", agent=CUSTOMER, now=self._clock())
        await self.announce(session, ticket, "back_to_assistant")

    async def answered_elsewhere(self, session: AsyncSession, conversation: Conversation, message: Message) -> None:
        """A person answered past the desk, from the company's own phone: the assistant is silent from now on."""
        now, agent = self._clock(), message.agent_name or SYSTEM
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is None:
            texts = await desk.customer_texts(session, conversation.id, now=now)
            chosen = route(self.tickets.topics, None, texts)
            ticket = await self.tickets.hand_off(
                session, conversation, reason=Reason.ANSWERED_ELSEWHERE, route=chosen, texts=texts, now=now
            )
        await self.tickets.replied(session, ticket, message, agent=agent, now=now)
        await self._stop_survey(session, ticket)
        if ticket.reason is Reason.ANSWERED_ELSEWHERE:
            await set_timer(session, f"elsewhere:{ticket.id}", ELSEWHERE, now + ELSEWHERE_FOR, {"ticket_id": ticket.id})
        else:
            await self.silence.begin(session, ticket, message.created_at)

    # What happens by itself

    async def undelivered(self, session: AsyncSession, message: Message) -> None:
        """What an agent wrote did not arrive: whoever has the ticket is told, and it waits for no customer."""
        found = await session.scalars(
            select(Ticket)
            .where(Ticket.conversation_id == message.conversation_id, Ticket.created_at <= message.created_at)
            .order_by(Ticket.id.desc())
            .limit(1)
        )
        ticket = found.first()
        if ticket is None or message.kind == "reaction":
            return
        await self.tickets.not_delivered(session, ticket, message, now=self._clock())
        if ticket.status in ACTS:
            await self._stop_survey(session, ticket)

    async def fire_elsewhere(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """Nobody went on with what was answered past the desk: the assistant has the customer again."""
        ticket = await desk.get_ticket(session, int(payload["ticket_id"]))
        await desk.lock_conversation(session, ticket.conversation_id)
        await session.refresh(ticket)
        if ticket.status is TicketStatus.WAITING and ticket.assignee_id is None:
            await self.tickets.close(session, ticket, why="answered elsewhere", agent=SYSTEM, now=now)

    async def tick(self, session: AsyncSession) -> list[Raised]:
        """Whatever is due at desks: holds that ended, tickets to give out, clocks to speak of."""
        now = self._clock()
        await self.tickets.clocks.follow_policy(session, now=now)
        for ticket in await self.tickets.wake_held(session, now=now):
            await self.announce(session, ticket, "hold_over")
        raised = await raise_clocks(session, self.tickets, now=now)
        await self.tickets.holders.give_out(session, now=now)
        return raised

    async def fire_survey(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """Ask, remind, or give up: what the survey's timer of a ticket is for."""
        ticket = await desk.get_ticket(session, int(payload["ticket_id"]))
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        await session.refresh(ticket)
        if ticket.status is not TicketStatus.AWAITING_FEEDBACK:
            return
        survey, stage = self.tickets.policy.survey, payload["stage"]
        closes = await closes_at(
            session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
        )
        if stage == "give_up" or (closes is not None and now >= closes):  # a timer may come late
            newest = conversation.state.get(SURVEY)
            await self.tickets.resolve(session, ticket, agent=SYSTEM, now=now)
            if newest == ticket.id:
                conversation.state = {**conversation.state, SURVEY: ticket.id}
            return
        if self._survey_moment(now, stage, closes) > now:  # late: it was day when it was planned for
            await self._plan_survey(session, ticket, now, stage)
            return
        options = self._survey_options(ticket)
        await self._say(session, conversation, ticket, "survey" if stage == "ask" else "survey_reminder", {}, options)
        self._asked(conversation, ticket, options)
        if stage == "ask":
            ticket.asked_at = now
            await self._plan_survey(session, ticket, now + survey.remind_after, "remind")
        else:
            await self._plan_survey(session, ticket, now + survey.give_up_after - survey.remind_after, "give_up")

    def _asked(self, conversation: Conversation, ticket: Ticket, options: Sequence[Option]) -> None:
        """The question whether it helped is the newest thing in the chat: a yes or no may be typed."""
        options_now = {option.token: option.label for option in options}
        conversation.state = {**conversation.state, "options": options_now, SURVEY: ticket.id}

    def _survey_options(self, ticket: Ticket) -> list[Option]:
        return [
            Option(f"{token}:{ticket.id}", self._replies.render(label, ticket.lang))
            for token, label in ((SURVEY_HELPED, "label_survey_yes"), (SURVEY_NOT_HELPED, "label_survey_no"))
        ]

    # Words

    async def _tell(
        self,
        session: AsyncSession,
        conversation: Conversation,
        ticket: Ticket,
        template: str,
        options: Sequence[Option],
    ) -> Message:
        return await self._say(session, conversation, ticket, template, {}, options)

    async def announce(
        self, session: AsyncSession, ticket: Ticket, template: str, values: Mapping[str, Any] | None = None
    ) -> Message:
        """Tell the customer, whoever owns the conversation by the time it is sent."""
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        return await self._say(session, conversation, ticket, template, values or {}, ())

    async def expectation(self, session: AsyncSession, ticket: Ticket) -> dict[str, Any]:
        """What the customer may expect: number, topic, hours, time, place in the queue. The time is so many minutes,
        and where these are not all of this working day's, or of this morning's, the moment itself."""
        now, policy = self._clock(), self.tickets.policy
        hours, topic = policy.hours_of(ticket.team), self.tickets.topics.get(ticket.topic)
        in_hours = hours.contains(now)
        due = await self.tickets.clocks.answer_due(session, ticket, now)
        minutes = max(1, ceil(hours.between(now, due).total_seconds() / 60))
        far = due - now > timedelta(minutes=minutes + 1)
        return {
            "ticket_number": ticket.id,
            "topic_title": topic.title_in(ticket.lang),
            "reason": ticket.reason,
            "in_hours": in_hours,
            "hours": hours.describe(ticket.lang),
            "expected_minutes": minutes,
            "answer_at": self._moment(due, now, hours, ticket.lang) if far else None,
            "zone": hours.zone_name(ticket.lang),
            "next_opening": None if in_hours else f"{hours.next_opening(now):%d.%m %H:%M}",
            "place": await self.tickets.holders.place(session, ticket),
            "nobody": in_hours and await self._nobody(session, ticket.team, now),
        }

    def _moment(self, at: datetime, now: datetime, hours: WorkingHours, lang: str) -> str:
        """As people name it: the day as that of the hours' zone."""
        local, today = at.astimezone(hours.zone), now.astimezone(hours.zone).date()
        values = {
            "days": (local.date() - today).days,
            "weekday": DAY_NAMES["ru" if lang == "ru" else "en"][local.weekday()],
            "date": f"{local:%d.%m}",
            "time": f"{local:%H:%M}",
        }
        return self._replies.render("answer_at", lang, values)

    async def packet(self, session: AsyncSession, ticket_id: int) -> Packet:
        """Everything about a ticket as it is now."""
        return await packet(session, ticket_id, self.tickets, now=self._clock())

    async def _is_known_to_holder(self, session: AsyncSession, ticket: Ticket) -> bool:
        """Whether he who has it has opened it, or a person gave it to him."""
        holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
        if holder is None:
            return False
        acts = await session.scalar(
            select(AuditEntry.id).where(AuditEntry.ticket_id == ticket.id, AuditEntry.who == holder.name).limit(1)
        )
        return acts is not None or await self._given_by_hand(session, ticket)

    async def _offer_nobody_else(self, session: AsyncSession, ticket: Ticket) -> None:
        """A person is there: the choice not to wait is over. Its button may still stand in the chat."""
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        options = conversation.state.get("options", {})
        if BACK in options:
            left = {token: label for token, label in options.items() if token != BACK}
            conversation.state = {**conversation.state, "options": left}

    async def _given_by_hand(self, session: AsyncSession, ticket: Ticket) -> bool:
        """Whether a person gave it to whoever has it, and not the queue: the customer was told then."""
        actor = await session.scalar(
            select(HistoryEntry.actor)
            .where(HistoryEntry.ticket_id == ticket.id, HistoryEntry.event == "assigned")
            .order_by(HistoryEntry.id.desc())
            .limit(1)
        )
        return actor is not None and actor != SYSTEM

    async def _has_senior(self, session: AsyncSession, ticket: Ticket, giver: str) -> bool:
        """Whether anybody but the giver is of the level that it asks for, on duty or not: only then is one promised."""
        return any(one.name != giver for one in await seniors(session, self.tickets.policy, ticket))

    async def _nobody(self, session: AsyncSession, team: str, now: datetime) -> bool:
        """Whether no agent of the team is there now."""
        agents = [agent for agent in await session.scalars(select(Agent).where(Agent.active)) if team in agent.teams]
        return not any(on_duty(self.tickets.policy, agent, now) for agent in agents)

    async def _say(
        self,
        session: AsyncSession,
        conversation: Conversation,
        ticket: Ticket,
        template: str,
        values: Mapping[str, Any],
        options: Sequence[Option],
    ) -> Message:
        lang = conversation.lang or ticket.lang or DEFAULT
        text = self._replies.render(template, lang, {"ticket_number": ticket.id, **values}, topic=ticket.topic)
        return await ledger.say(
            session,
            conversation,
            text,
            options=options,
            decision={"action": "announcement", "reply": template, "ticket_id": ticket.id},
            guarded=False,
            now=self._clock(),
        )

    async def _plan_survey(self, session: AsyncSession, ticket: Ticket, at: datetime, stage: str = "ask") -> None:
        """Set the next step; one that the platform would not take any more is left out, and the ticket given up."""
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        closes = await closes_at(
            session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
        )
        if stage != "give_up":
            latest = closes - MARGIN if closes is not None else at
            if stage == "ask" and self._clock() < latest < at:
                at = latest
            at = self._survey_moment(at, stage, closes)
            if closes is not None and at > latest:
                stage, at = "give_up", max(at, closes)
        await set_timer(session, _key(ticket), SURVEY, at, {"ticket_id": ticket.id, "stage": stage})

    def _survey_moment(self, at: datetime, stage: str, closes: datetime | None) -> datetime:
        """The reminder is left out rather than sent at night."""
        until = closes - MARGIN if closes is not None and stage == "ask" else None
        return self.tickets.policy.survey.moment(at, self.tickets.policy.zone, until)

    async def _stop_survey(self, session: AsyncSession, ticket: Ticket) -> None:
        await cancel_timer(session, _key(ticket))


async def _attach(session: AsyncSession, message: Message, files: Sequence[StoredFile]) -> None:
    message.kind = "attachment"
    session.add_all(
        Attachment(
            message_id=message.id,
            kind=file.kind,
            state=AttachmentState.STORED,
            file_name=file.file_name,
            mime_type=file.mime_type,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            source={},
        )
        for file in files
    )
    await session.flush()
    await session.refresh(message, ["attachments"])


def _key(ticket: Ticket) -> str:
    return f"survey:ticket:{ticket.id}"
