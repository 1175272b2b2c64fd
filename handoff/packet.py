"""The handoff packet: all that a person needs to go on, as one document whose schema is published.

docs/packet.schema.json is made from these classes, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.clocks import ClockKind
from handoff.customers import Customers, links_of
from handoff.history import history
from handoff.lifecycle import TicketStatus
from handoff.records import (
    NOTE,
    Agent,
    AttachmentState,
    Author,
    ClockRow,
    Contact,
    ContactKind,
    Conversation,
    Customer,
    Delivery,
    Feedback,
    HistoryEntry,
    Message,
    Owner,
    Reason,
    Ticket,
)
from handoff.ticket_clocks import clock_of
from handoff.tickets import Tickets
from handoff.window import closes_at

SUMMARY_CHARS = 160
EARLIER_TICKETS = 20
ELSEWHERE_MESSAGES = 20
ELSEWHERE_FOR = timedelta(days=7)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class PacketAttachment(_Document):
    id: int = Field(description="By which the web desk fetches it.")
    kind: str
    state: AttachmentState
    file_name: str | None
    mime_type: str | None
    size_bytes: int | None
    sha256: str | None = Field(description="Names the stored file; none where there is no file.")
    source: dict[str, Any]


class PacketMessage(_Document):
    id: int
    conversation_id: int = Field(description="Another than the ticket's where it began in another channel.")
    at: datetime = Field(description="The sender's own time where the platform tells it.")
    author: Author
    agent_name: str | None
    kind: str = Field(description="text, choice, attachment …; note: written for agents alone.")
    text: str
    reply_to_id: int | None = Field(description="The message that it quotes, or that a reaction is put under.")
    context: dict[str, Any] | None = Field(description="quote (the words quoted), forwarded, album, referral …")
    options: list[dict[str, Any]]
    decision: dict[str, Any] | None = Field(description="What the assistant knew: intent, confidence, hits, rule.")
    delivery: Delivery | None
    delivery_error: str | None
    edits: list[dict[str, Any]]
    deleted_at: datetime | None
    changed_at: datetime | None = Field(description="When it was last edited or taken back.")
    attachments: list[PacketAttachment]


class Attempt(_Document):
    """Something that the assistant tried in this episode."""

    at: datetime
    action: Literal["answer", "clarify"]
    articles: list[str]
    pressed: str | None = Field(description="The button that the customer pressed on it, as he saw it.")


class PacketSlot(_Document):
    name: str
    label: str
    value: str


class PacketFlow(_Document):
    """How far the assistant's steps had come, and what they know."""

    flow: str
    title: str
    step: str = Field(description="The step that the customer was at.")
    slots: list[PacketSlot]
    note: str = Field("", description="What the flow itself tells the agent.")


class PacketClock(_Document):
    kind: ClockKind
    target_seconds: int
    used_seconds: int = Field(description="Working time that people used; the assistant's is in no clock.")
    due_at: datetime | None = Field(description="None while it stands.")
    done_at: datetime | None
    breached: bool


class PacketConversation(_Document):
    id: int
    channel: str
    account: str
    chat_id: str
    customer_name: str | None
    lang: str | None
    owner: Owner
    epoch: int
    blocked_at: datetime | None = Field(description="Since when the customer can't be reached: what is sent waits.")
    blocked_why: str | None
    erased_at: datetime | None = Field(default=None, description="When everything that was said in it was taken out.")
    window_closes_at: datetime | None = Field(
        default=None, description="Until when the customer may be written to freely; none where there is no limit."
    )


class EarlierTicket(_Document):
    ticket_id: int
    conversation_id: int
    channel: str
    status: TicketStatus
    topic: str
    subject: str
    feedback: Feedback | None
    created_at: datetime


class CustomerContact(_Document):
    kind: ContactKind
    value: str
    verified: bool = Field(description="The platform vouches for it; otherwise somebody typed it.")
    conversation_id: int


class SamePerson(_Document):
    """Another customer who may be the same person: for an agent to decide."""

    customer_id: int
    name: str | None
    kind: ContactKind
    value: str


