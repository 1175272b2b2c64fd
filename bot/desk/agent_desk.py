"""What agents do with tickets, told to the customer: every act at a desk with the words that follow from it.

One transaction holds the act, the words and what is to happen later. Whichever desk asks (terminal, web, forum), it
asks here; what else belongs to a desk (the words, the survey, what customers do …) hangs on `AgentDesk`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.attachments import StoredFile
from bot.channels.base import (
    Address,
    Capabilities,
    InboundMessage,
    Medium,
    OutboundAttachment,
)
from bot.desk.customer_acts import CustomerActs
from bot.desk.edits import Edits
from bot.desk.elsewhere import Elsewhere
from bot.desk.joining import a_person_spoke, given_by_hand
from bot.desk.nps import NpsSurvey
from bot.desk.silence import Silence
from bot.desk.survey import SURVEY_NOT_HELPED, Survey
from bot.desk.words import Words, language
from bot.errors import FileRefusedError
from bot.models.shadow import settle
from bot.notifications import Notices, named_in
from bot.replies import Replies
from handoff import desk
from handoff.alarms import Raised, raise_clocks
from handoff.customers import Customers, Way
from handoff.errors import TicketHeldError
from handoff.lifecycle import ACTS, LIVE, TicketStatus
from handoff.packet import Packet, packet
from handoff.records import (
    NOTE,
    Agent,
    Mention,
    Message,
    Ticket,
)
from handoff.staff import on_duty
from handoff.tickets import Tickets


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
        self.words = Words(tickets=tickets, replies=replies, clock=clock)
        self.survey = Survey(tickets=tickets, words=self.words, replies=replies, clock=clock)
        self.silence = Silence(tickets=tickets, words=self.words, survey=self.survey)
        self.customer_acts = CustomerActs(
            tickets=tickets, words=self.words, survey=self.survey, nps=self.nps, replies=replies, clock=clock
        )
        self.elsewhere = Elsewhere(tickets=tickets, survey=self.survey, silence=self.silence, clock=clock)
        self.edits = Edits(clock=clock, capabilities=self._capabilities)

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
        await desk.lock_ticket(session, ticket)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        for file in files:
            self.check_file(conversation.channel, file)
        message = await self.tickets.reply(session, ticket, text, agent=agent, now=now)
        await a_person_spoke(session, ticket)
        await settle(session, ticket_id, text, by=agent, at=now)
        if files:
            await _attach(session, message, files)
        if quote is not None:
            quoted = await session.get(Message, quote)
            if quoted is not None and quoted.conversation_id == conversation.id and quoted.kind != NOTE:
                message.reply_to_id = quoted.id
        await self.survey.stop(session, ticket)
        if template:
            message.decision = {"template_id": template}
        await ledger.queue(session, conversation, message, guarded=False, now=now)
        await self.elsewhere.stop(session, ticket)
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
        await self.words.announce(session, ticket, "moved_here")
        return await self.reply(session, ticket_id, text, agent=agent, template=template, files=files)

    async def assign(
        self, session: AsyncSession, ticket_id: int, to: Agent | None, *, by: str, why: str = ""
    ) -> Ticket:
        """Give it to somebody, or back to the queue. A customer whom nobody has answered yet hears who took it.

        why: of a warm transfer (R74), a note for the colleague; the customer hears to whom he is passed, and that he
        need not tell it again. The next word is the colleague's then, unless a task is waited for.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        await desk.lock_ticket(session, ticket)
        now, why = self._clock(), " ".join(why.split())
        note = f"→ {to.name if to else '…'}: {why}"
        about = {"passed_to": to.name if to else None}
        if to is not None and ticket.assignee_id == to.id and await given_by_hand(session, ticket):
            if why and await _last_note(session, ticket) != note:  # else pressed twice
                await desk.note(session, ticket.conversation_id, note, agent_name=by, about=about, now=now)
            return ticket
        await self.tickets.assign(session, ticket, to.id if to else None, actor=by, now=now)
        if why:
            await desk.note(session, ticket.conversation_id, note, agent_name=by, about=about, now=now)
        if to is not None and why and to.name != by:
            if ticket.status in (TicketStatus.WAITING, TicketStatus.AWAITING_FEEDBACK):
                await self.tickets.take_up(session, ticket, agent=by, now=now)
            await self.survey.stop(session, ticket)
            await self.words.announce(session, ticket, "passed_to", {"agent_name": to.name})
            await a_person_spoke(session, ticket)
        elif to is not None and ticket.first_reply_at is None:
            await self.words.announce(session, ticket, "agent_joined", {"agent_name": to.name})
            await a_person_spoke(session, ticket)
        return ticket

    async def take(
        self, session: AsyncSession, ticket_id: int, to: Agent, *, by: str, over: int | None = None, why: str = ""
    ) -> Agent | None:
        """Give it to somebody unless another who is there has it, whom `over` does not name, nor gives it away himself;
        who had it before.

        Raises TicketHeldError, which tells whom `over` has to name.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        await desk.lock_ticket(session, ticket)
        holder = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id not in (None, to.id) else None
        there = holder is not None and on_duty(self.tickets.policy, holder, self._clock())
        if holder is not None and there and holder.id != over and holder.name != by and ticket.status in LIVE:
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
        await self.survey.stop(session, ticket)
        day = ticket.hold_until.astimezone(self.zone) if ticket.hold_until else None
        shown = "%d.%m" if day and day.year == self._clock().astimezone(self.zone).year else "%d.%m.%Y"
        await self.words.announce(session, ticket, "on_hold", {"until": day.strftime(shown) if day else None})
        return ticket

    async def resume(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.resume(session, ticket, actor=agent, now=self._clock())
        return ticket

    async def take_up(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """The last word was not the last: the matter goes on, and the customer is not asked whether it helped."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        await self.tickets.take_up(session, ticket, agent=agent, now=now)
        await self.survey.stop(session, ticket)
        return ticket

    async def task_done(self, session: AsyncSession, task: str, *, outcome: str = "") -> Sequence[Ticket]:
        """A linked task ended: the customers who wait for it are told in the chat they came from, however long ago,
        and whatever was said meanwhile.

        outcome: what came of it, for the customers; empty: that work on it goes on.
        """
        found = await self.tickets.task_done(session, task, now=self._clock())
        for ticket in found:
            await self.survey.stop(session, ticket)
            await self.words.announce(session, ticket, "task_done", {"outcome": outcome.strip() or None})
        return found

    async def transfer(self, session: AsyncSession, ticket_id: int, topic_id: str, *, why: str, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.transfer(session, ticket, topic_id, why=why, agent=agent, now=self._clock())
        await self.survey.stop(session, ticket)
        team = self.tickets.policy.team(ticket.team)
        values = await self.words.expectation(session, ticket)
        lang = language(await desk.get_conversation(session, ticket.conversation_id), ticket)
        values |= {"team_title": team.title.get(lang), "senior": False}
        await self.words.announce(session, ticket, "transferred", values)
        return ticket

    async def escalate(
        self, session: AsyncSession, ticket_id: int, *, details: str, urgency: str, agent: str
    ) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.escalate(session, ticket, details=details, urgency=urgency, agent=agent, now=self._clock())
        await self.survey.stop(session, ticket)
        values = await self.words.expectation(session, ticket) | {"team_title": None}
        await self.words.announce(
            session, ticket, "transferred", values | {"senior": await self.words.has_senior(session, ticket, agent)}
        )
        return ticket

    async def finish(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """The agent has said his last word. The customer is asked later whether it helped, unless he was already."""
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.finish(session, ticket, agent=agent, now=self._clock())
        await self.survey.begin(session, ticket)
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
        await self.survey.stop(session, ticket)
        # Whoever sees that it is not settled opens it again with a button, or by saying so.
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        await self.survey.ask(session, conversation, ticket, "resolved", (SURVEY_NOT_HELPED,))
        return ticket

    async def close(self, session: AsyncSession, ticket_id: int, *, why: str, agent: str) -> Ticket:
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.close(session, ticket, why=why, agent=agent, now=self._clock())
        await self.survey.stop(session, ticket)
        await self.words.announce(session, ticket, "closed")
        return ticket

    async def merge(self, session: AsyncSession, ticket_id: int, into: int, *, agent: str) -> Ticket:
        """Close it as a duplicate; the customer hears where it goes on."""
        ticket = await desk.get_ticket(session, ticket_id)
        why = f"merged into {into}"
        await self.tickets.close(session, ticket, why=why, agent=agent, now=self._clock(), merged_into=into)
        await self.survey.stop(session, ticket)
        await self.words.announce(session, ticket, "merged", {"into": into})
        return ticket

    async def return_to_assistant(self, session: AsyncSession, ticket_id: int, *, agent: str) -> Ticket:
        """No person is needed after all: the customer goes on with the assistant."""
        ticket = await desk.get_ticket(session, ticket_id)
        await self.tickets.close(session, ticket, why="back to the assistant", agent=agent, now=self._clock())
        await self.survey.stop(session, ticket)
        await self.words.announce(session, ticket, "back_to_assistant")
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
        await self.words.announce(session, ticket, "reopened", await self.words.expectation(session, ticket))
        return ticket

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
            await self.survey.stop(session, ticket)

    async def tick(self, session: AsyncSession) -> list[Raised]:
        """Whatever is due at desks: holds that ended, tickets to give out, clocks to speak of."""
        now = self._clock()
        await self.tickets.clocks.follow_policy(session, now=now)
        for ticket in await self.tickets.wake_held(session, now=now):
            await self.words.announce(session, ticket, "hold_over")
        raised = await raise_clocks(session, self.tickets, now=now)
        await self.tickets.holders.give_out(session, now=now)
        return raised

    async def packet(self, session: AsyncSession, ticket_id: int) -> Packet:
        """Everything about a ticket as it is now."""
        return await packet(session, ticket_id, self.tickets, now=self._clock())


async def _last_note(session: AsyncSession, ticket: Ticket) -> str | None:
    found: str | None = await session.scalar(
        select(Message.text)
        .where(Message.conversation_id == ticket.conversation_id, Message.kind == NOTE)
        .order_by(Message.id.desc())
        .limit(1)
    )
    return found


async def _attach(session: AsyncSession, message: Message, files: Sequence[StoredFile]) -> None:
    message.kind = "attachment"
    for file in files:
        row = file.as_sent()
        row.message_id = message.id
        session.add(row)
    await session.flush()
    await session.refresh(message, ["attachments"])
