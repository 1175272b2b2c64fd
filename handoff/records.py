"""The tables of conversations, messages, attachments and tickets."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from handoff.clocks import ClockKind
from handoff.lifecycle import LIVE, TicketStatus
from handoff.outcomes import Step

StoredJson = JSON().with_variant(JSONB(), "postgresql")
BigId = Annotated[int, mapped_column(BigInteger().with_variant(Integer(), "sqlite"))]
"""Ids of tables that grow without end. SQLite numbers rows by itself for its own INTEGER alone, which has 64 bits."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC moment. SQLite drops the zone, so it is put back on reading; a naive value is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone can't be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    # Names for every constraint, so that a migration can drop one; enumerations as their plain values, so that a new
    # value needs no migration.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime(),
        dict[str, Any]: StoredJson,
        list[Any]: StoredJson,
        StrEnum: Enum(
            StrEnum,
            native_enum=False,
            create_constraint=False,
            length=32,
            values_callable=lambda kind: [member.value for member in kind],
        ),
    }


class Owner(StrEnum):
    """Who may speak to the customer. Every change of owner begins a new epoch."""

    ASSISTANT = "assistant"
    PERSON = "person"


class Author(StrEnum):
    CUSTOMER = "customer"
    ASSISTANT = "assistant"
    AGENT = "agent"
    SYSTEM = "system"
    """The program itself, to the agents: only ever in notes."""


NOTE = "note"
"""Kind of a message that is written for the agents, and is never sent to the customer or shown to him."""


TEMPLATE = "template"
"""Kind of a message that the platform approved beforehand; which one stands in its `decision`."""


class Reason(StrEnum):
    """Why the assistant gave up."""

    ASKED_FOR_PERSON = "asked_for_person"
    LOW_CONFIDENCE = "low_confidence"
    REJECTED_ANSWER = "rejected_answer"
    SENSITIVE = "sensitive"
    COMPLAINT = "complaint"
    ERROR = "error"
    UNDELIVERED = "undelivered"
    """The answer was given, and did not reach the customer."""
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    """A person answered from the company's own phone, past the desk."""
    SHADOW = "shadow"
    """The assistant knows an answer and only drafts it: people want to send those of this topic themselves."""


class Delivery(StrEnum):
    """What became of a message to the customer."""

    QUEUED = "queued"
    SENDING = "sending"
    """The platform is being called, or was when a process died."""
    HELD = "held"
    """The platform's window is closed, or the customer can't be reached: it goes out when that is over."""
    SENT = "sent"
    """The platform took it."""
    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"
    DISCARDED = "discarded"
    """Computed before the ownership changed, and therefore never sent."""