class CardLink(_Document):
    """That a conversation came from another customer, or went back to him."""

    conversation_id: int
    from_customer_id: int | None
    to_customer_id: int
    how: str = Field(description="phone or hand.")
    actor: str
    at: datetime
    undone_at: datetime | None


class CustomerCard(_Document):
    id: int | None
    name: str | None
    segment: str | None
    phone: str | None
    email: str | None
    note: str
    conversations: list[PacketConversation] = Field(description="All channels in which he writes.")
    tickets: list[EarlierTicket] = Field(description="Earlier ones, the newest first.")
    contacts: list[CustomerContact] = Field(description="Numbers and addresses, over all channels.")
    links: list[CardLink] = Field(description="What was linked to him and taken from him, the oldest first.")
    suggestions: list[SamePerson] = Field(description="Who may be the same person, by something typed only.")


class HistoryLine(_Document):
    at: datetime
    event: str
    actor: str
    status: TicketStatus
    details: dict[str, Any]


class Packet(_Document):
    schema_version: Literal[1] = 1
    ticket_id: int
    status: TicketStatus
    reason: Reason
    topic: str
    topic_confidence: float | None = Field(description="The probability that the topic is right, 0..1.")
    topic_score: float | None = Field(
        description="Where only keywords spoke: the topic's share of those found, 0..1, which is no probability."
    )
    runner_up: str | None
    runner_up_confidence: float | None
    runner_up_score: float | None
    routed_by: str = Field(description="intent, classifier, article, keywords, default or agent.")
    direction: str | None = Field(description="The line of business, where topics.yml names one for the topic.")
    team: str
    level: str
    priority: str
    out_of_hours: bool = Field(description="The team was not at work when it was handed over.")
    segment: str | None
    complexity: int | None
    lang: str
    subject: str
    summary: str
    assignee: str | None
    reopened: int
    feedback: Feedback | None
    hold_task: str | None
    hold_until: datetime | None
    created_at: datetime
    promised_at: datetime
    first_reply_at: datetime | None
    resolved_at: datetime | None
    conversation: PacketConversation
    customer: CustomerCard
    tried: list[Attempt]
    flow: PacketFlow | None = Field(description="Set when the assistant's steps were handed over.")
    pressed: list[str] = Field(description="The buttons that the customer pressed, as he saw them.")
    clocks: list[PacketClock]
    history: list[HistoryLine]
    transcript: list[PacketMessage]
    elsewhere: list[PacketMessage] = Field(
        description="What was said lately in the customer's other conversations, the oldest first; no notes."
    )

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


async def packet(session: AsyncSession, ticket_id: int, tickets: Tickets, *, now: datetime) -> Packet:
    """The packet of a ticket as it is now. Raises TicketNotFoundError."""
    ticket = await desk.get_ticket(session, ticket_id)
    conversation = await desk.get_conversation(session, ticket.conversation_id)
    past = await history(session, [ticket.id])
    messages = await _messages(session, conversation.id, past)
    clocks = await session.scalars(select(ClockRow).where(ClockRow.ticket_id == ticket.id).order_by(ClockRow.kind))
    hours = tickets.policy.hours_of(ticket.team)
    closing = await closes_at(
        session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
    )
    assignee = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
    episode = await _episode(session, ticket, messages)
    tried, pressed = _tried(episode), [message.text for message in episode if message.kind == "choice"]
    columns = {name: getattr(ticket, name) for name in Packet.model_fields if name in Ticket.__table__.columns}
    return Packet(
        **columns,
        ticket_id=ticket.id,
        direction=tickets.topics.get(ticket.topic).direction or None,
        out_of_hours=not hours.contains(ticket.created_at),
        summary=_summary(ticket, episode, tried),
        assignee=assignee.name if assignee else None,
        conversation=_conversation(conversation).model_copy(update={"window_closes_at": closing}),
        customer=await _card_of(session, ticket, conversation, tickets),
        tried=tried,
        pressed=pressed,
        flow=_flow(ticket, episode),
        clocks=[
            PacketClock(
                kind=row.kind,
                target_seconds=row.target_seconds,
                used_seconds=int(clock_of(row).used_at(now, hours).total_seconds()),
                due_at=row.due_at,
                done_at=row.done_at,
                breached=clock_of(row).breached(now, hours),
            )
            for row in clocks
        ],
        history=[HistoryLine.model_validate(entry) for entry in past],
        transcript=[_message(message) for message in messages],
        elsewhere=[_message(message) for message in await _elsewhere(session, conversation, messages, now)],
    )


