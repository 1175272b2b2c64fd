"""One person's seat at the web desk: what he may see and do, with its permission and its line in the audit log.

The pages know tickets through this alone; `tests/unit/test_desk_access.py` sees to it. A seat works inside the
caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.attachments import StoredFile
from bot.desk.accounts import Accounts
from bot.desk.agent_desk import AgentDesk
from bot.desk.macros import check_macro
from bot.desk.outgoing import OUTGOING, send_outgoing, timer_key
from bot.desk.records import AuditEntry, Macro, Outgoing, OutgoingState, SavedView
from bot.erasure.erasing import Eraser
from bot.erasure.person import Holdings, holdings, person_of
from bot.errors import EditRefusedError, MacroError, StaleReplyError, UnseenWordsError
from bot.models.records import ShadowDraft
from bot.models.shadow import draft_of
from bot.timers import cancel_timer, set_timer
from handoff import queue
from handoff.access import Permission, Viewer, reach
from handoff.customers import Way
from handoff.desk import get_conversation, lock_conversation, lock_tickets
from handoff.errors import (
    AccessError,
    CustomerError,
    StrangersError,
    TicketNotFoundError,
    TicketStateError,
)
from handoff.lifecycle import LIVE
from handoff.packet import Packet
from handoff.records import (
    NOTE,
    Agent,
    Attachment,
    AttachmentState,
    Author,
    Conversation,
    HistoryEntry,
    Mention,
    Message,
    Ticket,
)
from handoff.staff import get_agent, list_agents, on_duty

SEEN_AGAIN = timedelta(minutes=10)
"""A ticket that is looked at again within this time makes no second line in the audit log."""
COUNTED_FOR = timedelta(seconds=1)
MAX_VIEWS = 30
MAX_REPLY_CHARS = 20_000
MAX_FILES = 10


@dataclass(frozen=True)
class Draft:
    """A reply as the form sends it."""

    key: str
    text: str
    seen_id: int
    """The newest message that stood on the writer's screen."""
    seen_agent_id: int
    """The newest of a colleague that he had seen when he began to write."""
    files: tuple[StoredFile, ...] = ()
    quote_id: int | None = None
    template: str = ""
    then: str = ""


@dataclass(frozen=True)
class Colleague:
    name: str
    teams: tuple[str, ...]
    load: int
    capacity: int
    on_duty: bool


class Tally:
    """How many tickets there are of each kind: counted once a second at most, for everybody."""

    def __init__(self) -> None:
        self._read: tuple[datetime, Sequence[queue.Pile]] | None = None

    async def read(self, session: AsyncSession, now: datetime) -> Sequence[queue.Pile]:
        if self._read is None or not timedelta(0) <= now - self._read[0] < COUNTED_FOR:
            self._read = now, await queue.piles(session)
        return self._read[1]