class Conversation(Base):
    """One customer in one channel."""

    __tablename__ = "conversations"
    __table_args__ = (UniqueConstraint("channel", "account", "chat_id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    account: Mapped[str] = mapped_column(String(64), default="")
    chat_id: Mapped[str] = mapped_column(String(128))
    customer_name: Mapped[str | None] = mapped_column(String(200))
    customer_id: Mapped[BigId | None] = mapped_column(index=True)
    """Known from the first handoff on. No constraint: SQLite could add it to this table, which most others refer to,
    only by making the table anew."""
    lang: Mapped[str | None] = mapped_column(String(8))
    owner: Mapped[Owner] = mapped_column(default=Owner.ASSISTANT)
    epoch: Mapped[int] = mapped_column(default=0)
    state: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What the assistant remembers between turns; `bot.dialogue.DialogueState` as JSON."""
    blocked_at: Mapped[datetime | None]
    """Since when the customer can't be reached, because he blocked us or left. What is for him is held."""
    blocked_why: Mapped[str | None] = mapped_column(Text)
    erased_at: Mapped[datetime | None]
    """When everything that was said in it was taken out, and who said it. Nothing is said in it any more."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Message(Base):
    """One message of a transcript, by whomever it was written. `id` gives the order within a conversation."""

    __tablename__ = "messages"
    __table_args__ = (
        Index("ix_messages_conversation", "conversation_id", "id"),
        # All that a report reads of a message lies in the index.
        Index(
            "ix_messages_steps",
            "created_at",
            "conversation_id",
            "step",
            "topic",
            sqlite_where=text("step IS NOT NULL"),
            postgresql_where=text("step IS NOT NULL"),
        ),
        Index(
            "ix_messages_external",
            "external_id",
            sqlite_where=text("external_id IS NOT NULL"),
            postgresql_where=text("external_id IS NOT NULL"),
        ),
        Index(
            "ix_messages_changed",
            "changed_at",
            sqlite_where=text("changed_at IS NOT NULL"),
            postgresql_where=text("changed_at IS NOT NULL"),
        ),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"))
    author: Mapped[Author]
    agent_name: Mapped[str | None] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(32), default="text")
    text: Mapped[str] = mapped_column(Text, default="")
    options: Mapped[list[Any]] = mapped_column(default=list)
    """Choices shown with it: [{"token", "label"}]."""
    decision: Mapped[dict[str, Any] | None]
    """All that the assistant knew when it answered: intent, confidence, hits, thresholds, rule, model version."""
    step: Mapped[Step | None]
    """Of the assistant's messages: what it did for the customer; none for small talk and announcements."""
    topic: Mapped[str | None] = mapped_column(String(64))
    """What a step was about, where that is known."""
    reply_to_id: Mapped[BigId | None]
    """The message of this conversation that it quotes, or of a reaction the one that it is put under."""
    context: Mapped[dict[str, Any] | None]
    """What else the platform told: quote (the words that are quoted), forwarded, album, referral …"""
    external_id: Mapped[str | None] = mapped_column(String(128))
    """The platform's id of it; of a message that went out in parts, the last one's."""
    delivery: Mapped[Delivery | None]
    delivery_error: Mapped[str | None] = mapped_column(Text)
    parts_sent: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of a long message that is held: how many of its parts went out before. The others follow."""
    """The platform's reason for the last refusal."""
    repeats: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often it was sent again without knowing whether it had arrived, because a process died while sending."""
    edits: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    """What it said before its author edited it: [{"text", "at"}], the oldest first."""
    deleted_at: Mapped[datetime | None]
    """When the customer took it back. Its text stays, for the agent."""
    changed_at: Mapped[datetime | None]
    """When it was last edited or taken back, by this program's clock."""
    sent_at: Mapped[datetime]
    """The sender's own time where the platform tells it."""
    created_at: Mapped[datetime]

    attachments: Mapped[list[Attachment]] = relationship(lazy="selectin", order_by="Attachment.id")


class AttachmentState(StrEnum):
    STORED = "stored"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    REFERENCE = "reference"
    """Nothing to fetch: a location, a contact."""
    ERASED = "erased"
    """It was kept, until its customer was erased."""


class Attachment(Base):
    """A file that came with a message. The bytes lie in `OTVET_VAR/attachments`, named by their SHA-256."""

    __tablename__ = "attachments"

    id: Mapped[BigId] = mapped_column(primary_key=True)
    message_id: Mapped[BigId] = mapped_column(ForeignKey("messages.id"), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[AttachmentState]
    file_name: Mapped[str | None] = mapped_column(String(255))
    mime_type: Mapped[str | None] = mapped_column(String(127))
    size_bytes: Mapped[BigId | None]
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    source: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The platform's own reference, and what needs no file (coordinates, a phone number)."""


class Feedback(StrEnum):
    """What the customer said of a person's help."""

    HELPED = "helped"
    NOT_HELPED = "not_helped"


class Presence(StrEnum):
    AUTO = "auto"
    """On duty whenever the agent's schedule says so."""
    ONLINE = "online"
    AWAY = "away"
    OFFLINE = "offline"


class Agent(Base):
    """A person who answers."""

    __tablename__ = "agents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    """As customers see it."""
    level: Mapped[str] = mapped_column(String(16), default="L1")
    teams: Mapped[list[Any]] = mapped_column(default=list)
    langs: Mapped[list[Any]] = mapped_column(default=list)
    """The languages he answers in; empty: any."""
    capacity: Mapped[int] = mapped_column(default=10)
    """How many tickets he may have to act on at once."""
    schedule: Mapped[str] = mapped_column(String(64), default="default")
    presence: Mapped[Presence] = mapped_column(default=Presence.AUTO)
    presence_at: Mapped[datetime | None]
    """When it was set by hand; online and away last until the shift ends (`handoff.presence`)."""
    notify: Mapped[list[Any]] = mapped_column(default=list)
    """Apprise addresses. They carry secrets: shown to nobody."""
    notify_events: Mapped[list[Any] | None]
    """Of what he is told; None: of what desk.yml says."""
    quiet: Mapped[str | None] = mapped_column(String(16))
    """`22:00-08:00` in his own time: he is told afterwards."""
    zone: Mapped[str | None] = mapped_column(String(64))
    """His time zone; None: his schedule's."""
    active: Mapped[bool] = mapped_column(default=True)
    last_assigned_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class TeamNotify(Base):
    """Where a team is told what concerns all of it; team `*`: whatever the team."""

    __tablename__ = "team_notify"

    team: Mapped[str] = mapped_column(String(64), primary_key=True)
    addresses: Mapped[list[Any]] = mapped_column(default=list)
    """Apprise addresses, as an agent's."""


class Customer(Base):
    """One person, whatever channels he writes in."""

    __tablename__ = "customers"

    id: Mapped[BigId] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(200))
    segment: Mapped[str | None] = mapped_column(String(32))
    """`vip`, `business` or whatever desk.yml names."""
    phone: Mapped[str | None] = mapped_column(String(32), index=True)
    """E.164: proved by the platform, or written by an agent. Which of them, `Contact` tells."""
    email: Mapped[str | None] = mapped_column(String(254), index=True)
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime]


class CustomerLink(Base):
    """That a conversation was found to be another customer's, so that it can be undone."""

    __tablename__ = "customer_links"

    id: Mapped[BigId] = mapped_column(primary_key=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"), index=True)
    from_customer_id: Mapped[BigId | None] = mapped_column(ForeignKey("customers.id"))
    to_customer_id: Mapped[BigId] = mapped_column(ForeignKey("customers.id"))
    how: Mapped[str] = mapped_column(String(16))
    """`phone`, `email` or `hand`."""
    actor: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    undone_at: Mapped[datetime | None]
    filled: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Fields that the customer lacked and got from the other: taken back with the link."""


class ContactKind(StrEnum):
    PHONE = "phone"
    EMAIL = "email"


class Contact(Base):
    """A number or an address that was learnt in a conversation. It stays with the conversation when links change."""

    __tablename__ = "contacts"
    __table_args__ = (UniqueConstraint("conversation_id", "kind", "value"), Index("ix_contacts_value", "value"))

    id: Mapped[BigId] = mapped_column(primary_key=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"))
    kind: Mapped[ContactKind]
    value: Mapped[str] = mapped_column(String(254))
    """E.164, or an address in small letters."""
    verified: Mapped[bool]
    """The platform vouches for it, or a code that was sent there was repeated. False: somebody typed it."""
    at: Mapped[datetime]


_LIVE_SQL = text(f"status IN ({', '.join(repr(status.value) for status in sorted(LIVE))})")


class Ticket(Base):
    """What the assistant could not settle. The number that the customer is told is `id`."""

    __tablename__ = "tickets"
    __table_args__ = (
        Index("ix_tickets_status", "status", "created_at"),
        Index("ix_tickets_created", "created_at"),
        Index("ix_tickets_conversation", "conversation_id", "resolved_at"),
        Index("ix_tickets_assignee", "assignee_id", "status"),
        Index("ix_tickets_topic", "topic", "status", "created_at"),
        # All that the numbers beside the views are counted from.
        Index("ix_tickets_piles", "status", "team", "assignee_id"),
        # One live ticket for a conversation, whatever the code does.
        Index("uq_tickets_live", "conversation_id", unique=True, sqlite_where=_LIVE_SQL, postgresql_where=_LIVE_SQL),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"))
    status: Mapped[TicketStatus] = mapped_column(default=TicketStatus.NEW)
    reason: Mapped[Reason]
    topic: Mapped[str] = mapped_column(String(64))
    topic_confidence: Mapped[float | None]
    """A probability; none where only keywords spoke, which give a score."""
    topic_score: Mapped[float | None]
    """The topic's share of the keywords found, where nothing could tell a probability."""
    runner_up: Mapped[str | None] = mapped_column(String(64))
    runner_up_confidence: Mapped[float | None]
    runner_up_score: Mapped[float | None]
    routed_by: Mapped[str] = mapped_column(String(16))
    """`intent`, `classifier`, `article`, `keywords` or `default`."""
    team: Mapped[str] = mapped_column(String(64))
    level: Mapped[str] = mapped_column(String(16))
    priority: Mapped[str] = mapped_column(String(16))
    lang: Mapped[str] = mapped_column(String(8))
    segment: Mapped[str | None] = mapped_column(String(32))
    complexity: Mapped[int | None]
    """1 to 3, set by the agent."""
    subject: Mapped[str] = mapped_column(String(200))
    """The customer's own words that it is about, shortened."""
    assignee_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id"))
    preferred_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id"))
    """Who had it before, or the customer's last one: he knows the story."""
    given_away: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    """Ids of agents who passed it on in its present team: it comes back to them only while nobody else is there."""
    promised_at: Mapped[datetime]
    """By when the customer was told that a person will answer."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    first_reply_at: Mapped[datetime | None]
    hold_task: Mapped[str | None] = mapped_column(String(500))
    """What it waits for: a link or a name of a task elsewhere."""
    hold_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    """The agent's last word, after which the customer is asked whether it helped."""
    asked_at: Mapped[datetime | None]
    """When the customer was asked. Once for a ticket, and again only after it was reopened."""
    feedback: Mapped[Feedback | None]
    resolved_at: Mapped[datetime | None]
    reopened: Mapped[int] = mapped_column(default=0, server_default="0")
    merged_into: Mapped[BigId | None]
    """Closed as a duplicate of that one: what becomes of the matter is counted from there."""

    conversation: Mapped[Conversation] = relationship(lazy="raise")


class HistoryEntry(Base):
    """One thing that happened to a ticket: who did what, and when. Never changed, but that the words of an erased
    customer are taken out."""

    __tablename__ = "ticket_history"
    __table_args__ = (Index("ix_ticket_history_ticket", "ticket_id", "id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"))
    at: Mapped[datetime]
    event: Mapped[str] = mapped_column(String(32))
    """A `TicketEvent`, or `created`, `assigned`, `unassigned`, `transferred`, `escalated`, `changed`, `warned`,
    `breached`, `linked`, `unlinked` (the customer), `moved` (to another conversation of his)."""
    actor: Mapped[str] = mapped_column(String(200))
    """An agent's name, or `assistant`, `customer`, `system`."""
    status: Mapped[TicketStatus]
    """The status after it."""
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Mention(Base):
    """That a note calls an agent. It counts for him until he has looked at the ticket."""

    __tablename__ = "mentions"
    __table_args__ = (Index("ix_mentions_agent", "agent_id", "seen_at"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"))
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"))
    message_id: Mapped[BigId] = mapped_column(ForeignKey("messages.id"))
    at: Mapped[datetime]
    seen_at: Mapped[datetime | None]


class ClockRow(Base):
    """One of a ticket's clocks: `handoff.clocks.Clock` with the moment at which somebody has to look."""

    __tablename__ = "ticket_clocks"
    __table_args__ = (
        Index("ix_ticket_clocks_look", "look_at"),
        Index("ix_ticket_clocks_due", "due_at"),
        Index("ix_ticket_clocks_running", "kind", "running_since"),
    )

    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"), primary_key=True)
    kind: Mapped[ClockKind] = mapped_column(primary_key=True)
    target_seconds: Mapped[int]
    used_seconds: Mapped[float] = mapped_column(default=0.0)
    running_since: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    """None while it stands."""
    look_at: Mapped[datetime | None]
    """The next warning, breach or escalation; none while it stands or when the last was said."""
    raised: Mapped[int] = mapped_column(default=0)
    """How far it has gone: 1 warned, 2 breached, more: escalated so many times after that."""