async def _messages(session: AsyncSession, conversation_id: int, past: Sequence[HistoryEntry]) -> list[Message]:
    """The transcript; of a ticket that moved, with those of the conversations where it was before."""
    were = {int(entry.details["left"]) for entry in past if entry.event == "moved"}
    found = [m for each in sorted({conversation_id, *were}) for m in await desk.transcript(session, each)]
    return sorted(found, key=lambda message: message.id)


async def _elsewhere(
    session: AsyncSession, conversation: Conversation, shown: Sequence[Message], now: datetime
) -> Sequence[Message]:
    """The newest messages of the customer's other conversations, of people and of the assistant alike."""
    if conversation.customer_id is None:
        return ()
    places = {conversation.id, *(message.conversation_id for message in shown)}
    rows = await session.scalars(
        select(Message)
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(
            Conversation.customer_id == conversation.customer_id,
            Conversation.id.not_in(places),
            Message.created_at > now - ELSEWHERE_FOR,
            Message.kind != NOTE,
        )
        .order_by(Message.id.desc())
        .limit(ELSEWHERE_MESSAGES)
    )
    return rows.all()[::-1]


async def _episode(session: AsyncSession, ticket: Ticket, messages: Sequence[Message]) -> list[Message]:
    """What was said since the ticket before this one ended, and since the customer was last silent for a day."""
    places = {message.conversation_id for message in messages}
    rows = await session.execute(
        select(Ticket.conversation_id, func.max(Ticket.resolved_at))
        .where(Ticket.conversation_id.in_(places), Ticket.id < ticket.id)
        .group_by(Ticket.conversation_id)
    )
    since = {row[0]: row[1] for row in rows if row[1] is not None}
    later = [m for m in messages if m.conversation_id not in since or m.created_at > since[m.conversation_id]]
    spoken: dict[int, list[datetime]] = {place: [] for place in places}
    for message in reversed(later):
        if message.author is Author.CUSTOMER and message.created_at <= ticket.created_at:
            spoken[message.conversation_id].append(message.created_at)
    begin = {place: desk.began_at(moments, ticket.created_at) for place, moments in spoken.items()}
    return [m for m in later if m.created_at >= begin[m.conversation_id]]


def _tried(messages: Sequence[Message]) -> list[Attempt]:
    attempts: list[Attempt] = []
    for position, message in enumerate(messages):
        decided = message.decision or {}
        action = decided.get("action")
        if message.author is not Author.ASSISTANT or action not in ("answer", "clarify"):
            continue
        articles = decided.get("articles") or ([decided["article_id"]] if decided.get("article_id") else [])
        if not articles:
            continue
        answer = next((later for later in messages[position + 1 :] if later.author is Author.CUSTOMER), None)
        pressed = answer.text if answer is not None and answer.kind == "choice" else None
        attempts.append(Attempt(at=message.sent_at, action=action, articles=articles, pressed=pressed))
    return attempts


def _flow(ticket: Ticket, messages: Sequence[Message]) -> PacketFlow | None:
    decided = (message.decision or {} for message in reversed(messages))
    found = (each.get("flow") for each in decided if each.get("ticket_id") == ticket.id)
    return next((PacketFlow.model_validate(each) for each in found if isinstance(each, dict)), None)


WORDS = {
    "ru": ("Клиент: {said}.", "Ассистент показал: {articles}.", "Файлов: {files}.", "«{text}»"),
    "en": ("Customer: {said}.", "The assistant showed: {articles}.", "Files: {files}.", "“{text}”"),
}