class Seat:
    def __init__(
        self,
        desk: AgentDesk,
        accounts: Accounts,
        session: AsyncSession,
        viewer: Viewer,
        *,
        now: datetime,
        address: str,
        tally: Tally,
    ) -> None:
        self._tally = tally
        self._desk = desk
        self._accounts = accounts
        self._session = session
        self.viewer = viewer
        self._now = now
        self._address = address

    # Looking

    async def find(self, query: queue.Query) -> queue.Found:
        return await queue.find(self._session, self.viewer, query, self._now)

    async def counts(self) -> Mapping[queue.View, int]:
        piles = await self._tally.read(self._session, self._now)
        mentions = await queue.mentioned(self._session, self.viewer, self._now)
        return {**queue.counts(piles, self.viewer), queue.View.MENTIONS: mentions}

    async def look(self, ticket_id: int) -> Packet:
        """Everything about a ticket; that it was seen is recorded. Raises TicketNotFoundError."""
        await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        lately = await self._session.scalar(
            select(AuditEntry.id)
            .where(
                AuditEntry.ticket_id == ticket_id,
                AuditEntry.who == self.viewer.name,
                AuditEntry.action == "saw",
                AuditEntry.at > self._now - SEEN_AGAIN,
            )
            .limit(1)
        )
        if lately is None:
            self._record("saw", ticket_id)
        await self._session.execute(
            update(Mention)
            .where(Mention.ticket_id == ticket_id, Mention.agent_id == self.viewer.agent_id, Mention.seen_at.is_(None))
            .values(seen_at=self._now)
        )
        return await self._packet(ticket_id)

    async def refresh(self, ticket_id: int) -> Packet:
        """The same for a page that shows it already: nothing is written."""
        await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        return await self._packet(ticket_id)

    async def _packet(self, ticket_id: int) -> Packet:
        """The packet, its other tickets and conversations cut to those that the viewer may see."""
        packet = await self._desk.packet(self._session, ticket_id)
        places = {message.conversation_id for message in packet.elsewhere}
        if places:
            others = await self._session.scalars(select(Ticket).where(Ticket.conversation_id.in_(places)))
            hidden = {row.conversation_id for row in others if not self.viewer.sees(row)}
            said = [message for message in packet.elsewhere if message.conversation_id not in hidden]
            packet = packet.model_copy(update={"elsewhere": said})
        ids = [ticket.ticket_id for ticket in packet.customer.tickets]
        if not ids:
            return packet
        rows = await self._session.scalars(select(Ticket).where(Ticket.id.in_(ids)))
        seen = {row.id for row in rows if self.viewer.sees(row)}
        card = packet.customer.model_copy(
            update={"tickets": [ticket for ticket in packet.customer.tickets if ticket.ticket_id in seen]}
        )
        return packet.model_copy(update={"customer": card})

    async def chat_of(self, ticket_id: int) -> Conversation:
        """Where a ticket's customer writes."""
        ticket = await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        return await get_conversation(self._session, ticket.conversation_id)

    async def ways(self, ticket_id: int) -> Sequence[Way]:
        """Where else the customer can be answered."""
        await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        return await self._desk.ways(self._session, ticket_id)

    async def file(self, ticket_id: int, attachment_id: int) -> Attachment:
        """A stored file of a ticket's conversation. Raises TicketNotFoundError where there is none."""
        ticket = await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        moves = await self._session.scalars(
            select(HistoryEntry.details).where(HistoryEntry.ticket_id == ticket_id, HistoryEntry.event == "moved")
        )
        places = {ticket.conversation_id, *(int(details["left"]) for details in moves)}
        found: Attachment | None = await self._session.scalar(
            select(Attachment)
            .join(Message, Message.id == Attachment.message_id)
            .where(Attachment.id == attachment_id, Message.conversation_id.in_(places))
        )
        if found is None or found.state is not AttachmentState.STORED or not found.sha256:
            raise TicketNotFoundError(ticket_id)
        return found

    async def colleagues(self) -> list[Colleague]:
        return [
            Colleague(
                agent.name,
                tuple(agent.teams),
                load,
                agent.capacity,
                on_duty(self._desk.tickets.policy, agent, self._now),
            )
            for agent, load in await list_agents(self._session)
        ]

    async def shadow_draft(self, ticket_id: int) -> ShadowDraft | None:
        """The answer that the assistant has drafted, while nobody has answered."""
        await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        return await draft_of(self._session, ticket_id)

    async def under_way(self, ticket_id: int) -> Sequence[Outgoing]:
        """Replies to this ticket that can still be taken back, the oldest first."""
        await reach(self._session, self.viewer, ticket_id, Permission.READ, self._now)
        rows = await self._session.scalars(
            select(Outgoing)
            .where(Outgoing.ticket_id == ticket_id, Outgoing.state == OutgoingState.WAITING)
            .order_by(Outgoing.id)
        )
        return rows.all()

    async def saved_views(self) -> Sequence[SavedView]:
        rows = await self._session.scalars(
            select(SavedView).where(SavedView.account_id == self.viewer.account_id).order_by(SavedView.id)
        )
        return rows.all()

    async def save_view(self, name: str, query: str) -> None:
        """Under a name that replaces the view of the same name. Raises AccessError when there are too many."""
        mine = list(await self.saved_views())
        same = next((view for view in mine if view.name == name), None)
        if same is not None:
            same.query = query
        elif len(mine) >= MAX_VIEWS:
            raise AccessError(self.viewer.name, "saved views")
        else:
            self._session.add(SavedView(account_id=self.viewer.account_id, name=name, query=query))
        await self._session.flush()

    async def forget_view(self, view_id: int) -> None:
        await self._session.execute(
            delete(SavedView).where(SavedView.id == view_id, SavedView.account_id == self.viewer.account_id)
        )

    async def macros(self, lang: str) -> Sequence[Macro]:
        """Those for customers of this language."""
        rows = await self._session.scalars(select(Macro).where(Macro.lang.in_(["", lang])).order_by(Macro.title))
        return rows.all()

    async def all_macros(self) -> Sequence[Macro]:
        self.viewer.require(Permission.MACROS)
        return (await self._session.scalars(select(Macro).order_by(Macro.lang, Macro.title))).all()

    async def save_macro(self, macro_id: int, title: str, body: str, lang: str) -> None:
        """macro_id: 0 for a new one. Raises MacroError and AccessError."""
        self.viewer.require(Permission.MACROS)
        check_macro(title, body)
        if not title:
            raise MacroError(title, "it needs a title")
        macro = await self._session.get(Macro, macro_id) if macro_id else None
        if macro is None:
            macro = Macro(title=title)
            self._session.add(macro)
        macro.title, macro.body, macro.lang = title, body, lang
        macro.changed_by, macro.changed_at = self.viewer.name, self._now
        self._record("macro_saved", title=title)
        await self._session.flush()

    async def forget_macro(self, macro_id: int) -> None:
        self.viewer.require(Permission.MACROS)
        await self._session.execute(delete(Macro).where(Macro.id == macro_id))
        self._record("macro_removed", number=macro_id)

    # Answering

    async def reply(self, ticket_id: int, draft: Draft, *, undo_seconds: int) -> Outgoing:
        """Take a reply to send: at once, or when it can be taken back no more. The same key gives the same one.

        Raises StaleReplyError when a message or another's reply came that its writer has not seen, FileRefusedError,
        TicketStateError and AccessError. Nothing is sent then.
        """
        ticket = await self._reach(ticket_id)
        await lock_conversation(self._session, ticket.conversation_id)
        await self._session.refresh(ticket)
        known: Outgoing | None = await self._session.scalar(select(Outgoing).where(Outgoing.key == draft.key))
        if known is not None:
            if known.account_id != self.viewer.account_id or known.ticket_id != ticket_id:
                raise AccessError(self.viewer.name, Permission.ANSWER)
            return known
        if ticket.status not in LIVE:
            raise TicketStateError(ticket.id, ticket.status, "answered")
        await self._require_seen(ticket, draft)
        conversation = await get_conversation(self._session, ticket.conversation_id)
        for file in draft.files:
            self._desk.check_file(conversation.channel, file)
        outgoing = Outgoing(
            key=draft.key,
            account_id=self.viewer.account_id,
            ticket_id=ticket_id,
            agent_name=self.viewer.name,
            text=draft.text,
            files=[asdict(file) for file in draft.files],
            quote_id=draft.quote_id,
            template=draft.template,
            then=draft.then,
            state=OutgoingState.WAITING,
            created_at=self._now,
            due_at=self._now + timedelta(seconds=undo_seconds),
        )
        self._session.add(outgoing)
        await self._session.flush()
        self._record("replied", ticket_id)
        if undo_seconds:
            await set_timer(self._session, timer_key(outgoing), OUTGOING, outgoing.due_at, {"outgoing_id": outgoing.id})
        else:
            await send_outgoing(self._desk, self._session, outgoing)
        return outgoing

    async def _require_seen(self, ticket: Ticket, draft: Draft) -> None:
        spoken = Message.kind.not_in([NOTE, "reaction"])
        theirs = (Message.author == Author.CUSTOMER) & (Message.id > draft.seen_id)
        others = (
            (Message.author == Author.AGENT)
            & (Message.agent_name != self.viewer.name)
            & (Message.id > draft.seen_agent_id)
        )
        newest = await self._session.scalar(
            select(func.max(Message.id)).where(
                Message.conversation_id == ticket.conversation_id, spoken, theirs | others
            )
        )
        waiting = await self._session.scalars(
            select(Outgoing.agent_name).where(
                Outgoing.ticket_id == ticket.id,
                Outgoing.state == OutgoingState.WAITING,
                Outgoing.account_id != self.viewer.account_id,
            )
        )
        names = tuple(waiting)
        if newest is not None or names:
            raise StaleReplyError(ticket.id, int(newest or draft.seen_id), names)

    async def take_back(self, ticket_id: int, outgoing_id: int) -> Outgoing | None:
        """Undo a reply that has not gone out yet; None when it has."""
        await self._reach(ticket_id)
        taken = await self._session.execute(
            update(Outgoing)
            .where(
                Outgoing.id == outgoing_id,
                Outgoing.ticket_id == ticket_id,
                Outgoing.account_id == self.viewer.account_id,
                Outgoing.state == OutgoingState.WAITING,
            )
            .values(state=OutgoingState.TAKEN_BACK)
        )
        if not taken.rowcount:  # type: ignore[attr-defined]
            return None
        outgoing = await self._session.get_one(Outgoing, outgoing_id, populate_existing=True)
        await cancel_timer(self._session, timer_key(outgoing))
        self._record("took_back", ticket_id)
        return outgoing

    async def reply_elsewhere(self, ticket_id: int, conversation_id: int, text: str) -> None:
        """Go on in another conversation of the same customer. Raises TicketStateError and CustomerError."""
        await self._reach(ticket_id)
        await self._desk.reply_elsewhere(self._session, ticket_id, conversation_id, text, agent=self.viewer.name)
        self._record("moved", ticket_id, conversation=conversation_id)

    async def same_person(self, ticket_id: int, customer_id: int) -> None:
        """Say that another customer is this ticket's. Raises CustomerError."""
        await self._reach(ticket_id)
        packet = await self._desk.packet(self._session, ticket_id)
        if customer_id not in {each.customer_id for each in packet.customer.suggestions} or packet.customer.id is None:
            raise CustomerError(f"customer {customer_id} is not suggested for ticket {ticket_id}")
        await self._desk.customers.link(
            self._session, packet.customer.id, customer_id, actor=self.viewer.name, now=self._now
        )
        self._record("linked", ticket_id, customer=customer_id)

    async def not_same_person(self, ticket_id: int, conversation_id: int) -> None:
        """Take a conversation out of this ticket's customer. Raises CustomerError."""
        await self._reach(ticket_id)
        packet = await self._desk.packet(self._session, ticket_id)
        if conversation_id not in {each.id for each in packet.customer.conversations}:
            raise CustomerError(f"conversation {conversation_id} is not one of this customer's")
        await self._desk.customers.unlink(self._session, conversation_id, actor=self.viewer.name, now=self._now)
        self._record("unlinked", ticket_id, conversation=conversation_id)

    async def customer(self, ticket_id: int) -> int:
        """The number of a ticket's customer, for whoever may see and erase all that is kept about him. Raises
        CustomerError where there is none."""
        ticket = await reach(self._session, self.viewer, ticket_id, Permission.PRIVACY, self._now)
        conversation = await get_conversation(self._session, ticket.conversation_id)
        if conversation.customer_id is None:
            raise CustomerError(f"nobody is known by ticket {ticket_id}")
        return int(conversation.customer_id)

    async def kept(self, ticket_id: int) -> Holdings:
        """What is kept about a ticket's customer, in numbers."""
        customer_id = await self.customer(ticket_id)
        self.viewer.require(Permission.PRIVACY)
        return await holdings(self._session, await person_of(self._session, customer_id))

    async def erase(self, ticket_id: int, eraser: Eraser) -> Holdings:
        """Erase a ticket's customer for good; the eraser writes the line of the audit log. Raises LiveTicketsError
        while a ticket of his is open."""
        customer_id = await self.customer(ticket_id)
        self.viewer.require(Permission.PRIVACY)
        return await eraser.erase(self._session, customer_id, by=self.viewer.name, now=self._now, address=self._address)

    async def edit(self, ticket_id: int, message_id: int, text: str) -> None:
        """Change one's own reply. Raises EditRefusedError, which says why not."""
        await self._reach(ticket_id)
        message = await self._session.get(Message, message_id)
        if message is None or message.agent_name != self.viewer.name:
            raise EditRefusedError("only one's own messages can be changed")
        await self._desk.edits.edit(self._session, ticket_id, message_id, text, agent=self.viewer.name)
        self._record("edited", ticket_id, message=message_id)

    async def react(self, ticket_id: int, message_id: int, emoji: str) -> bool:
        """Put an emoji under what the customer wrote; whether that is possible. Raises TicketStateError."""
        await self._reach(ticket_id)
        done = await self._desk.edits.react(self._session, ticket_id, message_id, emoji, agent=self.viewer.name)
        if done is not None:
            self._record("reacted", ticket_id, message=message_id)
        return done is not None

    async def note(self, ticket_id: int, text: str) -> Message:
        """Write what agents alone see. Whom it names with an @ is told, and may look at the ticket and write notes."""
        await reach(self._session, self.viewer, ticket_id, Permission.NOTE, self._now)
        message = await self._desk.note(self._session, ticket_id, text, agent=self.viewer.name)
        called = await self._session.scalars(
            select(Agent.name).join(Mention, Mention.agent_id == Agent.id).where(Mention.message_id == message.id)
        )
        names = ", ".join(sorted(called))
        self._record("noted", ticket_id, **({"mentions": names} if names else {}))
        return message

    # Moving

    async def take(self, ticket_id: int, *, over: int | None = None, why: str = "") -> None:
        """Have it oneself. over: the agent from whom, as the viewer was told by the TicketHeldError that is raised
        when somebody else who is there has it. why: a note."""
        await self._reach(ticket_id)
        me = await get_agent(self._session, self.viewer.agent_id)
        holder = await self._desk.take(self._session, ticket_id, me, by=self.viewer.name, over=over, why=why)
        self._record("took", ticket_id, **({"before": holder.name} if holder else {}))

    async def assign(self, ticket_id: int, name: str, why: str = "") -> None:
        """Give it to a colleague, or back to the queue. Whoever gives it to himself takes it, and is asked as then.
        why: a note for the colleague; the customer hears that he is passed on."""
        ticket = await self._reach(ticket_id)
        if ticket.assignee_id != self.viewer.agent_id:
            self.viewer.require(Permission.DELEGATE)
        to: Agent | None = None
        if name:
            to = await self._session.scalar(select(Agent).where(Agent.name == name, Agent.active))
            if to is None:
                raise TicketNotFoundError(ticket_id)
            if to.id == self.viewer.agent_id:
                await self.take(ticket_id, why=why)
                return
        await self._desk.assign(self._session, ticket_id, to, by=self.viewer.name, why=why)
        self._record("assigned", ticket_id, to=name)

    async def transfer(self, ticket_id: int, topic_id: str, why: str) -> None:
        await self._reach(ticket_id)
        await self._desk.transfer(self._session, ticket_id, topic_id, why=why, agent=self.viewer.name)
        self._record("transferred", ticket_id, topic=topic_id)

    async def escalate(self, ticket_id: int, details: str, urgency: str) -> None:
        await self._reach(ticket_id)
        await self._desk.escalate(self._session, ticket_id, details=details, urgency=urgency, agent=self.viewer.name)
        self._record("escalated", ticket_id)

    async def hold(self, ticket_id: int, task: str, until: datetime | None) -> None:
        await self._reach(ticket_id)
        await self._desk.hold(self._session, ticket_id, task=task, until=until, agent=self.viewer.name)
        self._record("held", ticket_id, task=task)

    async def resume(self, ticket_id: int) -> None:
        await self._reach(ticket_id)
        await self._desk.resume(self._session, ticket_id, agent=self.viewer.name)
        self._record("resumed", ticket_id)

    async def change(
        self, ticket_id: int, *, priority: str | None = None, complexity: int | None = None, subject: str | None = None
    ) -> None:
        ticket = await self._reach(ticket_id)
        await self._desk.tickets.change(
            self._session,
            ticket,
            agent=self.viewer.name,
            now=self._now,
            priority=priority,
            complexity=complexity,
            subject=subject,
        )
        self._record("changed", ticket_id)

    async def finish(self, ticket_id: int, *, seen_id: int | None = None) -> None:
        """seen_id, here and below: the newest message on the screen; None: whatever was said. Raises
        UnseenWordsError."""
        await self._require_read(await self._reach(ticket_id), seen_id)
        await self._desk.finish(self._session, ticket_id, agent=self.viewer.name)
        self._record("finished", ticket_id)

    async def resolve(self, ticket_id: int, *, seen_id: int | None = None) -> None:
        """End it at once; the assistant answers again."""
        await self._require_read(await self._reach(ticket_id), seen_id)
        await self._desk.resolve(self._session, ticket_id, agent=self.viewer.name)
        self._record("resolved", ticket_id)

    async def close(self, ticket_id: int, why: str, *, seen_id: int | None = None) -> None:
        await self._require_read(await self._reach(ticket_id), seen_id)
        await self._desk.close(self._session, ticket_id, why=why, agent=self.viewer.name)
        self._record("closed", ticket_id, why=why)

    async def return_to_assistant(self, ticket_id: int, *, seen_id: int | None = None) -> None:
        """The assistant goes on where it can; the ticket is closed without a resolution."""
        await self._require_read(await self._reach(ticket_id), seen_id)
        await self._desk.return_to_assistant(self._session, ticket_id, agent=self.viewer.name)
        self._record("returned", ticket_id)

    async def start_flow(self, ticket_id: int, flow: str, title: str) -> None:
        """The assistant goes on with this flow; the ticket is closed without a resolution."""
        await self._reach(ticket_id)
        await self._desk.start_flow(self._session, ticket_id, flow, title, agent=self.viewer.name)
        self._record("started_flow", ticket_id, flow=flow)

    async def merge(self, ticket_id: int, into: int) -> None:
        """Close a ticket as a duplicate of another of the same customer, which gets a note of it. Raises
        TicketNotFoundError, TicketStateError (both must be live) and StrangersError."""
        ticket, other = await self._reach(ticket_id), await self._reach(into)
        await lock_tickets(self._session, (ticket_id, into))
        for each in (ticket, other):
            if each.status not in LIVE or ticket.id == other.id:
                raise TicketStateError(each.id, each.status, "merged")
        chats = [await get_conversation(self._session, each.conversation_id) for each in (ticket, other)]
        if chats[0].customer_id is None or chats[0].customer_id != chats[1].customer_id:
            raise StrangersError(ticket_id, into)
        packet = await self._desk.packet(self._session, ticket_id)
        note = f"№ {ticket_id} → № {into}: {packet.subject}\n{packet.summary}"
        await self._desk.note(self._session, into, note, agent=self.viewer.name, calling=False)
        await self._desk.note(self._session, ticket_id, f"→ № {into}", agent=self.viewer.name, calling=False)
        await self._desk.merge(self._session, ticket_id, into, agent=self.viewer.name)
        self._record("merged", ticket_id, into=into)

    async def act_on_one_of_many(self, ticket_id: int, act: str, to: str, *, seen_id: int | None = None) -> None:
        """A bulk action: `take`, `assign`, `finish`, `resolve` or `close`. Raises HandoffError."""
        self.viewer.require(Permission.ANSWER if act == "take" else Permission.DELEGATE)
        match act:
            case "take":
                await self.take(ticket_id)
            case "assign":
                await self.assign(ticket_id, to)
            case "finish":
                await self.finish(ticket_id, seen_id=seen_id)
            case "resolve":
                await self.resolve(ticket_id, seen_id=seen_id)
            case "close":
                await self.close(ticket_id, to or "closed with others", seen_id=seen_id)
            case _:
                raise AccessError(self.viewer.name, act)

    async def reopen(self, ticket_id: int) -> None:
        await self._reach(ticket_id)
        await self._desk.reopen(self._session, ticket_id, agent=self.viewer.name)
        self._record("reopened", ticket_id)

    # Inside

    async def _reach(self, ticket_id: int) -> Ticket:
        return await reach(self._session, self.viewer, ticket_id, Permission.ANSWER, self._now)

    async def _require_read(self, ticket: Ticket, seen_id: int | None) -> None:
        if seen_id is None:
            return
        await lock_conversation(self._session, ticket.conversation_id)
        newest = await self._session.scalar(
            select(func.max(Message.id)).where(
                Message.conversation_id == ticket.conversation_id,
                Message.author == Author.CUSTOMER,
                Message.kind.not_in([NOTE, "reaction", "edit", "deletion"]),
                Message.id > seen_id,
            )
        )
        if newest is not None:
            raise UnseenWordsError(ticket.id, newest)

    def _record(self, action: str, ticket_id: int | None = None, **details: Any) -> None:
        self._accounts.record(
            self._session, self.viewer.name, action, ticket_id=ticket_id, details=details, address=self._address
        )