def _summary(ticket: Ticket, messages: Sequence[Message], tried: Sequence[Attempt]) -> str:
    """The customer's most telling words, what was tried, and how many files there are."""
    said, shown, attached, quoted = WORDS["ru" if ticket.lang == "ru" else "en"]
    texts = [
        " ".join(message.text.split())
        for message in messages
        if message.author is Author.CUSTOMER and message.kind in ("text", "attachment") and message.text.strip()
    ]
    telling = sorted(range(len(texts)), key=lambda n: -len(texts[n]))[:2]
    parts = [said.format(said=", ".join(quoted.format(text=_short(texts[n])) for n in sorted(telling)) or "–")]
    if tried:
        parts.append(shown.format(articles=", ".join(dict.fromkeys(a for attempt in tried for a in attempt.articles))))
    files = sum(len(message.attachments) for message in messages if message.author is Author.CUSTOMER)
    if files:
        parts.append(attached.format(files=files))
    return " ".join(parts)


def _short(text: str) -> str:
    return text if len(text) <= SUMMARY_CHARS else text[: SUMMARY_CHARS - 1].rstrip() + "…"


async def _card_of(session: AsyncSession, ticket: Ticket, conversation: Conversation, tickets: Tickets) -> CustomerCard:
    if conversation.customer_id is None:
        return await _card(session, None, [conversation], tickets, ticket.id)
    customer = await session.get_one(Customer, conversation.customer_id)
    return await customer_card(session, customer, tickets, present=ticket.id)


async def customer_card(
    session: AsyncSession, customer: Customer, tickets: Tickets, *, present: int | None = None
) -> CustomerCard:
    """All that is known of a customer. present: the ticket that it is shown with, which is not an earlier one."""
    found = await session.scalars(
        select(Conversation).where(Conversation.customer_id == customer.id).order_by(Conversation.id)
    )
    return await _card(session, customer, found.all(), tickets, present)


async def _card(
    session: AsyncSession,
    customer: Customer | None,
    theirs: Sequence[Conversation],
    tickets: Tickets,
    present: int | None,
) -> CustomerCard:
    channels = {row.id: row.channel for row in theirs}
    earlier = await session.scalars(
        select(Ticket)
        .where(Ticket.conversation_id.in_(channels), Ticket.id != (present or 0))
        .order_by(Ticket.id.desc())
        .limit(EARLIER_TICKETS)
    )
    contacts = await session.scalars(
        select(Contact).where(Contact.conversation_id.in_(channels)).order_by(Contact.verified.desc(), Contact.id)
    )
    same = await Customers(tickets).suggestions(session, customer.id) if customer else []
    links = await links_of(session, customer.id) if customer else ()
    return CustomerCard(
        links=[CardLink.model_validate(row) for row in links],
        contacts=[CustomerContact.model_validate(row) for row in contacts],
        suggestions=[SamePerson.model_validate(row) for row in same],
        id=customer.id if customer else None,
        name=(customer.name if customer else None) or next((c.customer_name for c in theirs if c.customer_name), None),
        segment=customer.segment if customer else None,
        phone=customer.phone if customer else None,
        email=customer.email if customer else None,
        note=customer.note if customer else "",
        conversations=[_conversation(row) for row in theirs],
        tickets=[
            EarlierTicket(
                ticket_id=row.id,
                conversation_id=row.conversation_id,
                channel=channels[row.conversation_id],
                status=row.status,
                topic=row.topic,
                subject=row.subject,
                feedback=row.feedback,
                created_at=row.created_at,
            )
            for row in earlier
        ],
    )


def _conversation(row: Conversation) -> PacketConversation:
    return PacketConversation.model_validate(row)


def _message(message: Message) -> PacketMessage:
    fields = {name: getattr(message, name) for name in PacketMessage.model_fields if name in Message.__table__.columns}
    attachments = [PacketAttachment.model_validate(item) for item in message.attachments]
    return PacketMessage(**{**fields, "at": message.sent_at, "attachments": attachments})
